//! Versions side by side on one host: what may be deployed, made main, killed; and what of a half-done change is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::api::deployments::{DeployRequest, DeploymentRef, HostNetwork};
use crate::model::deployment::{Deployment, DeploymentId, DeploymentStatus, Role, RunSpec, Stage, Workload};
use crate::model::forward::ServiceRecord;
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::plural::Count;
use crate::model::ports::Port;
use crate::model::redaction::is_placeholder;
use crate::model::socket::SocketCount;
use crate::model::version::Version;
use crate::templates::vhost;

mod deploy_defaults;
mod last_change;
mod merge;
mod recovered;
mod routes;
mod trial_outcome;
mod uri;

pub use deploy_defaults::{IncompleteDeploy, build_uri_deploy, choose_service, complete_uri};
pub use last_change::find_last_change;
pub use merge::{
    HealthPaths, ReleaseDifference, find_health_difference, find_release_difference, plan_merge,
};
pub use recovered::project_recovery;
pub use routes::{
    KILL_BEGUN, KILL_REFUSED, detach, end_trial, find_last_good, find_rollback_target, move_instance,
    plan_assign, plan_first, plan_rollback, restore_routes, set_unhealthy,
};
pub use trial_outcome::judge_trial;
pub use uri::{UriError, parse_local_port};

/// The reason why a host refuses a change. The sentences of the systems that switchman follows are kept
/// (docs/design/seed-systems.md; each variant names its seed row).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeployRefusal {
    /// Seed row D22.
    #[error("Service with name: {service} and version: {version} already exists!")]
    Exists { service: ServiceName, version: String },
    #[error("the id {id} belongs to {service} {version}")]
    IdTaken { id: DeploymentId, service: ServiceName, version: String },
    /// Seed row R18.
    #[error("A deployment already exists that uses this endpoint (ID: {id}).")]
    EndpointTaken { id: DeploymentId },
    /// Seed row D13.
    #[error("No service matching {0}")]
    NoVersion(DeploymentRef),
    /// Seed row D13.
    #[error("No main service matching {0}")]
    NoMain(ServiceName),
    /// Seed row D19 (sic).
    #[error("Not allowed to kill main service while there are mutliple deployed versions of that service")]
    MainWithShadows,
    /// Seed rows R19 and R20.
    #[error(
        "Deployment is still Draining. There are {invocations} invocations that will break if it is removed now. If you \
         accept the risk of breaking in-flight invocations, you can use --force"
    )]
    NotDrained { invocations: u64 },
    /// A sentence of switchman's own: no invocation is in flight, but one may arrive over each of these connections at any
    /// time.
    #[error(
        "load balancers keep {} to it, and may send the next request over any; they end when their server is taken out \
         (`assign --strategy rolling`), or are cut with --force",
        Count(.idle, "idle connection")
    )]
    IdleConnections { idle: u64 },
    #[error("{service} {version} is still being deployed, updated or killed")]
    InProgress { service: ServiceName, version: String },
    #[error(
        "no agent runs on this host: several instances need one that sends no connection to an instance that has ended"
    )]
    InstancesNeedAgent,
    #[error("no port is free between {first} and {last}")]
    NoPort { first: Port, last: Port },
    #[error("port {port} is taken{}", .owner.as_ref().map(|by| format!(" by {by}")).unwrap_or_default())]
    PortTaken { port: Port, owner: Option<String> },
    #[error("port {port} belongs to {service}: HAProxy connects to it")]
    ServicePort { port: Port, service: ServiceName },
    #[error("{0}")]
    Uri(#[from] UriError),
    #[error("there is no release {service}/{release} on this host: place it first")]
    NoRelease { service: ServiceName, release: String },
    #[error("the release {service}/{release} on this host has other content")]
    OtherRelease { service: ServiceName, release: String },
    /// Files of it were changed on this host.
    #[error("the release {service}/{release} was changed on this host since it was placed: {changes}")]
    AlteredRelease { service: ServiceName, release: String, changes: String },
    /// `rollback`
    #[error("{0} has no earlier good main")]
    NoBackup(ServiceName),
    #[error("{version} is not main of {service}")]
    NotMain { service: ServiceName, version: Version },
    #[error("another command changed main of {0} in between")]
    Overtaken(ServiceName),
    #[error("a vhost or a program needs a release, and an external address has none")]
    MixedKinds,
    #[error("the argument list is empty: there is no program to start")]
    NoProgram,
    #[error("`site` is missing: a new instance needs a port")]
    NoNetwork,
    #[error("{subject} is refused: {reason}")]
    BadValue { subject: String, reason: &'static str },
}

/// The outcome of a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeployDecision {
    /// The very same is there.
    Unchanged(Box<Deployment>),
    New {
        revision: u32,
    },
}

/// Whether a new deployment may be placed.
pub fn decide_deploy(
    existing: &[Deployment],
    request: &DeployRequest,
) -> Result<DeployDecision, DeployRefusal> {
    let of_service = || existing.iter().filter(|one| one.service == request.service);
    if let Some(there) = of_service().find(|one| one.version == request.version) {
        let same = there.instance.how == request.how
            && there.instance.digest == request.digest
            && there.health == request.health
            && request.port.is_none_or(|port| port == there.instance.port)
            && request.instances.is_none_or(|count| there.active_instances().count() == count as usize)
            && there.stage == Stage::Ready;
        return if same {
            Ok(DeployDecision::Unchanged(Box::new(there.clone())))
        } else {
            let (service, version) = (request.service.clone(), request.version.to_string());
            Err(DeployRefusal::Exists { service, version })
        };
    }
    // Its row, or the names of its instances, would become another one's.
    let has_id = |one: &&Deployment| one.id == request.id || one.started_as.as_ref() == Some(&request.id);
    if let Some(there) = existing.iter().find(has_id) {
        let (service, version) = (there.service.clone(), there.version.to_string());
        return Err(DeployRefusal::IdTaken { id: request.id.clone(), service, version });
    }
    match &request.how.workload {
        Workload::External { .. } if request.digest.is_some() => return Err(DeployRefusal::MixedKinds),
        Workload::Command { .. } | Workload::Vhost { .. } if request.digest.is_none() => {
            return Err(DeployRefusal::MixedKinds);
        }
        _ => {}
    }
    check_values(&request.how)?;
    check_instances(request)?;
    check_metadata(&request.metadata)?;
    check_health(&request.health, &request.how)?;
    let newest = of_service().map(|one| one.revision).max().unwrap_or(0);
    Ok(DeployDecision::New { revision: request.revision.unwrap_or(0).max(newest.saturating_add(1)) })
}

/// The most instances of a version on a host: more than a host has processors.
pub const MAX_INSTANCES: u32 = 64;

/// Checks that a version can have as many instances as requested.
fn check_instances(request: &DeployRequest) -> Result<(), DeployRefusal> {
    let bad = |reason| Err(DeployRefusal::BadValue { subject: "the number of instances".to_owned(), reason });
    match request.instances {
        None | Some(1) => Ok(()),
        Some(0) => bad("a version has at least one instance"),
        Some(count) if count > MAX_INSTANCES => bad("a version has at most 64 instances on a host"),
        Some(_) if matches!(request.how.workload, Workload::External { .. }) => {
            bad("switchman starts no instance of a program that runs already")
        }
        Some(_) if request.port.is_some() => bad("several instances cannot listen on the same port"),
        Some(_) => Ok(()),
    }
}

/// Limits of the metadata of a deployment: a few facts for people, not a store.
const MAX_METADATA: usize = 32;
const MAX_METADATA_BYTES: usize = 1024;

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), DeployRefusal> {
    let is_plain = |text: &str| text.len() <= MAX_METADATA_BYTES && !text.chars().any(char::is_control);
    if metadata.len() > MAX_METADATA {
        return Err(DeployRefusal::BadValue {
            subject: "the metadata".to_owned(),
            reason: "a deployment has at most 32 entries",
        });
    }
    match metadata.iter().find(|(name, value)| name.is_empty() || !is_plain(name) || !is_plain(value)) {
        Some((name, _)) => Err(DeployRefusal::BadValue {
            subject: format!("the metadata `{}`", name.escape_debug()),
            reason: "name and value are printable text of at most 1 KiB",
        }),
        None => Ok(()),
    }
}

/// Longest argument or value of the environment, in bytes: what execve(2) takes of one (MAX_ARG_STRLEN), as far as it is sane.
const MAX_VALUE_BYTES: usize = 32 * 1024;

/// The limit of a health check's path or host: every server accepts a request line of this size.
const MAX_HEAD_BYTES: usize = 2048;

/// Checks the values that are written into a process's arguments and environment and into unit files.
pub fn check_values(how: &RunSpec) -> Result<(), DeployRefusal> {
    let bad = |subject: String, reason| Err(DeployRefusal::BadValue { subject, reason });
    let argv = match &how.workload {
        Workload::Command { argv } => argv.as_slice(),
        _ => &[],
    };
    if matches!(&how.workload, Workload::Command { argv } if argv.first().is_none_or(String::is_empty)) {
        return Err(DeployRefusal::NoProgram);
    }
    let sane = |text: &str| text.len() <= MAX_VALUE_BYTES && !text.contains(['\0', '\n', '\r']);
    if let Some(at) = argv.iter().position(|word| !sane(word)) {
        return bad(format!("argument {at} of the program"), "no NUL, no line break, at most 32 KiB");
    }
    for (name, value) in &how.env {
        let start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !start || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || name.len() > 128 {
            return bad(
                format!("`{}` in the environment", name.escape_debug()),
                "a name has letters, digits and `_`",
            );
        }
        if is_placeholder(value) {
            return bad(
                format!("the value of `{name}`"),
                "it is a placeholder from an answer, not the value itself",
            );
        }
        if value.len() > MAX_VALUE_BYTES || value.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return bad(
                format!("the value of `{name}`"),
                "no control characters but tabs and line feeds, at most 32 KiB",
            );
        }
    }
    if how.user.is_some() && !matches!(how.workload, Workload::Command { .. }) {
        return bad(
            "a user".to_owned(),
            "only a program of your own is run as one; a web server gives up its rights itself",
        );
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if let Some(user) = &how.user
        && (user.is_empty() || user.len() > 32 || user.starts_with(['-', '.']) || !user.chars().all(plain))
    {
        return bad(
            format!("the user `{}`", user.escape_debug()),
            "a user has letters, digits, `_`, `-` and `.`",
        );
    }
    Ok(())
}

/// Checks that the health check can be sent at all, and answered by the web server of a vhost.
pub fn check_health(health: &Health, how: &RunSpec) -> Result<(), DeployRefusal> {
    let bad = |subject: &str, reason| Err(DeployRefusal::BadValue { subject: subject.to_owned(), reason });
    let sane = |text: &str| text.len() <= MAX_HEAD_BYTES && text.chars().all(|c| c.is_ascii_graphic());
    if !health.path.starts_with('/') || !sane(&health.path) {
        return bad("the health check's path", "it begins with `/` and has printable ASCII without spaces");
    }
    if matches!(how.workload, Workload::Vhost { .. }) && vhost::check_health_path(&health.path).is_err() {
        return bad("the health check's path", "a vhost can hold letters, digits and `/ . _ ~ + @ -` alone");
    }
    if health.host.as_ref().is_some_and(|host| host.is_empty() || !sane(host)) {
        return bad("the health check's host", "it has printable ASCII without spaces");
    }
    if !(100..=599).contains(&health.status) {
        return bad("the health check's status", "it is a number from 100 to 599");
    }
    if health.interval.is_zero() || health.timeout.is_zero() {
        return bad("the health check's interval or timeout", "it is more than nothing");
    }
    Ok(())
}

/// The ports that no instance may have: those of deployments, those HAProxy connects to.
pub fn collect_used_ports(
    existing: &[Deployment],
    records: &[ServiceRecord],
    site: &HostNetwork,
) -> BTreeSet<Port> {
    let instances = existing.iter().flat_map(Deployment::instances).map(|instance| instance.port);
    let own = [site.ports.check, site.ports.main, site.ports.backup];
    instances.chain(records.iter().flat_map(ServiceRecord::ports)).chain(own).collect()
}

/// The ports an instance could have, in the order they are tried.
pub fn list_candidate_ports<'a>(
    site: &HostNetwork,
    taken: &'a BTreeSet<Port>,
) -> impl Iterator<Item = Port> + 'a {
    let (first, last) = site.port_range;
    (first.get()..=last.get()).filter_map(Port::new).filter(|port| !taken.contains(port))
}

/// Checks a port that the operator named.
pub fn check_port(
    port: Port,
    existing: &[Deployment],
    records: &[ServiceRecord],
    site: &HostNetwork,
) -> Result<(), DeployRefusal> {
    let uses = |one: &&Deployment| one.instances().any(|instance| instance.port == port);
    if let Some(other) = existing.iter().find(uses) {
        return Err(DeployRefusal::EndpointTaken { id: other.id.clone() });
    }
    if !collect_used_ports(&[], records, site).contains(&port) {
        return Ok(());
    }
    let service = records
        .iter()
        .find(|record| record.ports().any(|one| one == port))
        .map(|record| record.forward.service.clone());
    Err(match service {
        Some(service) => DeployRefusal::ServicePort { port, service },
        None => DeployRefusal::PortTaken { port, owner: Some("the service itself".to_owned()) },
    })
}

/// How long a version that has answered before may take to answer again: its checks take their time.
pub fn compute_health_timeout(health: &Health) -> Duration {
    MIN_HEALTH_TIMEOUT.max((health.interval + health.timeout) * health.rise)
}

const MIN_HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the deployment that the reference names, in any stage.
pub fn find_deployment<'a>(
    existing: &'a [Deployment],
    which: &DeploymentRef,
) -> Result<&'a Deployment, DeployRefusal> {
    existing.iter().find(|one| which.matches(one)).ok_or_else(|| DeployRefusal::NoVersion(which.clone()))
}

/// Returns the deployment that the reference names, if traffic may be routed to it.
pub fn find_ready<'a>(
    existing: &'a [Deployment],
    which: &DeploymentRef,
) -> Result<&'a Deployment, DeployRefusal> {
    let found = find_deployment(existing, which)?;
    if matches!(found.stage, Stage::Ready | Stage::Updating | Stage::Retiring) {
        Ok(found)
    } else {
        Err(DeployRefusal::InProgress { service: found.service.clone(), version: found.version.to_string() })
    }
}

/// Whether a deployment may be taken away, work on it apart (seed rows D10, D11).
pub fn check_kill(
    records: &[ServiceRecord],
    existing: &[Deployment],
    deployment: &Deployment,
) -> Result<(), DeployRefusal> {
    let others = existing.iter().any(|one| one.service == deployment.service && one.id != deployment.id);
    if find_role(records, deployment) == Role::Main && others {
        return Err(DeployRefusal::MainWithShadows);
    }
    Ok(())
}

/// Refuses to stop a deployment while a request is in flight on it.
pub fn check_idle(sockets: &SocketCount) -> Result<(), DeployRefusal> {
    if sockets.maybe_busy() > 0 {
        return Err(DeployRefusal::NotDrained { invocations: sockets.maybe_busy() });
    }
    Ok(())
}

/// Refuses to stop a deployment while that could lose a request.
pub fn check_drained(sockets: &SocketCount) -> Result<(), DeployRefusal> {
    check_idle(sockets)?;
    if sockets.idle > 0 {
        return Err(DeployRefusal::IdleConnections { idle: sockets.idle });
    }
    Ok(())
}

pub fn find_record<'a>(records: &'a [ServiceRecord], service: &ServiceName) -> Option<&'a ServiceRecord> {
    records.iter().find(|record| record.forward.service == *service)
}

pub fn find_role(records: &[ServiceRecord], deployment: &Deployment) -> Role {
    let routes = find_record(records, &deployment.service).and_then(|record| record.routes.as_ref());
    let is_main = routes.is_some_and(|routes| routes.main.deployment == deployment.id);
    if is_main { Role::Main } else { Role::Shadow }
}

/// Whether the backup vhost is served by it.
pub fn is_backup(records: &[ServiceRecord], deployment: &Deployment) -> bool {
    let routes = find_record(records, &deployment.service).and_then(|record| record.routes.as_ref());
    routes.is_some_and(|routes| routes.backup.deployment == deployment.id)
}

/// Whether a port of the service is routed to this instance's port on the deployment's behalf.
pub fn routes_to(records: &[ServiceRecord], deployment: &Deployment, port: Port) -> bool {
    let routes = find_record(records, &deployment.service).and_then(|record| record.routes.as_ref());
    let both = routes.iter().flat_map(|routes| [&routes.main, &routes.backup]).collect::<Vec<_>>();
    both.iter().any(|route| route.deployment == deployment.id && route.targets().any(|target| target == port))
}

/// Seed row R15: what is not main is drained when nothing is at work on it.
pub fn derive_status(role: Role, sockets: &SocketCount) -> DeploymentStatus {
    match role {
        Role::Main => DeploymentStatus::Active,
        Role::Shadow if sockets.maybe_busy() > 0 => DeploymentStatus::Draining,
        Role::Shadow => DeploymentStatus::Drained,
    }
}

/// The recovery of a change whose process was killed: either back to the state before, or completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The deployment never took traffic: it goes away again, instance and release.
    Remove,
    /// The deployment is main already: only its record does not have that yet.
    MarkReady,
    /// The new instance of an update never took traffic.
    RemoveNext,
    /// The new instance has the traffic: the old one goes.
    FinishUpdate,
    /// A kill goes on to its end.
    FinishKill,
}

/// `None`: nothing is left over.
pub fn plan_recovery(records: &[ServiceRecord], deployment: &Deployment) -> Option<Recovery> {
    match (deployment.stage, &deployment.other_instance) {
        (Stage::Ready, None) => None,
        (Stage::Starting, _) => Some(if routes_to(records, deployment, deployment.instance.port) {
            Recovery::MarkReady
        } else {
            Recovery::Remove
        }),
        (Stage::Killing, _) => Some(Recovery::FinishKill),
        (Stage::Updating | Stage::Ready, Some(next)) => Some(if routes_to(records, deployment, next.port) {
            Recovery::FinishUpdate
        } else {
            Recovery::RemoveNext
        }),
        (Stage::Retiring, _) => Some(Recovery::RemoveNext),
        (Stage::Updating, None) => Some(Recovery::MarkReady),
    }
}

/// Whether a deployment runs from a release, or will.
pub fn is_release_used(existing: &[Deployment], service: &ServiceName, release: &str) -> bool {
    list_used_releases(existing, service).any(|name| name == release)
}

fn list_used_releases(existing: &[Deployment], service: &ServiceName) -> impl Iterator<Item = String> {
    let mine = existing.iter().filter(move |one| one.service == *service);
    mine.flat_map(|one| one.instances().map(|instance| one.release_name(instance.build)))
}

/// Which releases may go: those no deployment uses, the newest `keep` of them apart. `there`: oldest first.
pub fn select_prunable(
    there: &[String],
    existing: &[Deployment],
    service: &ServiceName,
    retained: usize,
) -> Vec<String> {
    let used: BTreeSet<String> = list_used_releases(existing, service).collect();
    let unused: Vec<&String> = there.iter().filter(|name| !used.contains(*name)).collect();
    let surplus = unused.len().saturating_sub(retained);
    unused.into_iter().take(surplus).cloned().collect()
}

#[cfg(test)]
mod tests;
