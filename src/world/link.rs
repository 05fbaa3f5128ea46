//! The link by which an operator's command drives one host, over any transport: in-process, a unix socket, ssh, TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::api::deployments::WithdrawRequest;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, CloseIdleRequest, CloseIdleResponse, DeployRequest,
    DeployResponse, DeploymentsView, KillRequest, KillResponse, LogsRequest, MergeRequest, RollbackRequest,
    TrialOutcome, UpdateRequest, WatchRequest,
};
use crate::model::api::journal::{JournalAnswer, JournalRequest};
use crate::model::api::{
    ForwardRequest, Hello, HostRelease, HostView, ProbeRequest, ProbeResult, RunOutcome, RunRequest,
    ServiceActivity, StatusRequest,
};
use crate::model::deployment::{Deployment, DeploymentId, Digest};
use crate::model::evidence::Evidence;
use crate::model::failure::ErrorCode;
use crate::model::forward::ChangeResult;
use crate::model::history::HistoryEntry;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::ProxyStats;
use crate::model::registration::RegistrationState;
use crate::model::release::ReleaseCheck;
use crate::model::ssh::SshAttempt;
use crate::model::traffic_split::{TrafficSplitRequest, TrafficSplitResponse};

/// Why a host did not carry out a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The host received no request. `ssh` is the call of ssh that failed.
    #[error("no connection ({via}): {reason}")]
    Unreachable { via: String, reason: String, ssh: Option<Box<SshAttempt>> },
    /// The host may or may not have carried out the request.
    #[error("the connection broke ({via}): {reason}")]
    Broken { via: String, reason: String },
    /// The host may or may not have carried out the request.
    #[error("no answer within {} ({via})", crate::model::duration::format(*.waited))]
    TimedOut { via: String, waited: Duration },
    #[error("its switchman {theirs} speaks API {their_api}, this one ({ours}) speaks {our_api} ({via})")]
    VersionMismatch { via: String, theirs: String, their_api: String, ours: String, our_api: String },
    /// The operator stopped the command before the host answered. The host then undoes the request, or finishes it where it is
    /// too late for that.
    #[error("interrupted before its answer ({via})")]
    Abandoned { via: String },
    /// The host's own message.
    #[error("{message}")]
    Refused { code: ErrorCode, message: String },
}

/// The answer of a host, or why there is none.
pub type LinkResult<T> = Result<T, LinkError>;

impl LinkError {
    /// Whether there was no usable answer from the host, so that a change cannot be taken back now either.
    pub const fn is_connection_lost(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Broken { .. }
                | Self::TimedOut { .. }
                | Self::VersionMismatch { .. }
        )
    }
}

/// A receiver of a running program's output, line by line.
#[async_trait]
pub trait LineSink: Send + Sync {
    /// The program waits until this returns, as it would at a full pipe: no line is lost, and no lines pile up.
    async fn write_line(&self, line: &str);
}

pub type SharedLineSink = Arc<dyn LineSink>;

#[async_trait]
impl<F: Fn(&str) + Send + Sync> LineSink for F {
    async fn write_line(&self, line: &str) {
        self(line);
    }
}

/// Versions side by side on one host. The request bounds calls that wait for health or a drain.
#[async_trait]
pub trait HostDeployments: Send + Sync {
    async fn list_deployments(&self) -> LinkResult<DeploymentsView>;

    async fn deploy(&self, request: &DeployRequest) -> LinkResult<DeployResponse>;

    async fn update(&self, request: &UpdateRequest) -> LinkResult<Deployment>;

    /// Both ports in one transaction. Idempotent.
    async fn assign(&self, service: &ServiceName, request: &AssignRequest) -> LinkResult<AssignResponse>;

    async fn rollback(&self, service: &ServiceName, request: &RollbackRequest) -> LinkResult<AssignResponse>;

    /// Returns when the watch window of a new main is over.
    async fn watch_trial(&self, service: &ServiceName, request: &WatchRequest) -> LinkResult<TrialOutcome>;

    /// Closes what balancers keep to an old version by the backup port, while none of them uses it.
    async fn close_idle(
        &self,
        service: &ServiceName,
        request: &CloseIdleRequest,
    ) -> LinkResult<CloseIdleResponse>;

    async fn kill(&self, request: &KillRequest) -> LinkResult<KillResponse>;

    /// Gives a deployment another id. Idempotent.
    async fn merge(&self, request: &MergeRequest) -> LinkResult<Deployment>;

    async fn set_access(&self, service: &ServiceName, request: &AccessRequest) -> LinkResult<ChangeResult>;

    async fn stream_logs(&self, request: &LogsRequest, heard: SharedLineSink) -> LinkResult<()>;
}

/// Shadows and canaries of one host.
#[async_trait]
pub trait HostTrafficSplit: Send + Sync {
    /// Idempotent. On a refusal or failure everything is as before.
    async fn change_traffic_split(
        &self,
        service: &ServiceName,
        request: &TrafficSplitRequest,
    ) -> LinkResult<TrafficSplitResponse>;

    /// The counters of the host's proxy, or `None` if the host has no proxy now.
    async fn read_proxy_stats(&self) -> LinkResult<Option<ProxyStats>>;

    /// The comparison of a shadow's answers with main's, or `None` if nothing was compared yet.
    async fn read_evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> LinkResult<Option<Evidence>>;
}

/// The host API. Every call is bounded in time by the adapter; `run` by its own timeout, while the link is alive.
#[async_trait]
pub trait HostLink: HostDeployments + HostTrafficSplit {
    /// The link's name for people: `ssh deploy@web1`.
    fn transport_label(&self) -> String;

    async fn greet(&self) -> LinkResult<Hello>;

    async fn fetch_status(&self, question: &StatusRequest) -> LinkResult<HostView>;

    async fn fetch_activity(&self, service: &ServiceName, port: Port) -> LinkResult<ServiceActivity>;

    /// The addresses on which processes of the host listen at a port, regardless of its rules.
    async fn list_listeners(&self, service: &ServiceName, port: Port) -> LinkResult<Vec<SocketAddr>>;

    async fn probe(&self, request: &ProbeRequest) -> LinkResult<ProbeResult>;

    /// Kernel and record together. Idempotent.
    async fn set_forward(&self, request: &ForwardRequest) -> LinkResult<ChangeResult>;

    /// Takes the host out of the DNS of the catalogue in which its agent registers it. Idempotent.
    async fn withdraw(
        &self,
        service: &ServiceName,
        request: &WithdrawRequest,
    ) -> LinkResult<RegistrationState>;

    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> LinkResult<RunOutcome>;

    async fn load_history(&self, service: Option<&ServiceName>, limit: u32) -> LinkResult<Vec<HistoryEntry>>;

    /// Sends a `.tar.gz` of this machine and unpacks it there, whole or not at all. Returns its digest. Bounded by silence,
    /// not in total. Placing the same archive twice changes nothing. An archive that has arrived is unpacked even when the
    /// caller disconnects.
    async fn upload_release(
        &self,
        service: &ServiceName,
        release: &str,
        archive: &Path,
    ) -> LinkResult<Digest>;

    /// The completely unpacked releases of a service, by name.
    async fn list_releases(&self, service: &ServiceName) -> LinkResult<Vec<HostRelease>>;

    /// Compares the files of a release on the host with those that were placed.
    async fn verify_release(&self, service: &ServiceName, release: &str) -> LinkResult<ReleaseCheck>;

    /// Carries out an operation on the journal that the host keeps for a fleet. Idempotent.
    async fn call_journal(
        &self,
        service: &ServiceName,
        request: &JournalRequest,
    ) -> LinkResult<JournalAnswer>;
}
