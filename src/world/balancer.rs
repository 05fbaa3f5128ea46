//! Reading a load balancer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::balancer::{BackendView, BalancerSpec, ServerLine};
use crate::model::plural::Count;

/// Why a load balancer's state is not known. Not known is never UP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BalancerError {
    #[error("no connection to `{address}`: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("no answer from `{address}` within {}", crate::model::duration::format(*.waited))]
    TimedOut { address: String, waited: Duration },
    #[error("the answer from `{address}` ended early, after {}", Count(.received, "byte"))]
    Truncated { address: String, received: usize },
    #[error("the answer from `{address}` is not HAProxy statistics: {reason}")]
    Malformed { address: String, reason: String },
    #[error("`{address}` answered HTTP status {status}")]
    Refused { address: String, status: u16 },
    #[error(
        "`{address}` is the master CLI of HAProxy (`-S`), which has no statistics, and not its `stats socket`"
    )]
    MasterCli { address: String },
    #[error("`{address}` has no backend `{backend}`")]
    NoBackend { address: String, backend: String },
    #[error("the backend `{backend}` at `{address}` has no server `{server}`")]
    NoServer { address: String, backend: String, server: String },
    #[error(
        "`{backend}/{server}` at `{address}` is DOWN since its idle connections were closed, and was not UP again within {}",
        crate::model::duration::format(*.waited)
    )]
    NotUpAfterFlush { address: String, backend: String, server: String, waited: Duration },
}

/// The result of a request to a balancer to close its idle connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlushResult {
    Closed,
    /// Closed as well, but the server was DOWN after it and has come UP again since: HAProxy 3.1 and later with `init-state
    /// down` or `fully-down` (configuration manual, 5.2). Another flush would take it DOWN again.
    ClosedAndRestarted,
    /// The socket is not of level `admin`, or there is none.
    NotAllowed,
    /// An operator holds the server in maintenance or drain, or its checks hold it out. `state ready` would make it UP
    /// until its next failed check (docs/design/measurements.md#m40), and a server that is DOWN keeps its idle connections
    /// anyway.
    NotInService,
}

/// The result of setting a server's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetWeightResult {
    /// The balancer accepted the weight and reported it when read back.
    Set,
    /// The socket is not of level `admin`, or there is none.
    NotAllowed,
}

/// An HAProxy that can be read.
#[async_trait]
pub trait Balancer: Send + Sync {
    fn spec(&self) -> &BalancerSpec;

    /// The servers of the configured backend, now. Bounded in time by the adapter.
    async fn read(&self) -> Result<Arc<BackendView>, BalancerError>;

    /// The server lines of every backend that have an address, now. Empty where the balancer does not show addresses, as on
    /// its statistics page.
    async fn read_lines(&self) -> Result<Arc<Vec<ServerLine>>, BalancerError> {
        Ok(Arc::default())
    }

    /// Makes HAProxy close the idle connections it keeps to a server, without a request being lost: `set server B/S state
    /// maint; set server B/S state ready` in one line. A server that an operator holds in maintenance or drain is left as
    /// it is. One server of a balancer at a time, because a server may start DOWN after it: then the call returns once it is
    /// UP again.
    async fn close_idle(&self, _server: &str) -> Result<FlushResult, BalancerError> {
        Ok(FlushResult::NotAllowed)
    }

    /// 0 to 256, the server line's own until the next reload (management guide, 9.3: `set server B/S weight`).
    async fn set_weight(&self, _server: &str, _weight: u32) -> Result<SetWeightResult, BalancerError> {
        Ok(SetWeightResult::NotAllowed)
    }
}
