//! `assign` and `rollback`: another version becomes main.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::maybe_done;
use serde::Serialize;

use super::idle_connections::{can_retry_flush, flush};
use super::list::list_deployments;
use super::trial::{WatchFuture, finish_watch, watch};
use super::{FleetDeployError, FleetDeployment, PerHost, all_or_partial, each, say, with_fleet_lock};
use crate::model::api::deployments::{
    AssignRequest, AssignResponse, AssignScope, DeploymentRef, RollbackRequest,
};
use crate::model::deployment::{Deployment, Role};
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{BalancerName, HostName, ServiceName};
use crate::model::roll::{NewMain, RollSpec};
use crate::model::version::Version;
use crate::ops::fleet::reach;
use crate::ops::fleet::roll::{self, RollReport};
use crate::world::FleetWorld;
use crate::world::balancer::FlushResult;
use crate::world::link::LinkError;

/// How main is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Host by host under maintenance: no client sees the old version once its host is back.
    Rolling,
    /// Both ports at once, on every host: new connections are routed to the new version, old ones end on the old one.
    Flip,
}

#[derive(Debug, Clone)]
pub struct AssignOptions {
    pub service: ServiceName,
    pub version: Version,
    pub strategy: Strategy,
    /// How long the new main is watched on every host; zero: not at all.
    pub watch: Duration,
    /// Whether a flip waits until no connection is routed to the old version any more.
    pub wait: bool,
    pub actor: Actor,
    /// The settings of the roll for `rolling`, without its hosts and command.
    pub roll: RollSpec,
}

impl AssignOptions {
    /// A flip that is watched for `watch`.
    pub fn new_flip(
        fleet: &Fleet,
        service: &ServiceName,
        version: &Version,
        watch: Duration,
        actor: &Actor,
    ) -> Self {
        let roll = RollSpec {
            service: service.clone(),
            hosts: vec![],
            batch: fleet.roll.batch,
            max_failures: fleet.roll.max_failures,
            on_failure: fleet.roll.on_failure,
            drain_timeout: fleet.limits.drain_timeout,
            health_timeout: fleet.roll.health_timeout,
            command: vec![],
            remote: false,
            command_timeout: Duration::ZERO,
            force: false,
            assign: None,
        };
        let (service, version, actor) = (service.clone(), version.clone(), actor.clone());
        Self { service, version, strategy: Strategy::Flip, watch, wait: true, actor, roll }
    }
}

/// The result of a flip on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostAssigned {
    pub host: HostName,
    pub previous: Option<Version>,
    /// Each balancer's response to the request to close the idle connections it keeps to the old version.
    pub flushed: Vec<(BalancerName, Result<FlushResult, String>)>,
    /// Connections through main's data port that the old version still holds; absent where the host could not count them.
    pub left: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AssignReport {
    pub strategy: Strategy,
    /// Whether the version was main on every host already.
    pub is_already_main: bool,
    /// The hosts of a flip; empty for a rolling assignment.
    pub hosts: Vec<HostAssigned>,
    pub roll: Option<RollReport>,
}

/// Makes the version main on every one of the hosts and watches it; if it becomes unhealthy in its watch window, the old main
/// is back.
pub async fn assign(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &AssignOptions,
) -> Result<AssignReport, FleetDeployError> {
    let row = find_target(world, hosts, &options.service, &options.version).await?;
    let strategy = options.strategy;
    if row.hosts.iter().all(|(_, one)| one.role == Role::Main) {
        return Ok(AssignReport { strategy, is_already_main: true, hosts: vec![], roll: None });
    }
    let mut watching = pin!(maybe_done(watch(world, fleet, hosts, &row.id, options)));
    let (flipped, rolled) = match strategy {
        Strategy::Flip => {
            let flipping = flip(world, fleet, hosts, &row, watching.as_mut(), options);
            let flipped = with_fleet_lock(world, &options.actor, "assign", flipping).await?;
            (flipped, None)
        }
        Strategy::Rolling => (vec![], Some(assign_rolling(world, fleet, hosts, options).await?)),
    };
    if let Some(report) = rolled.as_ref().filter(|report| !report.is_complete()) {
        let standing = &report.standing;
        let why = standing.stop_reason.clone().unwrap_or_else(|| "some hosts failed".to_owned());
        let reached = |host: &&crate::plan::roll::progress::HostProgress| {
            host.state == crate::plan::roll::progress::StepState::Done
        };
        let done = standing.hosts.iter().filter(reached).count();
        let (of, finished) = (standing.hosts.len(), standing.is_finished());
        return Err(FleetDeployError::RollIncomplete { done, of, why, finished });
    }
    finish_watch(watching).await?;
    Ok(AssignReport { strategy, is_already_main: false, hosts: flipped, roll: rolled })
}

/// Assigns by a flip; the caller holds the fleet lock.
pub(in crate::ops) async fn flip_under_lock(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &AssignOptions,
) -> Result<(), FleetDeployError> {
    let row = find_target(world, hosts, &options.service, &options.version).await?;
    let mut watching = pin!(maybe_done(watch(world, fleet, hosts, &row.id, options)));
    if row.hosts.iter().any(|(_, one)| one.role != Role::Main) {
        flip(world, fleet, hosts, &row, watching.as_mut(), options).await?;
    }
    finish_watch(watching).await
}

/// The version, which has to be on every host that is named.
async fn find_target(
    world: &FleetWorld,
    hosts: &[Host],
    service: &ServiceName,
    version: &Version,
) -> Result<FleetDeployment, FleetDeployError> {
    let there = list_deployments(world, hosts).await;
    let of_service = there.rows.iter().any(|row| row.service == *service);
    let Some(row) = there.find(service, version) else {
        return Err(if of_service || !there.unread.is_empty() {
            FleetDeployError::NoVersion { service: service.clone(), version: version.clone() }
        } else {
            FleetDeployError::NoMain(service.clone())
        });
    };
    let has = |host: &&Host| row.hosts.iter().any(|(name, _)| *name == host.name);
    let without: Vec<HostName> =
        hosts.iter().filter(|host| !has(host)).map(|host| host.name.clone()).collect();
    if !without.is_empty() {
        let (service, version) = (service.clone(), version.clone());
        return Err(FleetDeployError::MissingOnHosts { service, version, hosts: without });
    }
    Ok(row.clone())
}

async fn assign_rolling(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &AssignOptions,
) -> Result<RollReport, FleetDeployError> {
    let AssignOptions { service, version, .. } = options;
    let command = ["switchman", "assign", service.as_str(), &version.to_string()].map(str::to_owned);
    let spec = RollSpec {
        service: service.clone(),
        hosts: hosts.iter().map(|host| host.name.clone()).collect(),
        command: command.to_vec(),
        assign: Some(NewMain { version: version.clone(), trial: options.watch }),
        ..options.roll.clone()
    };
    Ok(roll::run(world, fleet, &spec, &options.actor).await?)
}

/// Watches and flushes concurrently: a failure during the flush is noticed at once, and the flush ends when main is rolled back.
async fn flip<W>(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    row: &FleetDeployment,
    mut watching: WatchFuture<'_, W>,
    options: &AssignOptions,
) -> Result<Vec<HostAssigned>, FleetDeployError>
where
    W: Future<Output = Result<(), FleetDeployError>>,
{
    let AssignOptions { service, version, watch, actor, .. } = options;
    let request = AssignRequest {
        which: DeploymentRef::Version { service: service.clone(), version: version.clone() },
        scope: AssignScope::MainAndBackup,
        trial: *watch,
        actor: actor.clone(),
        detail: "flip".to_owned(),
    };
    let assigned = each(world, hosts, async |_, link| link.assign(service, &request).await).await;
    if assigned.iter().any(|(_, one)| one.is_err()) {
        revert_flip(world, fleet, hosts, row, &assigned, options).await;
    }
    let leaves = if options.wait { FLUSH_TIMEOUT } else { Duration::ZERO };
    let mut flushing = pin!(flushed(world, fleet, all_or_partial(assigned)?, leaves));
    tokio::select! {
        flushed = &mut flushing => return flushed,
        () = watching.as_mut() => {}
    }
    if watching.output_mut().is_some_and(|seen| seen.is_err()) { Ok(vec![]) } else { flushing.await }
}

/// The old main is back on the hosts where the flip was made, because it was not made on another. A host whose answer was lost
/// may have made it, or be at work on it: its state is queried, and the others do not wait for that.
async fn revert_flip(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    row: &FleetDeployment,
    assigned: &PerHost<AssignResponse>,
    options: &AssignOptions,
) {
    let which = |meant: &dyn Fn(&Host, &Result<AssignResponse, LinkError>) -> bool| -> Vec<Host> {
        let pairs = hosts.iter().zip(assigned);
        pairs.filter(|(host, (_, one))| meant(host, one)).map(|(host, _)| host.clone()).collect()
    };
    let moved = which(&|_, one| one.as_ref().is_ok_and(|one| was(one).is_some()));
    let lost = which(&|host, one| {
        one.as_ref().is_err_and(LinkError::is_connection_lost) && !is_main_on(row, &host.name)
    });
    let lost = lost.iter().map(async |host| {
        if wait_until_main(world, host, row).await {
            let _ = back(world, fleet, std::slice::from_ref(host), options, REVERT_REASON).await;
        }
    });
    // `back` has reported every host where the old main does not come back.
    let _ = tokio::join!(
        back(world, fleet, &moved, options, REVERT_REASON),
        futures_util::future::join_all(lost)
    );
}

const REVERT_REASON: &str = "another host failed";

fn is_main_on(row: &FleetDeployment, host: &HostName) -> bool {
    row.hosts.iter().any(|(name, view)| name == host && view.role == Role::Main)
}

/// How long a host whose response was lost is queried for the outcome: it may still be at work on the request.
const LOST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the host has made the version main, or does within a while.
async fn wait_until_main(world: &FleetWorld, host: &Host, row: &FleetDeployment) -> bool {
    let deadline = tokio::time::Instant::now() + LOST_ANSWER_TIMEOUT;
    loop {
        let view = async { reach::link(world, host)?.list_deployments().await }.await;
        let main = view.map(|view| {
            view.deployments.iter().any(|one| one.deployment.id == row.id && one.role == Role::Main)
        });
        match main {
            Ok(true) => return true,
            Ok(false) | Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(FLUSH_INTERVAL).await;
            }
            Ok(false) => return false,
            Err(error) => {
                say(world, Some(&host.name), format!("is not known to have the old main: {error}"));
                return false;
            }
        }
    }
}

fn was(assigned: &AssignResponse) -> Option<&Deployment> {
    assigned.previous.as_ref().filter(|previous| previous.id != assigned.deployment.id)
}

/// How long connections that carry a request at the moment of a flip are waited for: they are kept by HAProxy when the request
/// is answered, and end at the old version for as long as they live.
pub(in crate::ops) const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
const FLUSH_INTERVAL: Duration = Duration::from_millis(150);

/// Closes the connections that HAProxy keeps to the old version: HAProxy reuses them for as long as they live. Repeats until
/// none is left or `leaves` has passed.
async fn flushed(
    world: &FleetWorld,
    fleet: &Fleet,
    assigned: Vec<(HostName, AssignResponse)>,
    leaves: Duration,
) -> Result<Vec<HostAssigned>, FleetDeployError> {
    let hosts = assigned.into_iter().map(async |(host, assigned)| match was(&assigned) {
        Some(previous) => leave(world, fleet, host, previous, leaves).await,
        None => HostAssigned { host, previous: None, flushed: vec![], left: Some(0) },
    });
    let hosts = futures_util::future::join_all(hosts).await;
    let left: Vec<String> = hosts
        .iter()
        .filter(|host| host.left != Some(0))
        .map(|host| {
            let left = host.left.map_or_else(|| "not known".to_owned(), |left| left.to_string());
            format!("{}: {left}", host.host)
        })
        .collect();
    if !left.is_empty() {
        let each = left.join(", ");
        say(
            world,
            None,
            format!(
                "connections to the old version may still be open ({each}); they end by themselves. switchman can close those that \
                 HAProxy keeps through a stats socket of level admin; those in use, such as a websocket, go on"
            ),
        );
    }
    Ok(hosts)
}

pub(super) async fn leave(
    world: &FleetWorld,
    fleet: &Fleet,
    host: HostName,
    previous: &Deployment,
    leaves: Duration,
) -> HostAssigned {
    let deadline = tokio::time::Instant::now() + leaves;
    let mut closed: Vec<(BalancerName, Result<FlushResult, String>)> = vec![];
    loop {
        let flushed = flush(world, &host).await;
        let able =
            flushed.len() == fleet.balancers.len() && flushed.iter().all(|(_, flush)| can_retry_flush(flush));
        // `Closed` in any round is reported, even if the last round had another result.
        for (balancer, now) in flushed {
            match closed.iter_mut().find(|(name, _)| *name == balancer) {
                Some((_, before)) if *before != Ok(FlushResult::Closed) => *before = now,
                Some(_) => {}
                None => closed.push((balancer, now)),
            }
        }
        tokio::time::sleep(FLUSH_INTERVAL).await;
        let left = count_remaining_connections(world, &host, previous).await;
        if left == Some(0) || !able || tokio::time::Instant::now() >= deadline || world.stop.is_requested() {
            return HostAssigned { host, previous: Some(previous.version.clone()), flushed: closed, left };
        }
    }
}

/// Counts the connections through main's data port that the former main still holds. `None`: the host cannot count them.
async fn count_remaining_connections(
    world: &FleetWorld,
    host: &HostName,
    previous: &Deployment,
) -> Option<u64> {
    let view = world.links.get(host)?.list_deployments().await.ok()?;
    match view.deployments.into_iter().find(|view| view.deployment.id == previous.id) {
        Some(old) => old.via_main_port.ok().map(|count| count.total()),
        None => Some(0),
    }
}

pub(super) async fn back(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &AssignOptions,
    why: &str,
) -> Result<Vec<(HostName, AssignResponse)>, FleetDeployError> {
    let from = Some(options.version.clone());
    let request = RollbackRequest { actor: options.actor.clone(), why: why.to_owned(), from };
    let put = each(world, hosts, async |_, link| link.rollback(&options.service, &request).await).await;
    for (host, one) in &put {
        match one {
            Ok(one) => say(world, Some(host), format!("{} is main again", one.deployment.version)),
            Err(error) => say(world, Some(host), format!("cannot bring back the last good main: {error}")),
        }
    }
    let put = all_or_partial(put)?;
    flushed(world, fleet, put.clone(), Duration::ZERO).await?;
    Ok(put)
}

/// Makes the last good version main again, at once and without steps, on every host.
pub async fn rollback(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    service: &ServiceName,
    actor: &Actor,
) -> Result<Vec<(HostName, AssignResponse)>, FleetDeployError> {
    let request = RollbackRequest { actor: actor.clone(), why: String::new(), from: None };
    let put =
        all_or_partial(each(world, hosts, async |_, link| link.rollback(service, &request).await).await)?;
    flushed(world, fleet, put.clone(), Duration::ZERO).await?;
    Ok(put)
}
