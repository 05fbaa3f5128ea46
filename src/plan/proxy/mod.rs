//! What happens to a request at layer 7: who answers it, who gets a copy. Numbers and times come as arguments.

pub mod breaker;
pub mod canary;
pub mod gateway;
pub mod headers;
pub mod request_filter;
pub mod sampler;
