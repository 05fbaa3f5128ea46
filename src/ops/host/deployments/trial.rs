//! The watch window after an assign: a new main whose health fails in it makes way for the one before, by itself.

use std::collections::BTreeMap;

use super::assign;
use super::error::HostDeployError;
use super::record::list_service_deployments;
use crate::model::api::deployments::{DeploymentRef, RollbackRequest, TrialOutcome, WatchRequest};
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::forward::Trial;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::ops::host::completion::run_to_completion;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::versions::{self, DeployRefusal, find_deployment};
use crate::world::HostWorld;

/// The number of failed checks in a row that are no accident: as HAProxy's `fall`.
const MAX_FAILED_CHECKS: u32 = 3;

/// Watches a trial. Returns when the window is over, or its result is known. Two may watch at once: the first to act is the
/// only one. A late caller gets the recorded result.
pub async fn watch(
    world: &HostWorld,
    service: &ServiceName,
    request: &WatchRequest,
) -> Result<TrialOutcome, HostDeployError> {
    let WatchRequest { id, actor } = request;
    let mut failed: BTreeMap<u32, u32> = BTreeMap::new();
    loop {
        let Some((main, trial)) = find_trial(world, service)?.filter(|(main, _)| main.id == *id) else {
            return read_trial_end(world, service, id);
        };
        // A version whose instances fail one by one is not good, although the others answer for it.
        let checks = main.active_instances().map(async |instance| {
            (instance.number, world.probe.check(main.endpoint(instance), &main.health).await)
        });
        for (number, result) in futures_util::future::join_all(checks).await {
            let Err(error) = result else {
                failed.remove(&number);
                continue;
            };
            let times = failed.entry(number).or_default();
            *times += 1;
            if *times >= MAX_FAILED_CHECKS {
                return roll_back_main(world, service, &main, &trial, actor, &error.to_string()).await;
            }
        }
        if failed.is_empty() && world.clock.now() >= trial.until {
            record_passed(world, service, id, actor).await?;
            return read_trial_end(world, service, id);
        }
        tokio::select! {
            biased;
            () = world.stop.wait() => return Err(HostDeployError::Interrupted),
            () = tokio::time::sleep(main.health.interval) => {}
        }
    }
}

/// Finds main and its trial, where it is on trial.
pub(super) fn find_trial(
    world: &HostWorld,
    service: &ServiceName,
) -> Result<Option<(Deployment, Trial)>, HostDeployError> {
    let Some(record) = rules::read_record(world, service)? else { return Ok(None) };
    let (Some(routes), Some(trial)) = (record.routes, record.trial) else { return Ok(None) };
    let existing = list_service_deployments(world, service)?;
    let main = find_deployment(&existing, &DeploymentRef::Id(routes.main.deployment))?;
    Ok(Some((main.clone(), trial)))
}

/// How many rows to search for the change that made main what it is: repairs add some.
const HISTORY_LIMIT: u32 = 500;

/// Reads how a trial ended: by another watcher, by another command, or because there was none.
fn read_trial_end(
    world: &HostWorld,
    service: &ServiceName,
    expected: &DeploymentId,
) -> Result<TrialOutcome, HostDeployError> {
    let routes = rules::read_record(world, service)?.and_then(|record| record.routes);
    let (now, rollback) = routes.map(|routes| (routes.main.deployment, routes.rollback)).unzip();
    let main =
        list_service_deployments(world, service)?.into_iter().find(|one| Some(&one.id) == now.as_ref());
    let entries = world.store.load_history(Some(service), HISTORY_LIMIT)?;
    Ok(versions::judge_trial(expected, main, rollback.flatten().as_deref(), &entries))
}

async fn roll_back_main(
    world: &HostWorld,
    service: &ServiceName,
    main: &Deployment,
    trial: &Trial,
    actor: &Actor,
    reason: &str,
) -> Result<TrialOutcome, HostDeployError> {
    let request = RollbackRequest {
        dry_run: false,
        actor: Actor { is_host: true, ..actor.clone() },
        reason: format!("by itself: {reason}"),
        from: Some(main.version.clone()),
    };
    // A caller that polls the watch stops waiting at any moment: the rollback goes on to its end.
    let (own, of) = (world.clone(), service.clone());
    match run_to_completion(world, async move { assign::rollback(&own, &of, &request).await }).await {
        Ok(assigned) if assigned.deployment.id == trial.previous => Ok(TrialOutcome::RolledBack {
            previous: Box::new(assigned.deployment),
            reason: reason.to_owned(),
        }),
        Ok(_)
        | Err(HostDeployError::Refused(DeployRefusal::NotMain { .. } | DeployRefusal::Overtaken(_))) => {
            read_trial_end(world, service, &main.id)
        }
        Err(error @ (HostDeployError::Refused(_) | HostDeployError::Unhealthy { .. })) => {
            Ok(TrialOutcome::Stuck { reason: format!("{reason}; and the main before it: {error}") })
        }
        Err(error) => Err(error),
    }
}

/// Records a passed trial. Does nothing if another version has become main since.
async fn record_passed(
    world: &HostWorld,
    service: &ServiceName,
    main: &DeploymentId,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    let actor = Actor { is_host: true, ..actor.clone() };
    let (own, service, main) = (world.clone(), service.clone(), main.clone());
    run_to_completion(world, async move {
        let changed = rules::change_if_needed(&own, "watch", |records| {
            let record = versions::find_record(records, &service);
            Ok::<_, ChangeError>(record.and_then(|record| versions::end_trial(record, &main, &actor)))
        });
        changed.await?;
        Ok(())
    })
    .await
}
