//! The doors through which other programs reach this host: decode -> one op -> encode.

pub mod agent_check;
pub mod api;
pub mod metrics;
pub mod serve;
mod upload;
