//! Asking a real port whether it is healthy.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::health::Health;

/// Why one probe does not count as healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    #[error("cannot connect to {address}: {why}")]
    NoConnection { address: SocketAddr, why: String },
    #[error("no answer from {address} within {}", crate::model::duration::show(*.waited))]
    Silent { address: SocketAddr, waited: Duration },
    #[error("{address}{path} answered {found}, expected {expected}")]
    Status { address: SocketAddr, path: String, found: u16, expected: u16 },
    #[error("{address} did not answer in HTTP: {why}")]
    Garbled { address: SocketAddr, why: String },
}

#[async_trait]
pub trait Probe: Send + Sync {
    /// One GET, no redirect followed, no proxy used.
    async fn ask(&self, address: SocketAddr, health: &Health) -> Result<(), Unhealthy>;
}
