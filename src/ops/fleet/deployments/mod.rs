//! Versions side by side over a fleet, from the operator's place: every host's part is done by the host itself.

use crate::model::api::deployments::Site;
use crate::model::deployment::DeploymentId;
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::lock::Purpose;
use crate::model::name::{BalancerName, HostName, ServiceName};
use crate::model::version::Version;
use crate::plan::compare::Verdict;
use crate::plan::weights::NoWeights;
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

pub use access::access;
pub use assign::{AssignOptions, AssignReport, HostAssigned, Strategy, assign, rollback};
pub(super) use assign::{LEAVES, flip_held};
pub use compare::{CompareOptions, compare, require};
pub use deploy::{DeployOptions, DeployReport, Planned, Source, deploy, short};
pub use haproxy_weights::{ServerWeight, Shared, share_by_weight};
pub use kill::{HostKilled, KillOptions, kill};
pub use list::{Listing, Row, list};
pub use logs::{Histories, histories, logs};
pub use traffic_split::{HostSplit, SplitOptions, split};
pub(super) use traffic_split::{change, through};
pub use trial::Overtaken;
pub use update::{UpdateOptions, update};

/// Why a command about versions did not do what it was asked, on any host.
#[derive(Debug, thiserror::Error)]
pub enum VersionsError {
    /// D13
    #[error("No service matching {service} {version}")]
    NoVersion { service: ServiceName, version: Version },
    /// D13
    #[error("No main service matching {0}")]
    NoMain(ServiceName),
    /// A list that is not whole is not a success.
    #[error("cannot ask every host: {}", .0.iter().map(|(host, why)| format!("{host}: {why}")).collect::<Vec<_>>().join("; "))]
    Unread(Vec<(HostName, String)>),
    /// D18
    #[error("No services match the given name and version.")]
    NoMatch,
    #[error("{}", .0.iter().map(|(host, why)| format!("{host}: {why}")).collect::<Vec<_>>().join("; "))]
    Hosts(Vec<(HostName, LinkError)>),
    /// The hosts that are done are printed already.
    #[error("done on {done} of {} hosts; {}", done + failed.len(), .failed.iter().map(|(host, why)| format!("{host}: {why}")).collect::<Vec<_>>().join("; "))]
    Partly { done: usize, failed: Vec<(HostName, LinkError)> },
    #[error("{service} {version} is not on {}: deploy it there first, or name the hosts with --host", .hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", "))]
    NotEverywhere { service: ServiceName, version: Version, hosts: Vec<HostName> },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Roll(#[from] RollError),
    /// The roll's report is printed already.
    #[error("{done} of {of} hosts have the new main: {why}")]
    NotRolled { done: usize, of: usize, why: String, finished: bool },
    #[error("{service} {version} is main no more: {why}; {} is back", .back.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string))]
    PutBack { service: ServiceName, version: Version, why: String, back: Option<Version> },
    /// In its watch window, by somebody else: nothing of that is taken back.
    #[error("{service} {version} is main no more: {}", .hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Overtaken { service: ServiceName, version: Version, hosts: Vec<Overtaken> },
    /// It was asked to be like main, and is not, or nobody knows.
    #[error("{service} {version} does not become main: {reason}")]
    NotAlike { service: ServiceName, version: Version, verdict: Verdict, reason: String },
    #[error("no load balancer of the configuration can be asked")]
    NoBalancer,
    #[error(transparent)]
    NoWeights(#[from] NoWeights),
    #[error("`{0}` gives no stats socket of level admin: weights are not changed there")]
    WeightsNotAllowed(BalancerName),
    #[error("`{balancer}` did not take the weight of its server `{server}`: {why}")]
    NotWeighed { balancer: BalancerName, server: String, why: BalancerError },
    #[error("{0}")]
    Task(String),
}

/// What each host made of it, in the order of the hosts.
pub(super) type Each<T> = Vec<(HostName, Result<T, LinkError>)>;

/// All of it, or what went wrong where.
fn whole<T>(each: Each<T>) -> Result<Vec<(HostName, T)>, VersionsError> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (host, result) in each {
        match result {
            Ok(value) => done.push((host, value)),
            Err(error) => failed.push((host, error)),
        }
    }
    match (done.len(), failed.is_empty()) {
        (_, true) => Ok(done),
        (0, false) => Err(VersionsError::Hosts(failed)),
        (done, false) => Err(VersionsError::Partly { done, failed }),
    }
}

/// The same question to every host at once.
pub(super) async fn each<T>(
    world: &FleetWorld,
    hosts: &[Host],
    ask: impl AsyncFn(&Host, &dyn crate::world::link::HostLink) -> Result<T, LinkError>,
) -> Each<T> {
    let asked = hosts.iter().map(async |host| {
        let answer = match reach::link(world, host) {
            Ok(link) => ask(host, link).await,
            Err(error) => Err(error),
        };
        (host.name.clone(), answer)
    });
    futures_util::future::join_all(asked).await
}

/// Under the fleet's lock, with signs of life.
async fn locked<T, E: From<LockError>>(
    world: &FleetWorld,
    actor: &Actor,
    name: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let purpose = Purpose::Command { name: name.to_owned() };
    let holder = lock::acquire(world, &actor.user, purpose).await?;
    let ended = tokio::select! {
        ended = work => ended,
        never = lock::beat(world, &holder) => match never {},
    };
    lock::give_back(world, &holder);
    ended
}

/// What a host has to know of the service's place in the fleet.
fn site(fleet: &Fleet, host: &Host) -> Site {
    Site {
        ports: fleet.ports,
        address: reach::question(fleet, host).main.ip(),
        from_self: fleet.balancers.iter().any(|balancer| balancer.on_host),
        range: fleet.versions.ports,
        keep_releases: fleet.versions.keep_releases,
    }
}

fn say(world: &FleetWorld, host: Option<&HostName>, text: impl Into<String>) {
    world.reporter.report(&Event::Version { host: host.cloned(), text: text.into() });
}

/// A word that names a deployment: an id, wherever NAME VERSION is.
pub fn as_id(word: &str) -> Option<DeploymentId> {
    word.parse().ok()
}

/// How long something took, for people.
fn took(began: tokio::time::Instant) -> String {
    duration::show(began.elapsed())
}

#[cfg(test)]
mod tests;
