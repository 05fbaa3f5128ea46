//! The doors through which other programs reach this host: decode -> one op -> encode.

pub mod agent_check;
pub mod api;
mod certificate;
pub mod metrics;
pub mod serve;
mod upload;
