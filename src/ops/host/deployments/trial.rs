//! The watch window after an assign: a new main whose health fails in it makes way for the one before, by itself.

use super::assign;
use super::{VersionError, of_service};
use crate::model::api::deployments::{RollbackRequest, TrialEnd, WatchRequest, Which};
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::forward::Trial;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::versions::{self, Refused, find};
use crate::world::HostWorld;

/// So many failed checks in a row are no accident: as HAProxy's `fall`.
const FALL: u32 = 3;

/// Returns when the window is over, or what became of it is known. Two may watch at once: the first to act is the only one.
/// Who asks late is told what has become of it.
pub async fn watch(
    world: &HostWorld,
    service: &ServiceName,
    request: &WatchRequest,
) -> Result<TrialEnd, VersionError> {
    let WatchRequest { id, actor } = request;
    let mut failed = 0;
    loop {
        let Some((main, trial)) = on_trial(world, service)?.filter(|(main, _)| main.id == *id) else {
            return ended(world, service, id);
        };
        let instance = &main.instance;
        match world.probe.ask(main.endpoint(instance), &main.health).await {
            Ok(()) => failed = 0,
            Err(why) => {
                failed += 1;
                if failed >= FALL {
                    return put_back(world, service, &main, &trial, actor, &why.to_string()).await;
                }
            }
        }
        if failed == 0 && world.clock.now() >= trial.until {
            passed(world, service, id, actor).await?;
            return ended(world, service, id);
        }
        tokio::select! {
            biased;
            () = world.stop.requested() => return Err(VersionError::Interrupted),
            () = tokio::time::sleep(main.health.interval) => {}
        }
    }
}

/// Main and its trial, where it is on trial.
pub(super) fn on_trial(
    world: &HostWorld,
    service: &ServiceName,
) -> Result<Option<(Deployment, Trial)>, VersionError> {
    let Some(record) = rules::record(world, service)? else { return Ok(None) };
    let (Some(routes), Some(trial)) = (record.routes, record.trial) else { return Ok(None) };
    let existing = of_service(world, service)?;
    let main = find(&existing, &Which::Id(routes.main.deployment))?;
    Ok(Some((main.clone(), trial)))
}

/// How many rows may tell who made main what it is: repairs add some.
const ROWS: u32 = 500;

/// It is not on trial any more: another watcher ended that, or another command, or it never was.
fn ended(
    world: &HostWorld,
    service: &ServiceName,
    expected: &DeploymentId,
) -> Result<TrialEnd, VersionError> {
    let routes = rules::record(world, service)?.and_then(|record| record.routes);
    let now = routes.map(|routes| routes.main.deployment);
    let main = of_service(world, service)?.into_iter().find(|one| Some(&one.id) == now.as_ref());
    Ok(versions::ended(expected, main, &world.store.history(Some(service), ROWS)?))
}

async fn put_back(
    world: &HostWorld,
    service: &ServiceName,
    main: &Deployment,
    trial: &Trial,
    actor: &Actor,
    why: &str,
) -> Result<TrialEnd, VersionError> {
    let request = RollbackRequest {
        actor: actor.clone(),
        why: format!("by itself: {why}"),
        from: Some(main.version.clone()),
    };
    match assign::rollback(world, service, &request).await {
        Ok(assigned) if assigned.deployment.id == trial.previous => {
            Ok(TrialEnd::PutBack { previous: Box::new(assigned.deployment), why: why.to_owned() })
        }
        Ok(_) | Err(VersionError::Refused(Refused::NotMain { .. } | Refused::Overtaken(_))) => {
            ended(world, service, &main.id)
        }
        Err(error @ (VersionError::Refused(_) | VersionError::Unhealthy { .. })) => {
            Ok(TrialEnd::Stuck { why: format!("{why}; and the main before it: {error}") })
        }
        Err(error) => Err(error),
    }
}

/// Nothing, where another was made main meanwhile.
async fn passed(
    world: &HostWorld,
    service: &ServiceName,
    main: &DeploymentId,
    actor: &Actor,
) -> Result<(), VersionError> {
    let changed = rules::change_where(world, "watch", |records| {
        let record = versions::of(records, service);
        Ok::<_, ChangeError>(record.and_then(|record| versions::passed(record, main, actor)))
    });
    changed.await?;
    Ok(())
}
