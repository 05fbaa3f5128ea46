//! `merge` on the host: a deployment gets the id that its version has on other hosts. Rules and instances stay as they are.

use super::error::HostDeployError;
use super::record::{load_deployment, load_recovered};
use super::service_lock::lock_service;
use crate::model::api::deployments::{DeploymentRef, MergeRequest};
use crate::model::deployment::Deployment;
use crate::ops::host::proxy;
use crate::ops::host::rules;
use crate::plan::versions;
use crate::world::HostWorld;
use crate::world::store::HistoryNote;

pub async fn merge(world: &HostWorld, request: &MergeRequest) -> Result<Deployment, HostDeployError> {
    let service = load_deployment(world, &request.id)?.service;
    let _held = lock_service(world, &service, "merge", request.dry_run).await?;
    rules::check_actor(world, &service, &request.actor)?;
    let (_, existing) = load_recovered(world, &service)?;
    let deployment = versions::find_deployment(&existing, &DeploymentRef::Id(request.id.clone()))?.clone();
    let merged = versions::plan_merge(&existing, &deployment, &request.into, request.revision)?;
    if request.dry_run || merged == deployment {
        return Ok(merged);
    }
    {
        // A change of main that is under way would write the old id into the routes.
        let _rules = rules::lock_rules(world, "merge").await?;
        world.deployments.rename(&deployment.id, &merged)?;
    }
    proxy::reconcile_after_change(world, &service, &request.actor).await?;
    let note = HistoryNote {
        service,
        actor: request.actor.clone(),
        action: "merge",
        detail: format!("{} {}: {} is {}", merged.service, merged.version, deployment.id, merged.id),
    };
    world.store.add_note(&note, world.clock.now())?;
    Ok(merged)
}
