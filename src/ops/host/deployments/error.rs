//! The reasons why a host does not carry out a request about its deployments, and their codes on the wire.

use std::time::Duration;

use crate::model::duration;
use crate::model::failure::ErrorCode;
use crate::model::name::ServiceName;
use crate::ops::host::completion::TaskFailed;
use crate::ops::host::error_code::{change_code, release_code, store_code};
use crate::ops::host::rules::ChangeError;
use crate::plan::traffic_split::TrafficSplitError;
use crate::plan::versions::DeployRefusal;
use crate::world::link::LinkError;
use crate::world::proxy::ProxyError;
use crate::world::releases::ReleaseError;
use crate::world::runner::RunnerError;
use crate::world::sockets::SocketsError;
use crate::world::store::StoreError;

/// Why a host did not carry out a request. What was changed before is taken back, unless the variant states otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostDeployError {
    #[error(transparent)]
    Refused(#[from] DeployRefusal),
    #[error("{service} {version} does not answer its health check within {}: {reason}{}", duration::format(*.waited), format_log_tail(.log))]
    Unhealthy { service: ServiceName, version: String, waited: Duration, reason: String, log: Vec<String> },
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error(transparent)]
    Split(#[from] TrafficSplitError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The only error of an update after which instances run different code.
    #[error("{update}; the instances that were updated before it still run the new code: {undo}")]
    HalfUpdated { update: Box<HostDeployError>, undo: Box<HostDeployError> },
    #[error("cannot write its vhost: {0}")]
    Vhost(String),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    TaskFailed(#[from] TaskFailed),
}

fn format_log_tail(log: &[String]) -> String {
    log.iter().map(|line| format!("\n    | {line}")).collect()
}

impl HostDeployError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(refused) => refused_code(refused),
            Self::Unhealthy { .. } => ErrorCode::Unhealthy,

            Self::Change(error) => change_code(error),
            Self::Store(error) => store_code(error),
            Self::Runner(RunnerError::Missing { .. }) => ErrorCode::NoProgram,
            Self::Runner(RunnerError::NoUser { .. }) => ErrorCode::NoUser,
            Self::Runner(RunnerError::Unknown { .. }) => ErrorCode::NoInstance,
            Self::Runner(_) | Self::Vhost(_) => ErrorCode::RunnerFailed,
            Self::Release(error) => release_code(error),
            Self::Sockets(_) => ErrorCode::SocketsFailed,
            Self::Split(refused) => split_code(refused),
            Self::Proxy(ProxyError::NotWatched) => ErrorCode::NoAgent,
            Self::Proxy(_) => ErrorCode::ProxyFailed,
            Self::Interrupted => ErrorCode::Interrupted,
            Self::HalfUpdated { .. } => ErrorCode::HalfUpdated,
            Self::TaskFailed(_) => ErrorCode::Other,
        }
    }
}

impl From<HostDeployError> for LinkError {
    fn from(error: HostDeployError) -> Self {
        Self::Refused { code: error.code(), message: error.to_string() }
    }
}

const fn refused_code(refused: &DeployRefusal) -> ErrorCode {
    match refused {
        DeployRefusal::Exists { .. } | DeployRefusal::IdTaken { .. } => ErrorCode::Exists,
        DeployRefusal::EndpointTaken { .. } => ErrorCode::EndpointTaken,
        DeployRefusal::OtherRelease { .. } => ErrorCode::ReleaseExists,
        DeployRefusal::AlteredRelease { .. } => ErrorCode::ReleaseAltered,
        DeployRefusal::NoVersion(_) => ErrorCode::NotFound,
        DeployRefusal::NoMain(_) => ErrorCode::NoMain,
        DeployRefusal::MainWithShadows => ErrorCode::NotAllowed,
        DeployRefusal::NotDrained { .. } | DeployRefusal::IdleConnections { .. } => ErrorCode::NotDrained,
        DeployRefusal::InProgress { .. } | DeployRefusal::Overtaken(_) => ErrorCode::Busy,
        DeployRefusal::Uri(_)
        | DeployRefusal::MixedKinds
        | DeployRefusal::NoProgram
        | DeployRefusal::NoNetwork
        | DeployRefusal::BadValue { .. } => ErrorCode::BadRequest,
        DeployRefusal::NoPort { .. } => ErrorCode::NoPort,
        DeployRefusal::InstancesNeedAgent => ErrorCode::NoAgent,
        DeployRefusal::PortTaken { .. } | DeployRefusal::ServicePort { .. } => ErrorCode::PortTaken,
        DeployRefusal::NoRelease { .. } => ErrorCode::NoRelease,
        DeployRefusal::NoBackup(_) => ErrorCode::NoBackup,
        DeployRefusal::NotMain { .. } => ErrorCode::NotMain,
    }
}

const fn split_code(refused: &TrafficSplitError) -> ErrorCode {
    match refused {
        TrafficSplitError::Deployment(refused) => refused_code(refused),
        TrafficSplitError::IsMain { .. }
        | TrafficSplitError::RoleConflict { .. }
        | TrafficSplitError::Private(_) => ErrorCode::NotAllowed,
        TrafficSplitError::EmptyCanary | TrafficSplitError::BadText { .. } => ErrorCode::BadRequest,
    }
}
