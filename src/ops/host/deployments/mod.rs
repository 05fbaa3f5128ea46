//! Versions side by side, on the host itself: what the agent serves and the command line on the host calls in-process.

use std::time::Duration;

use tokio::time::Instant;

use super::rules::ChangeError;
use crate::model::deployment::{Deployment, Instance, InstanceId, ProcessState, Workload};
use crate::model::duration;
use crate::model::failure::ErrorCode;
use crate::model::name::ServiceName;
use crate::plan::traffic_split::TrafficSplitError;
use crate::plan::versions::{self, DeployRefusal};
use crate::world::HostWorld;
use crate::world::link::LinkError;
use crate::world::proxy::ProxyError;
use crate::world::releases::ReleaseError;
use crate::world::reporter::Event;
use crate::world::runner::RunnerError;
use crate::world::sockets::SocketsError;
use crate::world::store::{LockGuard, StoreError};

mod assign;
mod deploy;
mod instance;
pub(super) mod kill;
pub(super) mod list;
mod reconciler;
mod recovery;
mod trial;
mod update;

pub use assign::{assign, check_service, rollback, set_access};
pub use deploy::deploy;
pub use kill::kill;
pub use list::{stream_logs, view};
pub use reconciler::run;
pub use recovery::{restore_at_boot, restore_instances};
pub use trial::watch;
pub use update::update;

/// How long one deploy, update or kill of a service waits for another one: none of them takes longer than its own bounds,
/// and an operator prefers an error to a long wait.
const SERVICE_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a host did not carry out a request. What was changed before is taken back, unless the variant states otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostDeployError {
    #[error(transparent)]
    Refused(#[from] DeployRefusal),
    #[error("{service} {version} does not answer its health check within {}: {why}{}", duration::format(*.waited), format_log_tail(.log))]
    Unhealthy { service: ServiceName, version: String, waited: Duration, why: String, log: Vec<String> },
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
    #[error("cannot write its vhost: {0}")]
    Vhost(String),
    #[error("interrupted")]
    Interrupted,
}

fn format_log_tail(log: &[String]) -> String {
    log.iter().map(|line| format!("\n    | {line}")).collect()
}

impl HostDeployError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(refused) => refused_code(refused),
            Self::Unhealthy { .. } => ErrorCode::Unhealthy,
            Self::Change(error) => crate::ops::host::api::change_code(error),
            Self::Store(error) => crate::ops::host::api::store_code(error),
            Self::Runner(RunnerError::Missing { .. } | RunnerError::NoUser { .. }) => {
                ErrorCode::Unprocessable
            }
            Self::Runner(RunnerError::Unknown { .. }) => ErrorCode::NotFound,
            Self::Runner(_) | Self::Vhost(_) => ErrorCode::RunnerFailed,
            Self::Release(error) => crate::ops::host::api::release_code(error),
            Self::Sockets(_) => ErrorCode::SocketsFailed,
            Self::Split(refused) => split_code(refused),
            Self::Proxy(ProxyError::NotWatched) => ErrorCode::NoAgent,
            Self::Proxy(_) => ErrorCode::ProxyFailed,
            Self::Interrupted => ErrorCode::Interrupted,
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
        DeployRefusal::Exists { .. }
        | DeployRefusal::IdTaken { .. }
        | DeployRefusal::EndpointTaken { .. }
        | DeployRefusal::OtherRelease { .. } => ErrorCode::Exists,
        DeployRefusal::NoVersion(_) | DeployRefusal::NoMain(_) => ErrorCode::NotFound,
        DeployRefusal::MainWithShadows => ErrorCode::NotAllowed,
        DeployRefusal::NotDrained { .. } | DeployRefusal::IdleConnections { .. } => ErrorCode::NotDrained,
        DeployRefusal::InProgress { .. } | DeployRefusal::Overtaken(_) => ErrorCode::Busy,
        DeployRefusal::Uri(_)
        | DeployRefusal::MixedKinds
        | DeployRefusal::NoProgram
        | DeployRefusal::NoNetwork
        | DeployRefusal::BadValue { .. } => ErrorCode::BadRequest,
        DeployRefusal::NoPort { .. }
        | DeployRefusal::PortTaken { .. }
        | DeployRefusal::ServicePort { .. }
        | DeployRefusal::NoRelease { .. }
        | DeployRefusal::NoBackup(_)
        | DeployRefusal::NotMain { .. } => ErrorCode::Unprocessable,
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

/// Serializes deploys, updates and kills of a service. What an earlier one left half done is repaired first.
async fn lock_service(
    world: &HostWorld,
    service: &ServiceName,
    purpose: &str,
) -> Result<Box<dyn LockGuard>, HostDeployError> {
    let held = world.deployments.lock_service(service, purpose, SERVICE_LOCK_TIMEOUT).await?;
    recovery::recover_service(world, service).await?;
    Ok(held)
}

fn warn(world: &HostWorld, text: String) {
    world.reporter.report(&Event::Warning { text });
}

/// All deployments of a service, oldest first.
fn list_service_deployments(world: &HostWorld, service: &ServiceName) -> Result<Vec<Deployment>, StoreError> {
    world.deployments.of(service)
}

/// Waits for healthy answers as long as a version that has answered before may take.
async fn check_still_healthy(world: &HostWorld, deployment: &Deployment) -> Result<(), HostDeployError> {
    let patience = versions::compute_health_timeout(&deployment.health);
    wait_until_healthy(world, deployment, &deployment.instance, patience).await
}

/// `rise` healthy answers in a row of an instance's own port, or why not. One that has ended by itself more than once is not
/// waited for.
async fn wait_until_healthy(
    world: &HostWorld,
    deployment: &Deployment,
    instance: &Instance,
    limit: Duration,
) -> Result<(), HostDeployError> {
    let deadline = Instant::now() + limit;
    let endpoint = deployment.endpoint(instance);
    let id = deployment.instance_id(instance.build);
    let mut passed = 0;
    let why = loop {
        match world.probe.ask(endpoint, &deployment.health).await {
            Ok(()) => {
                passed += 1;
                if passed >= deployment.health.rise {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    break format!(
                        "only {passed} of {} answers in a row were healthy",
                        deployment.health.rise
                    );
                }
            }
            Err(why) => {
                passed = 0;
                if let Some(end) = find_start_failure(world, instance, &id).await {
                    break format!("{end}; {why}");
                }
                if Instant::now() >= deadline {
                    break why.to_string();
                }
            }
        }
        tokio::select! {
            biased;
            () = world.stop.wait() => return Err(HostDeployError::Interrupted),
            () = tokio::time::sleep(deployment.health.interval) => {}
        }
    };
    Err(HostDeployError::Unhealthy {
        service: deployment.service.clone(),
        version: deployment.version.to_string(),
        waited: limit,
        why,
        log: list::read_last_lines(world, &id).await,
    })
}

/// How often a new instance may end by itself before it is given up.
const MAX_RESTARTS: u32 = 3;

async fn find_start_failure(world: &HostWorld, instance: &Instance, id: &InstanceId) -> Option<String> {
    if matches!(instance.how.workload, Workload::External { .. }) {
        return None;
    }
    match world.runner.state(id).await.ok()? {
        ProcessState::Waiting { restarts, last_exit: last, .. } if restarts >= MAX_RESTARTS => {
            Some(format!("it ended {restarts} times, last with {last}"))
        }
        ProcessState::Running { restarts, .. } if restarts >= MAX_RESTARTS => {
            Some(format!("it ended {restarts} times"))
        }
        ProcessState::Stopped { last_exit: last, .. } if !last.is_empty() => {
            Some(format!("it ended with {last}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
