//! Versions side by side over a fleet, from the operator machine: every host does its own part.

use crate::model::api::deployments::HostNetwork;
use crate::model::deployment::DeploymentId;
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::lock::LockPurpose;
use crate::model::name::{BalancerName, HostName, ServiceName};
use crate::model::version::Version;
use crate::plan::compare::ComparisonVerdict;
use crate::plan::weights::WeightsError;
use crate::world::FleetWorld;
use crate::world::archives::ArchiveError;
use crate::world::balancer::BalancerError;
use crate::world::link::LinkError;
use crate::world::reporter::Event;

use super::lock::{self, LockError};
use super::roll::RollError;
use crate::ops::fleet::reach;

mod access;
mod assign;
mod compare;
mod deploy;
mod haproxy_weights;
mod idle_connections;
mod kill;
mod list;
mod logs;
mod traffic_split;
mod trial;
mod update;

pub use access::set_access;
pub use assign::{AssignOptions, AssignReport, HostAssigned, Strategy, assign, rollback};
pub(super) use assign::{FLUSH_TIMEOUT, flip_under_lock};
pub use compare::{CompareOptions, compare, require_match};
pub use deploy::{DeployOptions, DeployReport, HostDeployPlan, Source, deploy, shorten_digest};
pub use haproxy_weights::{AppliedWeights, ServerWeight, set_canary_weights};
pub use kill::{KillOptions, KilledDeployment, kill};
pub use list::{FleetDeployment, Listing, list_deployments};
pub use logs::{HostHistories, read_histories, stream_logs};
pub use traffic_split::{HostSplit, SplitOptions, split};
pub(super) use traffic_split::{apply_split_under_lock, wait_until_inserted};
pub use trial::Overtaken;
pub use update::{UpdateOptions, update};

/// Why a command about versions failed, on any host.
#[derive(Debug, thiserror::Error)]
pub enum FleetDeployError {
    /// Seed row D13 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("No service matching {service} {version}")]
    NoVersion { service: ServiceName, version: Version },
    /// Seed row D13 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("No main service matching {0}")]
    NoMain(ServiceName),
    /// An incomplete list is not a success.
    #[error("cannot read every host: {}", .0.iter().map(|(host, why)| format!("`{host}`: {why}")).collect::<Vec<_>>().join("; "))]
    Unread(Vec<(HostName, String)>),
    /// Seed row D18 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("No services match the given name and version.")]
    NoMatch,
    #[error("{}", .0.iter().map(|(host, why)| format!("`{host}`: {why}")).collect::<Vec<_>>().join("; "))]
    Hosts(Vec<(HostName, LinkError)>),
    /// The hosts that are done are printed already.
    #[error("done on {done} of {} hosts; {}", done + failed.len(), .failed.iter().map(|(host, why)| format!("`{host}`: {why}")).collect::<Vec<_>>().join("; "))]
    Partial { done: usize, failed: Vec<(HostName, LinkError)> },
    #[error("cannot assign {service} {version}: it is not deployed on {}", .hosts.iter().map(|host| format!("`{host}`")).collect::<Vec<_>>().join(", "))]
    MissingOnHosts { service: ServiceName, version: Version, hosts: Vec<HostName> },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Roll(#[from] RollError),
    /// The roll's report is printed already.
    #[error("cannot complete the assign: {done} of {of} hosts have the new main: {why}")]
    RollIncomplete { done: usize, of: usize, why: String, finished: bool },
    #[error("cannot keep {service} {version} as main: {why}; {}", .back.as_ref().map_or_else(|| "no other version could be made main".to_owned(), |version| format!("{version} is main again")))]
    RolledBack { service: ServiceName, version: Version, why: String, back: Option<Version> },
    /// Another command changed main in the watch window: its changes are not rolled back.
    #[error("cannot keep {service} {version} as main: {}", .hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Overtaken { service: ServiceName, version: Version, hosts: Vec<Overtaken> },
    /// The version's answers were required to match main's, and differ, or too few were compared.
    #[error("cannot make {service} {version} main: {reason}")]
    MatchNotProven { service: ServiceName, version: Version, verdict: ComparisonVerdict, reason: String },
    #[error("cannot set weights: the configuration has no `haproxy:` access to a load balancer")]
    NoBalancer,
    #[error("cannot set weights: {0}")]
    NoWeights(#[from] WeightsError),
    #[error("cannot set weights: `{0}` has no stats socket of level `admin`")]
    WeightsNotAllowed(BalancerName),
    #[error("cannot set the weight of `{server}` on `{balancer}`: {why}")]
    WeightNotSet { balancer: BalancerName, server: String, why: BalancerError },
    #[error("{0}")]
    TaskFailed(String),
}

/// The result of each host, in the order of the hosts.
pub(super) type PerHost<T> = Vec<(HostName, Result<T, LinkError>)>;

/// Returns all values, or the errors of the hosts that failed.
fn all_or_partial<T>(each: PerHost<T>) -> Result<Vec<(HostName, T)>, FleetDeployError> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (host, result) in each {
        match result {
            Ok(value) => done.push((host, value)),
            Err(error) => failed.push((host, error)),
        }
    }
    match (done.len(), failed.is_empty()) {
        (_, true) => Ok(done),
        (0, false) => Err(FleetDeployError::Hosts(failed)),
        (done, false) => Err(FleetDeployError::Partial { done, failed }),
    }
}

/// Sends the same request to every host concurrently.
pub(super) async fn each<T>(
    world: &FleetWorld,
    hosts: &[Host],
    ask: impl AsyncFn(&Host, &dyn crate::world::link::HostLink) -> Result<T, LinkError>,
) -> PerHost<T> {
    let asked = hosts.iter().map(async |host| {
        let answer = match reach::link(world, host) {
            Ok(link) => ask(host, link).await,
            Err(error) => Err(error),
        };
        (host.name.clone(), answer)
    });
    futures_util::future::join_all(asked).await
}

/// Runs the work under the fleet lock, with heartbeats.
async fn with_fleet_lock<T, E: From<LockError>>(
    world: &FleetWorld,
    actor: &Actor,
    name: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let purpose = LockPurpose::Command { name: name.to_owned() };
    let holder = lock::acquire(world, &actor.user, purpose).await?;
    let ended = tokio::select! {
        ended = work => ended,
        never = lock::beat(world, &holder) => match never {},
    };
    lock::give_back(world, &holder);
    ended
}

/// Builds what a host has to know of the service's network in the fleet.
fn build_host_network(fleet: &Fleet, host: &Host) -> HostNetwork {
    HostNetwork {
        ports: fleet.ports,
        address: reach::build_status_request(fleet, host).main.ip(),
        balancer_is_local: fleet.balancers.iter().any(|balancer| balancer.is_on_host),
        port_range: fleet.versions.port_range,
        keep_releases: fleet.versions.keep_releases,
    }
}

fn say(world: &FleetWorld, host: Option<&HostName>, text: impl Into<String>) {
    world.reporter.report(&Event::DeploymentProgress { host: host.cloned(), text: text.into() });
}

/// A word that names a deployment: an id, wherever NAME VERSION is.
pub fn parse_id(word: &str) -> Option<DeploymentId> {
    word.parse().ok()
}

/// How long something took, for people.
fn format_elapsed(began: tokio::time::Instant) -> String {
    duration::format(began.elapsed())
}

#[cfg(test)]
mod tests;
