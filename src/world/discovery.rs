//! A source that lists the hosts of a fleet.

use std::time::Duration;

use async_trait::async_trait;

use crate::model::discovery::FoundHost;
use crate::model::duration;

/// Why a source does not list its hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostSourceError {
    #[error("{reason}")]
    Unreachable { reason: String },
    #[error("no answer within {}", duration::format(*.waited))]
    TimedOut { waited: Duration },
    /// The source answers with an error, such as an ACL token that is not valid.
    #[error("{reason}")]
    Refused { reason: String },
}

/// A source of hosts.
#[async_trait]
pub trait HostSource: Send + Sync {
    /// The hosts that it lists now. Bounded in time by the adapter.
    async fn list(&self) -> Result<Vec<FoundHost>, HostSourceError>;
}
