//! Health probes of a real port.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::health::Health;

/// Why one probe does not count as healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot connect to {address}: {reason}")]
    NoConnection { address: SocketAddr, reason: String },
    #[error("no answer from {address} within {}", crate::model::duration::format(*.waited))]
    TimedOut { address: SocketAddr, waited: Duration },
    #[error("{address}{path} answered {found}, expected {expected}")]
    Status { address: SocketAddr, path: String, found: u16, expected: u16 },
    #[error("{address} did not answer in HTTP: {reason}")]
    Malformed { address: SocketAddr, reason: String },
}

#[async_trait]
pub trait Probe: Send + Sync {
    /// Sends one GET. Follows no redirect and uses no proxy.
    async fn check(&self, address: SocketAddr, health: &Health) -> Result<(), ProbeError>;
}
