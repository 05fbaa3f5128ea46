//! After an `assign`: every host watches its new main for a while.

use std::pin::Pin;

use futures_util::future::MaybeDone;

use super::assign_options::AssignOptions;
use super::each_host::{all_or_partial, claim_service_hosts, for_each_host, report_progress};
use super::error::{FleetDeployError, OvertakenHost};
use super::list::FleetDeployment;
use super::rollback::roll_back_hosts;
use crate::model::api::deployments::{TrialOutcome, WatchRequest};
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::world::FleetWorld;

/// A watch that may have begun already.
pub(super) type WatchFuture<'a, W> = Pin<&'a mut MaybeDone<W>>;

pub(super) async fn finish_watch<W>(mut watching: WatchFuture<'_, W>) -> Result<(), FleetDeployError>
where
    W: Future<Output = Result<(), FleetDeployError>>,
{
    watching.as_mut().await;
    watching.take_output().unwrap_or(Ok(()))
}

/// Runs the watch window of every host; if one fails, the old main comes back on all of them. A version that another command
/// made main during the window stays.
pub(super) async fn watch(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    target: &FleetDeployment,
    options: &AssignOptions,
) -> Result<(), FleetDeployError> {
    if options.watch.is_zero() {
        return Ok(());
    }
    report_progress(world, None, format!("watching for {}", crate::model::duration::format(options.watch)));
    let request = WatchRequest { id: target.id.clone(), actor: options.actor.clone() };
    let outcomes =
        for_each_host(world, hosts, async |_, link| link.watch_trial(&target.service, &request).await).await;
    let outcomes = all_or_partial(outcomes)?;
    let failure = outcomes.iter().find_map(|(host, outcome)| match outcome {
        TrialOutcome::RolledBack { reason, previous } => Some((host, reason, Some(previous.version.clone()))),
        TrialOutcome::Stuck { reason } => Some((host, reason, None)),
        TrialOutcome::Passed | TrialOutcome::Overtaken { .. } => None,
    });
    let Some((host, reason, mut restored)) = failure else { return check_not_overtaken(&outcomes, target) };
    let reason = format!("{host}: {reason}");
    let has_passed = |host: &&Host| outcomes.contains(&(host.name.clone(), TrialOutcome::Passed));
    let passed: Vec<Host> = hosts.iter().filter(has_passed).cloned().collect();
    let actors = claim_service_hosts(world, fleet, &target.service, &passed, &options.actor).await;
    if let Ok(mains) = roll_back_hosts(world, fleet, &passed, target, &actors, &reason).await {
        restored = restored.or_else(|| mains.first().map(|(_, main)| main.deployment.version.clone()));
    }
    let (service, version) = (target.service.clone(), target.version.clone());
    Err(FleetDeployError::RolledBack { service, version, reason, restored })
}

fn check_not_overtaken(
    outcomes: &[(HostName, TrialOutcome)],
    target: &FleetDeployment,
) -> Result<(), FleetDeployError> {
    let overtaken = outcomes.iter().filter_map(|(host, outcome)| match outcome {
        TrialOutcome::Overtaken { main, actor } => Some(OvertakenHost {
            host: host.clone(),
            main: main.as_ref().map(|main| main.version.clone()),
            actor: actor.clone(),
        }),
        _ => None,
    });
    let hosts: Vec<OvertakenHost> = overtaken.collect();
    if hosts.is_empty() {
        return Ok(());
    }
    let (service, version) = (target.service.clone(), target.version.clone());
    Err(FleetDeployError::Overtaken { service, version, hosts })
}
