//! The last steps of an update and of a kill. A recovery repeats them where a process died before their end.

use super::error::HostDeployError;
use super::instance;
use super::release_links::update_links;
use super::system_actor::system_actor;
use crate::model::deployment::{Deployment, Stage};
use crate::model::forward::ServiceRecord;
use crate::model::history::Actor;
use crate::ops::host::proxy;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::versions;
use crate::world::HostWorld;
use crate::world::store::HistoryNote;

/// Makes the new instance the deployment's instance and removes the old one.
pub(super) async fn finish_update(
    world: &HostWorld,
    updating: &Deployment,
) -> Result<Deployment, HostDeployError> {
    let Some(next) = updating.other_instance.clone() else { return Ok(updating.clone()) };
    let old = updating.find_instance(next.number).unwrap_or(&updating.instance).clone();
    let retiring = Deployment {
        stage: Stage::Retiring,
        other_instance: Some(old.clone()),
        updated_at: world.clock.now(),
        ..updating.clone().replace_instance(next)
    };
    // Recorded before the old one goes: from here on there is no way back to it.
    world.deployments.put(&retiring)?;
    update_links(world, &retiring.service);
    proxy::reconcile_after_change(world, &retiring.service, &system_actor()).await?;
    instance::remove(world, &retiring, &old).await?;
    let updated = Deployment { stage: Stage::Ready, other_instance: None, ..retiring };
    world.deployments.put(&updated)?;
    Ok(updated)
}

/// Finishes a kill. From here on there is no return: a kill whose process was killed is completed later.
pub(super) async fn finish_kill(
    world: &HostWorld,
    deployment: &Deployment,
    keep_files: bool,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    remove_routes(world, deployment, actor).await?;
    proxy::remove_from_splits(world, deployment, actor).await?;
    update_links(world, &deployment.service);
    instance::remove_all(world, deployment, keep_files).await?;
    world.deployments.remove(&deployment.id)?;
    let note = HistoryNote {
        service: deployment.service.clone(),
        actor: actor.clone(),
        action: "kill",
        detail: format!("{} {} ({}) was killed", deployment.service, deployment.version, deployment.id),
    };
    world.store.add_note(&note, world.clock.now())?;
    Ok(())
}

/// Removes the routes to a deployment. Gives back what was recorded before, where a rule routed to it.
pub(super) async fn remove_routes(
    world: &HostWorld,
    deployment: &Deployment,
    actor: &Actor,
) -> Result<Option<ServiceRecord>, HostDeployError> {
    let mut before = None;
    rules::change_if_needed(world, "kill", |records| {
        let record = versions::find_record(records, &deployment.service);
        let intent = record.and_then(|record| versions::detach(record, deployment, actor));
        before = record.filter(|_| intent.is_some()).cloned();
        Ok::<_, ChangeError>(intent)
    })
    .await?;
    Ok(before)
}
