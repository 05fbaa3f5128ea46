//! One host as an operator's command drives it, whatever lies between: nothing, a unix socket, ssh, TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::api::deployments::{
    AccessRequest, AssignRequest, Assigned, DeployRequest, Deployed, KillRequest, Killed, LogsRequest,
    RollbackRequest, TrialEnd, UpdateRequest, VersionsView, WatchRequest,
};
use crate::model::api::{
    Hello, HostView, PlacedRelease, ProbeRequest, Probed, Pulse, Question, RunEnd, RunRequest,
};
use crate::model::deployment::{Deployment, DeploymentId, Digest};
use crate::model::evidence::Evidence;
use crate::model::failure::ErrorCode;
use crate::model::forward::{Changed, Intent};
use crate::model::history::Entry;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::ProxyStats;
use crate::model::traffic_split::{Split, SplitRequest};

/// Why a host did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing was asked of it.
    #[error("cannot reach it ({via}): {why}")]
    Unreachable { via: String, why: String },
    /// It may have done what it was asked, or not.
    #[error("the link broke ({via}): {why}")]
    Broken { via: String, why: String },
    /// It may have done what it was asked, or not.
    #[error("no answer within {} ({via})", crate::model::duration::show(*.waited))]
    Silent { via: String, waited: Duration },
    #[error("its switchman {theirs} speaks API {their_api}, this one ({ours}) speaks {our_api} ({via})")]
    Skew { via: String, theirs: String, their_api: String, ours: String, our_api: String },
    /// The host's own words.
    #[error("{message}")]
    Refused { code: ErrorCode, message: String },
}

impl LinkError {
    /// Whether the host itself was not heard: it cannot be put back now either.
    pub const fn is_lost(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Silent { .. } | Self::Skew { .. }
        )
    }
}

/// Hears a running program line by line.
#[async_trait]
pub trait Listener: Send + Sync {
    /// The program waits meanwhile, as one before a full pipe does: no line is lost, and none is piled up.
    async fn hear(&self, line: &str);
}

pub type Heard = Arc<dyn Listener>;

#[async_trait]
impl<F: Fn(&str) + Send + Sync> Listener for F {
    async fn hear(&self, line: &str) {
        self(line);
    }
}

/// Versions side by side on one host. Calls that wait for health or a drain are bounded by what is asked.
#[async_trait]
pub trait HostVersions: Send + Sync {
    async fn versions(&self) -> Result<VersionsView, LinkError>;

    async fn deploy(&self, request: &DeployRequest) -> Result<Deployed, LinkError>;

    async fn update(&self, request: &UpdateRequest) -> Result<Deployment, LinkError>;

    /// Both ports in one transaction. Idempotent.
    async fn assign(&self, service: &ServiceName, request: &AssignRequest) -> Result<Assigned, LinkError>;

    async fn rollback(&self, service: &ServiceName, request: &RollbackRequest)
    -> Result<Assigned, LinkError>;

    /// Returns when the watch window of a new main is over.
    async fn watch(&self, service: &ServiceName, request: &WatchRequest) -> Result<TrialEnd, LinkError>;

    async fn kill(&self, request: &KillRequest) -> Result<Killed, LinkError>;

    async fn access(&self, service: &ServiceName, request: &AccessRequest) -> Result<Changed, LinkError>;

    async fn logs(&self, request: &LogsRequest, heard: Heard) -> Result<(), LinkError>;
}

/// Shadows and canaries of one host.
#[async_trait]
pub trait HostSplits: Send + Sync {
    /// Idempotent. On a refusal or failure everything is as before.
    async fn split(&self, service: &ServiceName, request: &SplitRequest) -> Result<Split, LinkError>;

    /// What its proxy counted; `None`: it has none now.
    async fn proxy(&self) -> Result<Option<ProxyStats>, LinkError>;

    /// What a shadow's answers have shown beside main's; `None`: nothing was compared yet.
    async fn evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> Result<Option<Evidence>, LinkError>;
}

/// The host API. Every call is bounded in time by the adapter; `run` by its own timeout, while the link is alive.
#[async_trait]
pub trait HostLink: HostVersions + HostSplits {
    /// How it is reached, for people: `ssh deploy@web1`.
    fn via(&self) -> String;

    async fn hello(&self) -> Result<Hello, LinkError>;

    async fn look(&self, question: &Question) -> Result<HostView, LinkError>;

    async fn pulse(&self, service: &ServiceName, port: Port) -> Result<Pulse, LinkError>;

    async fn probe(&self, request: &ProbeRequest) -> Result<Probed, LinkError>;

    /// Kernel and record together. Idempotent.
    async fn switch(&self, intent: &Intent) -> Result<Changed, LinkError>;

    async fn run(&self, request: &RunRequest, heard: Heard) -> Result<RunEnd, LinkError>;

    async fn history(&self, service: Option<&ServiceName>, limit: u32) -> Result<Vec<Entry>, LinkError>;

    /// Sends a `.tar.gz` of this machine and unpacks it there, whole or not at all; its digest. Bounded by silence, not in
    /// total. The same again is done already. A caller that is gone meanwhile does not stop an archive that has arrived.
    async fn place(&self, service: &ServiceName, release: &str, archive: &Path) -> Result<Digest, LinkError>;

    /// Those that are whole, by name.
    async fn releases(&self, service: &ServiceName) -> Result<Vec<PlacedRelease>, LinkError>;
}
