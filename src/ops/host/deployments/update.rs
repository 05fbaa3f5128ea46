//! `update` in place: new code under an id that stays. Its revision stays too, and work that was begun ends where it began.

use std::time::Duration;

use super::deploy;
use super::instance;
use super::kill;
use super::{VersionError, becomes_healthy, held};
use crate::model::api::deployments::UpdateRequest;
use crate::model::deployment::{Deployment, Instance, Runs, Stage};
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::versions::{self, Refused, local_port};
use crate::world::HostWorld;
use crate::world::store::Note;

/// Between two looks at the old instance.
const PAUSE: Duration = Duration::from_millis(200);

pub async fn update(world: &HostWorld, request: &UpdateRequest) -> Result<Deployment, VersionError> {
    let service = deploy::recorded(world, &request.id)?.service;
    let _held = held(world, &service, "update").await?;
    let deployment = deploy::recorded(world, &request.id)?;
    let next = next(world, &deployment, request)?;
    if next.how == deployment.instance.how && next.digest == deployment.instance.digest {
        return Ok(deployment);
    }
    instance::release_is_there(world, &deployment, &next)?;
    let updating = Deployment { stage: Stage::Updating, next: Some(next.clone()), ..deployment.clone() };
    world.deployments.put(&updating)?;
    let ready = async {
        instance::start(world, &updating, &next).await?;
        becomes_healthy(world, &updating, &next, request.health_timeout).await?;
        lead_to(world, &updating, &next, request).await
    };
    if let Err(error) = ready.await {
        instance::take_away(world, &updating, &next, false).await?;
        world.deployments.put(&deployment)?;
        return Err(error);
    }
    crate::ops::host::proxy::follow(world, &service, &request.actor).await?;
    // Something that runs already may have taken the other's place by itself: its work is not the old one's.
    if next.port != deployment.instance.port {
        ends(world, &deployment, request.drain_timeout).await;
    }
    let updated = promote(world, &updating).await?;
    let note = Note {
        service,
        actor: request.actor.clone(),
        action: "update",
        detail: format!("{} {} ({}), build {}", updated.service, updated.version, updated.id, next.build),
    };
    world.store.note(&note, world.clock.now())?;
    Ok(updated)
}

/// The instance that takes over. R11: something that runs already may be at another deployment's endpoint.
fn next(
    world: &HostWorld,
    deployment: &Deployment,
    request: &UpdateRequest,
) -> Result<Instance, VersionError> {
    let how = request.how.clone().unwrap_or_else(|| deployment.instance.how.clone());
    let external = matches!(how.runs, Runs::External { .. });
    versions::values(&how)?;
    versions::health(&deployment.health, &how)?;
    if external == request.digest.is_some() {
        return Err(Refused::Mixed.into());
    }
    let port = if let Runs::External { uri } = &how.runs {
        local_port(uri, deployment.address).map_err(Refused::from)?
    } else {
        let site = request.site.as_ref().ok_or(Refused::NoSite)?;
        deploy::free_port(world, &world.deployments.all()?, None, site)?
    };
    Ok(Instance { build: deployment.instance.build + 1, port, how, digest: request.digest.clone() })
}

/// Whatever leads to the old instance leads to the new one.
async fn lead_to(
    world: &HostWorld,
    updating: &Deployment,
    next: &Instance,
    request: &UpdateRequest,
) -> Result<(), VersionError> {
    rules::change_where(world, "update", |records| {
        let record = versions::of(records, &updating.service);
        let moved = record.and_then(|record| versions::moved(record, updating, next.port, &request.actor));
        Ok::<_, ChangeError>(moved)
    })
    .await?;
    Ok(())
}

/// The work of the old instance ends, in its time; what is left then is cut, as a stop of the service would.
async fn ends(world: &HostWorld, old: &Deployment, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let mut quiet = 0;
    while tokio::time::Instant::now() < deadline && quiet < 2 && !world.stop.is_requested() {
        let open = kill::count(world, old).await;
        quiet = if open.is_ok_and(|count| versions::is_drained(&count).is_ok()) { quiet + 1 } else { 0 };
        tokio::time::sleep(PAUSE).await;
    }
}

/// The new instance is the instance; the old one goes.
pub(super) async fn promote(world: &HostWorld, updating: &Deployment) -> Result<Deployment, VersionError> {
    let Some(next) = updating.next.clone() else { return Ok(updating.clone()) };
    let old = updating.instance.clone();
    let retiring = Deployment {
        stage: Stage::Retiring,
        instance: next,
        next: Some(old.clone()),
        updated_at: world.clock.now(),
        ..updating.clone()
    };
    // Recorded before the old one goes: from here on there is no way back to it.
    world.deployments.put(&retiring)?;
    crate::ops::host::deployments::assign::links(world, &retiring.service);
    crate::ops::host::proxy::follow(
        world,
        &retiring.service,
        &crate::ops::host::deployments::recovery::nobody(),
    )
    .await?;
    instance::take_away(world, &retiring, &old, false).await?;
    let updated = Deployment { stage: Stage::Ready, next: None, ..retiring };
    world.deployments.put(&updated)?;
    Ok(updated)
}
