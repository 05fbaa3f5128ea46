//! Decisions on a request at layer 7: which version answers it, which ones get a copy. Numbers and times come as arguments.

pub mod breaker;
pub mod canary;
pub mod control_frames;
pub mod gateway;
pub mod headers;
pub mod request_filter;
pub mod sampler;
