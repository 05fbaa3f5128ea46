//! The watch window after an assign: a new main whose health fails in it makes way for the one before, by itself.

use super::{VersionError, assign, of_service};
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::forward::Trial;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::versions::{RollbackRequest, TrialEnd, Which};
use crate::ops::rules::{self, ChangeError};
use crate::plan::versions::{self, Refused, find};
use crate::world::World;

/// So many failed checks in a row are no accident: as HAProxy's `fall`.
const FALL: u32 = 3;

/// Returns when the window is over, or what became of it is known. Two may watch at once: the first to act is the only one.
pub async fn watch(world: &World, service: &ServiceName, actor: &Actor) -> Result<TrialEnd, VersionError> {
    let Some((main, trial)) = on_trial(world, service)? else { return Ok(TrialEnd::Good) };
    let mut failed = 0;
    loop {
        match on_trial(world, service)? {
            Some((now, _)) if now.id == main.id => {}
            _ => return ended(world, service, &main, &trial),
        }
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
            return if passed(world, service, &main.id, actor).await? {
                Ok(TrialEnd::Good)
            } else {
                ended(world, service, &main, &trial)
            };
        }
        tokio::select! {
            biased;
            () = world.stop.requested() => return Err(VersionError::Interrupted),
            () = tokio::time::sleep(main.health.interval) => {}
        }
    }
}

/// Main and its trial, where it is on trial.
fn on_trial(world: &World, service: &ServiceName) -> Result<Option<(Deployment, Trial)>, VersionError> {
    let Some(record) = rules::record(world, service)? else { return Ok(None) };
    let (Some(routes), Some(trial)) = (record.routes, record.trial) else { return Ok(None) };
    let existing = of_service(world, service)?;
    let main = find(&existing, &Which::Id(routes.main.deployment))?;
    Ok(Some((main.clone(), trial)))
}

/// Somebody else ended the trial: another watcher, or another command.
fn ended(
    world: &World,
    service: &ServiceName,
    main: &Deployment,
    trial: &Trial,
) -> Result<TrialEnd, VersionError> {
    let routes = rules::record(world, service)?.and_then(|record| record.routes);
    let now = routes.map(|routes| routes.main.deployment);
    Ok(match now {
        Some(now) if now == main.id => TrialEnd::Good,
        Some(now) if now == trial.previous => {
            let existing = of_service(world, service)?;
            let previous = Box::new(find(&existing, &Which::Id(now))?.clone());
            TrialEnd::PutBack { previous, why: "another command put it back".to_owned() }
        }
        _ => TrialEnd::Overtaken,
    })
}

async fn put_back(
    world: &World,
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
        Ok(_) => Ok(TrialEnd::Overtaken),
        Err(VersionError::Refused(Refused::NotMain { .. } | Refused::Overtaken(_))) => {
            ended(world, service, main, trial)
        }
        Err(error @ (VersionError::Refused(_) | VersionError::Unhealthy { .. })) => {
            Ok(TrialEnd::Stuck { why: format!("{why}; and the main before it: {error}") })
        }
        Err(error) => Err(error),
    }
}

/// Whether it was there to pass.
async fn passed(
    world: &World,
    service: &ServiceName,
    main: &DeploymentId,
    actor: &Actor,
) -> Result<bool, VersionError> {
    let changed = rules::change_where(world, "watch", |records| {
        let record = versions::of(records, service);
        Ok::<_, ChangeError>(record.and_then(|record| versions::passed(record, main, actor)))
    });
    Ok(changed.await?.is_some())
}
