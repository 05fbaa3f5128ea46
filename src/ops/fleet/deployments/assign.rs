//! `assign`: another version becomes main.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::maybe_done;

use super::assign_options::{AssignOptions, AssignReport, HostAssigned};
use super::backup_connections::close_backup_connections;
use super::deployment_name::DeploymentName;
use super::each_host::{PerHost, all_or_partial, for_each_host, report_progress, require_owned_hosts};
use super::error::FleetDeployError;
use super::idle_connections::{FLUSH_TIMEOUT, find_replaced, flush_hosts};
use super::list::{FleetDeployment, list_deployments};
use super::rollback::roll_back_hosts;
use super::trial::{WatchFuture, finish_watch, watch};
use crate::model::api::deployments::{
    AssignRequest, AssignResponse, AssignScope, DeploymentRef, DeploymentView, RollbackRequest,
};
use crate::model::deployment::Role;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::host_main::HostMain;
use crate::model::name::{HostName, ServiceName};
use crate::ops::fleet::lock::{check_no_live_holder, run_under_lock};
use crate::ops::fleet::mains::read_mains;
use crate::ops::fleet::owner::HostActors;
use crate::ops::fleet::reach;
use crate::ops::fleet::roll::{self, RollError, RollReport};
use crate::plan::roll::plan_roll;
use crate::plan::roll::progress::{HostProgress, StepState};
use crate::plan::rollback::AssignRecovery;
use crate::world::FleetWorld;
use crate::world::link::LinkError;

/// Checks, before the prompt, what would refuse to make the target main on the hosts.
pub async fn check_assign(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    target: &FleetDeployment,
    options: &AssignOptions,
) -> Result<(), FleetDeployError> {
    target.require_on(hosts)?;
    if target.is_main() {
        return Ok(());
    }
    require_owned_hosts(world, fleet, &target.service, hosts, &options.actor).await?;
    if let Some(spec) = &options.roll {
        plan_roll(fleet, spec).map_err(RollError::from)?;
    }
    Ok(check_no_live_holder(world).await?)
}

/// Makes the target main on every one of the hosts and watches it; if it becomes unhealthy in its watch window, the old main
/// is back. The caller has resolved the target by a list of these hosts.
pub async fn assign(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    target: &FleetDeployment,
    options: &AssignOptions,
) -> Result<AssignReport, FleetDeployError> {
    target.require_on(hosts)?;
    let strategy = options.strategy();
    let listing;
    let target = if target.is_main() {
        // The list may be as old as the operator's confirmation took: main may have changed since.
        listing = list_deployments(world, hosts).await;
        listing.resolve_target(&DeploymentName::Id(target.id.clone()), hosts)?
    } else {
        target
    };
    if target.is_main() {
        return Ok(AssignReport { strategy, is_already_main: true, hosts: vec![], roll: None });
    }
    let mut watching = pin!(maybe_done(watch(world, fleet, hosts, target, options)));
    let (flipped, rolled) = match &options.roll {
        None => {
            let flipping = flip(world, fleet, hosts, target, watching.as_mut(), options);
            let flipped = run_under_lock(world, &options.actor.user, "assign", flipping).await?;
            (flipped, None)
        }
        Some(spec) => (vec![], Some(roll::run(world, fleet, spec, &options.actor).await?)),
    };
    if let Some(report) = rolled.as_ref().filter(|report| !report.is_complete()) {
        let recovery = find_recovery(world, hosts, target, &options.actor).await;
        return Err(build_incomplete_error(report, &target.service, recovery));
    }
    finish_watch(watching).await?;
    if rolled.is_some() {
        close_backup_connections(world, fleet, hosts).await;
    }
    Ok(AssignReport { strategy, is_already_main: false, hosts: flipped, roll: rolled })
}

/// Finds the last good main of each host that the assign has changed.
async fn find_recovery(
    world: &FleetWorld,
    hosts: &[Host],
    target: &FleetDeployment,
    actor: &Actor,
) -> AssignRecovery {
    let after = read_mains(world, &target.service, hosts).await.known;
    let changed: Vec<Host> = hosts.iter().filter(|host| !target.is_main_on(&host.name)).cloned().collect();
    let request = RollbackRequest { actor: actor.clone(), reason: String::new(), from: None, dry_run: true };
    let returns =
        for_each_host(world, &changed, async |_, link| link.rollback(&target.service, &request).await).await;
    let old_main = |(host, planned): (HostName, Result<AssignResponse, LinkError>)| HostMain {
        host,
        version: planned.ok().map(|planned| planned.deployment.version),
    };
    let before: Vec<HostMain> = returns.into_iter().map(old_main).collect();
    AssignRecovery::new(&before, &after, &target.version)
}

fn build_incomplete_error(
    report: &RollReport,
    service: &ServiceName,
    recovery: AssignRecovery,
) -> FleetDeployError {
    let progress = &report.progress;
    let reason = progress.stop_reason.clone().unwrap_or_else(|| "some hosts failed".to_owned());
    let is_done = |host: &&HostProgress| host.state == StepState::Done;
    let done = progress.hosts.iter().filter(is_done).count();
    let (total, finished) = (progress.hosts.len(), progress.is_finished());
    let service = service.clone();
    FleetDeployError::RollIncomplete { done, total, reason, finished, service, recovery }
}

/// Assigns by a flip; the caller holds the fleet lock.
pub(in crate::ops) async fn flip_under_lock(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    name: &DeploymentName,
    options: &AssignOptions,
) -> Result<(), FleetDeployError> {
    let listing = list_deployments(world, hosts).await;
    let target = listing.resolve_target(name, hosts)?;
    let mut watching = pin!(maybe_done(watch(world, fleet, hosts, target, options)));
    if !target.is_main() {
        flip(world, fleet, hosts, target, watching.as_mut(), options).await?;
    }
    finish_watch(watching).await
}

/// Watches and flushes concurrently: a failure during the flush is noticed at once, and the flush ends when main is rolled back.
async fn flip<W>(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    target: &FleetDeployment,
    mut watching: WatchFuture<'_, W>,
    options: &AssignOptions,
) -> Result<Vec<HostAssigned>, FleetDeployError>
where
    W: Future<Output = Result<(), FleetDeployError>>,
{
    let FleetDeployment { service, version, .. } = target;
    let AssignOptions { watch, actor, .. } = options;
    let actors = require_owned_hosts(world, fleet, service, hosts, actor).await?;
    let request = |host: &Host| AssignRequest {
        which: DeploymentRef::Version { service: service.clone(), version: version.clone() },
        scope: AssignScope::MainAndBackup,
        trial: *watch,
        actor: actors.find(&host.name),
        detail: "flip".to_owned(),
        dry_run: false,
    };
    let assigned =
        for_each_host(world, hosts, async |host, link| link.assign(service, &request(host)).await).await;
    if assigned.iter().any(|(_, result)| result.is_err()) {
        revert_flip(world, fleet, hosts, target, &assigned, &actors).await;
    }
    let timeout = if options.wait { FLUSH_TIMEOUT } else { Duration::ZERO };
    let mut flushing = pin!(flush_hosts(world, fleet, all_or_partial(assigned)?, timeout));
    tokio::select! {
        hosts = &mut flushing => return Ok(hosts),
        () = watching.as_mut() => {}
    }
    let is_rolled_back = watching.output_mut().is_some_and(|watched| watched.is_err());
    Ok(if is_rolled_back { vec![] } else { flushing.await })
}

/// Makes the old main main again on the hosts where the flip was made, because it was not made on another. A host whose
/// response was lost may have made it, or be at work on it: its state is queried, and the others do not wait for that.
async fn revert_flip(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    target: &FleetDeployment,
    assigned: &PerHost<AssignResponse>,
    actors: &HostActors,
) {
    let select = |is_selected: &dyn Fn(&Host, &Result<AssignResponse, LinkError>) -> bool| -> Vec<Host> {
        let pairs = hosts.iter().zip(assigned);
        pairs.filter(|(host, (_, result))| is_selected(host, result)).map(|(host, _)| host.clone()).collect()
    };
    let moved = select(&|_, result| result.as_ref().is_ok_and(|assigned| find_replaced(assigned).is_some()));
    let lost = select(&|host, result| {
        result.as_ref().is_err_and(LinkError::is_connection_lost) && !target.is_main_on(&host.name)
    });
    let lost = lost.iter().map(async |host| {
        if wait_until_main(world, host, target).await {
            let _ = roll_back_hosts(world, fleet, std::slice::from_ref(host), target, actors, REVERT_REASON)
                .await;
        }
    });
    // `roll_back_hosts` has reported every host where the old main does not come back.
    let _ = tokio::join!(
        roll_back_hosts(world, fleet, &moved, target, actors, REVERT_REASON),
        futures_util::future::join_all(lost)
    );
}

const REVERT_REASON: &str = "another host failed";

/// How long a host whose response was lost is queried for the outcome: it may still be at work on the request, and waits up to
/// 15 s for another process that changes its rules.
const LOST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
const QUERY_INTERVAL: Duration = Duration::from_millis(150);

/// Returns whether the host has made the version main, or does within [`LOST_RESPONSE_TIMEOUT`].
async fn wait_until_main(world: &FleetWorld, host: &Host, target: &FleetDeployment) -> bool {
    let deadline = tokio::time::Instant::now() + LOST_RESPONSE_TIMEOUT;
    loop {
        let view = async { reach::find_link(world, host)?.list_deployments().await }.await;
        let is_main = |view: DeploymentView| view.deployment.id == target.id && view.role == Role::Main;
        match view.map(|view| view.deployments.into_iter().any(is_main)) {
            Ok(true) => return true,
            Ok(false) | Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(QUERY_INTERVAL).await;
            }
            Ok(false) => return false,
            Err(error) => {
                report_progress(
                    world,
                    Some(&host.name),
                    format!("is not known to have the old main: {error}"),
                );
                return false;
            }
        }
    }
}
