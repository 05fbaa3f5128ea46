//! The proxy of a host: a process of its own that outlasts the process that started it.

use std::time::Duration;

use async_trait::async_trait;

use super::store::LockGuard;
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::{ProxyConfig, ProxyHealth, ProxyStats};

/// Why the proxy did not carry out a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("the proxy does not start: {reason}")]
    StartFailed { reason: String },
    #[error("the proxy does not answer: {reason}")]
    Unresponsive { reason: String },
    /// The proxy's own message. The configuration it had before stays in force.
    #[error("the proxy refuses the request: {reason}")]
    Refused { reason: String },
    #[error("{service}: the proxy {reason}")]
    NoPort { service: ServiceName, reason: String },
    #[error("main of {service} does not answer through the proxy on port {port}: {reason}")]
    NotReachable { service: ServiceName, port: Port, reason: String },
    #[error("no agent runs on this host: the proxy needs one that routes around it when it dies")]
    NotWatched,
}

#[async_trait]
pub trait Proxy: Send + Sync {
    /// Starts the proxy if it does not answer on its control socket, in place of one that hangs. Returns when it answers.
    /// Idempotent.
    async fn start(&self) -> Result<(), ProxyError>;

    /// Replaces the whole configuration. It is in force when this returns, apart from ports that another process holds.
    async fn configure(&self, config: &ProxyConfig) -> Result<(), ProxyError>;

    /// The configuration the proxy is running, empty if it has received none since it started.
    async fn read_config(&self) -> Result<ProxyConfig, ProxyError>;

    /// Checks that every part of the proxy still works, and returns where it listens, within `bound`.
    async fn check_health(&self, bound: Duration) -> Result<ProxyHealth, ProxyError>;

    /// Returns when the process that runs now has exited, or at once when none runs.
    async fn wait_for_exit(&self);

    async fn read_stats(&self) -> Result<ProxyStats, ProxyError>;

    /// The comparison of a shadow's answers with main's, or `None` if nothing was compared.
    async fn read_evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> Result<Option<Evidence>, ProxyError>;

    /// Stops listening before this returns. The process ends when its connections have ended. Idempotent.
    async fn stop(&self) -> Result<(), ProxyError>;

    /// Takes the lock that the agent of this host holds for as long as it watches the proxy. `None`: another agent holds
    /// it.
    fn acquire_watch_lock(&self) -> Result<Option<Box<dyn LockGuard>>, ProxyError>;

    /// Whether an agent watches the proxy.
    fn is_watched(&self) -> bool;
}
