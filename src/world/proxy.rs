//! The proxy of a host: a process of its own that outlasts whoever starts it.

use std::time::Duration;

use async_trait::async_trait;

use super::store::LockGuard;
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::{ProxyConfig, ProxyHealth, ProxyStats};

/// Why the proxy did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("the proxy does not start: {why}")]
    StartFailed { why: String },
    #[error("the proxy does not answer: {why}")]
    Unresponsive { why: String },
    /// Its own words; what it was told before is in force.
    #[error("the proxy refuses: {why}")]
    Refused { why: String },
    #[error("{service}: the proxy {why}")]
    NoPort { service: ServiceName, why: String },
    #[error("main of {service} does not answer through the proxy on port {port}: {why}")]
    NotReachable { service: ServiceName, port: Port, why: String },
    #[error(
        "no agent runs on this host: a proxy needs one that points the rules at main again when it dies (`switchman agent`)"
    )]
    NotWatched,
}

#[async_trait]
pub trait Proxy: Send + Sync {
    /// It runs and answers on its control socket; started where it does not, in place of one that hangs. Idempotent.
    async fn start(&self) -> Result<(), ProxyError>;

    /// Everything it is to do; in force when this returns, apart from ports that somebody else has.
    async fn configure(&self, config: &ProxyConfig) -> Result<(), ProxyError>;

    /// What it does now; nothing where it was not told since it began.
    async fn read_config(&self) -> Result<ProxyConfig, ProxyError>;

    /// That every part of it still works, and where it listens; within the bound.
    async fn check_health(&self, bound: Duration) -> Result<ProxyHealth, ProxyError>;

    /// Returns when the process that runs now is gone; at once where none runs.
    async fn wait_for_exit(&self);

    async fn read_stats(&self) -> Result<ProxyStats, ProxyError>;

    /// What a shadow's answers have shown beside main's; `None`: nothing was compared.
    async fn read_evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> Result<Option<Evidence>, ProxyError>;

    /// It listens nowhere any more when this returns, and ends when its connections have. Idempotent.
    async fn stop(&self) -> Result<(), ProxyError>;

    /// Held by the agent of this host for as long as it watches the proxy; `None`: another one does.
    fn keep(&self) -> Result<Option<Box<dyn LockGuard>>, ProxyError>;

    /// Whether an agent watches it.
    fn is_watched(&self) -> bool;
}
