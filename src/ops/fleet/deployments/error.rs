//! Why a command about versions failed.

use std::fmt;

use crate::model::deployment::DeploymentId;
use crate::model::history::Actor;
use crate::model::name::{BalancerName, HostName, ServiceName};
use crate::model::owner::Owner;
use crate::model::plural::Count;
use crate::model::version::Version;
use crate::ops::fleet::lock::LockError;
use crate::ops::fleet::owner::format_owned_hosts;
use crate::ops::fleet::roll::RollError;
use crate::plan::compare::ComparisonVerdict;
use crate::plan::rollback::{AssignRecovery, HostRollback};
use crate::plan::versions::ReleaseDifference;
use crate::plan::weights::WeightsError;
use crate::world::archives::ArchiveError;
use crate::world::balancer::BalancerError;
use crate::world::link::LinkError;

/// Why a command about versions failed, on any host.
#[derive(Debug, thiserror::Error)]
pub enum FleetDeployError {
    /// Seed row D13 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("No service matching {service} {version}")]
    NoVersion { service: ServiceName, version: Version },
    /// Seed row D13 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("No main service matching {0}")]
    NoMain(ServiceName),
    /// An incomplete list is not a success. `missing`: hosts that were read and do not have the version.
    #[error("cannot read every host: {}{}", join_errors(.hosts), describe_missing(.missing))]
    Unread { hosts: Vec<(HostName, LinkError)>, missing: Vec<HostName> },
    /// What the other hosts answered is printed already.
    #[error("cannot read every host: {read} of {} answered; {}", Count(read + unread.len(), "host"), join_errors(.unread))]
    PartlyRead { read: usize, unread: Vec<(HostName, LinkError)> },
    /// Seed row D18 (docs/design/seed-systems.md#mvi-and-daeploy).
    #[error("No services match the given name and version.")]
    NoMatch,
    /// Files of releases are not those that were placed. They are printed already.
    #[error(
        "cannot confirm the files of {}: they were changed since they were placed{}",
        join_releases(.releases),
        describe_unread(.unread)
    )]
    AlteredReleases { releases: Vec<(HostName, String)>, unread: Vec<(HostName, LinkError)> },
    #[error("{}", join_errors(.0))]
    Hosts(Vec<(HostName, LinkError)>),
    /// The hosts that are done are printed already.
    #[error("done on {done} of {}; {}", Count(done + failed.len(), "host"), join_errors(.failed))]
    Partial { done: usize, failed: Vec<(HostName, LinkError)> },
    /// Nothing was changed on any host.
    #[error("cannot change versions: {}", format_owned_hosts(.hosts))]
    Owned { hosts: Vec<(HostName, Owner)> },
    #[error("cannot assign {service} {version}: it is not deployed on {}", join_names(.hosts))]
    MissingOnHosts { service: ServiceName, version: Version, hosts: Vec<HostName> },
    /// Seed row D19 (sic), with the hosts. Nothing was changed on any host.
    #[error("Not allowed to kill main service while there are mutliple deployed versions of that service: {service} {version} is main on {}", join_names(.hosts))]
    MainWithShadows { service: ServiceName, version: Version, hosts: Vec<HostName> },
    /// Seed row D22: the version has another release on a host of the fleet.
    #[error("Service with name: {service} and version: {version} already exists! `{host}` {difference}")]
    OtherRelease { service: ServiceName, version: Version, host: HostName, difference: ReleaseDifference },
    #[error("cannot use {service} {version} as one deployment: hosts have it under different ids ({})", join_parts(.parts))]
    SplitVersion { service: ServiceName, version: Version, parts: Vec<(DeploymentId, Vec<HostName>)> },
    #[error("cannot merge {service} {version}: `{host}` {difference} as on `{other}`")]
    CannotMerge {
        service: ServiceName,
        version: Version,
        host: HostName,
        other: HostName,
        difference: ReleaseDifference,
    },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Roll(#[from] RollError),
    /// The roll's report is printed already.
    #[error("cannot complete the assign: the new main is on {done} of {}: {reason}", Count(.total, "host"))]
    RollIncomplete {
        done: usize,
        total: usize,
        reason: String,
        finished: bool,
        service: ServiceName,
        recovery: AssignRecovery,
    },
    /// Nothing was changed. A first version is main at once, so the service would have two.
    #[error("cannot deploy {service} {version}: it would be main at once on {}, which has no version of {service}, while {main} is main on {}", join_names(.hosts), join_names(.others))]
    SecondMain {
        service: ServiceName,
        version: Version,
        hosts: Vec<HostName>,
        main: Version,
        others: Vec<HostName>,
    },
    #[error("cannot keep {service} {version} as main: {reason}; {}", .restored.as_ref().map_or_else(|| "no other version could be made main".to_owned(), |version| format!("{version} is main again")))]
    RolledBack { service: ServiceName, version: Version, reason: String, restored: Option<Version> },
    /// Another command changed main in the watch window: its changes are not rolled back.
    #[error("cannot keep {service} {version} as main: {}", .hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Overtaken { service: ServiceName, version: Version, hosts: Vec<OvertakenHost> },
    /// The version's answers were required to match main's, and differ, or too few were compared.
    #[error("cannot make {service} {version} main: {reason}")]
    MatchNotProven { service: ServiceName, version: Version, verdict: ComparisonVerdict, reason: String },
    #[error("cannot set weights: the configuration has no `haproxy:` access to a load balancer")]
    NoBalancer,
    #[error("cannot set weights: {0}")]
    NoWeights(#[from] WeightsError),
    #[error("cannot set weights: `{0}` has no stats socket of level `admin`")]
    WeightsNotAllowed(BalancerName),
    #[error("cannot set the weight of `{server}` on `{balancer}`: {source}")]
    WeightNotSet { balancer: BalancerName, server: String, source: BalancerError },
    /// The hosts would have different mains after a rollback. Nothing was changed.
    #[error("cannot roll {service} back: its hosts would not have one main: {}", .hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    RollbackSplit { service: ServiceName, hosts: Vec<HostRollback> },
    /// The operator stopped the command before any host was changed.
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    TaskFailed(String),
}

fn join_names(hosts: &[HostName]) -> String {
    hosts.iter().map(|host| format!("`{host}`")).collect::<Vec<_>>().join(", ")
}

fn join_parts(parts: &[(DeploymentId, Vec<HostName>)]) -> String {
    let describe = |(id, hosts): &(DeploymentId, Vec<HostName>)| format!("{id} on {}", join_names(hosts));
    parts.iter().map(describe).collect::<Vec<_>>().join("; ")
}

fn describe_missing(missing: &[HostName]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    format!("; the version is not deployed on {}", join_names(missing))
}

fn join_errors(hosts: &[(HostName, LinkError)]) -> String {
    hosts.iter().map(|(host, error)| format!("`{host}`: {error}")).collect::<Vec<_>>().join("; ")
}

fn join_releases(releases: &[(HostName, String)]) -> String {
    releases.iter().map(|(host, release)| format!("{release} on `{host}`")).collect::<Vec<_>>().join(", ")
}

/// The hosts that did not answer, behind what was found on the others.
fn describe_unread(unread: &[(HostName, LinkError)]) -> String {
    if unread.is_empty() {
        String::new()
    } else {
        format!("; not every host was read: {}", join_errors(unread))
    }
}

/// A host where another command changed the new main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OvertakenHost {
    pub host: HostName,
    /// Absent: the service has none any more.
    pub main: Option<Version>,
    pub actor: Option<Actor>,
}

impl fmt::Display for OvertakenHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actor = self.actor.as_ref().map_or_else(|| "another command".to_owned(), ToString::to_string);
        match &self.main {
            Some(main) => write!(f, "{}: {actor} made {main} main", self.host),
            None => write!(f, "{}: {actor} left it no main", self.host),
        }
    }
}
