//! Makes another version main on this host: `assign`, `rollback`, and `access`.

use std::collections::BTreeSet;

use super::error::HostDeployError;
use super::health::check_still_healthy;
use super::idle_connections::close_idle_connections;
use super::instance::check_release;
use super::record::list_service_deployments;
use super::release_links::update_links;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, AssignScope, DeploymentRef, RollbackRequest,
};
use crate::model::deployment::Instance;
use crate::model::forward::{ChangeResult, Intent, ServiceRecord};
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::ops::host::proxy;
use crate::ops::host::rules;
use crate::plan::versions::{self, DeployRefusal};
use crate::world::HostWorld;

/// Checks that an id belongs to the service of the request: an id does not name its service, and a request for one service
/// must change no other.
pub fn check_service(
    world: &HostWorld,
    service: &ServiceName,
    which: &DeploymentRef,
) -> Result<(), HostDeployError> {
    let existing = world.deployments.all()?;
    let found = versions::find_deployment(&existing, which)?;
    if found.service == *service { Ok(()) } else { Err(DeployRefusal::NoVersion(which.clone()).into()) }
}

/// Routes both ports in one transaction, once the version's own port has answered as it should. Assigning the same version
/// again changes nothing.
pub async fn assign(world: &HostWorld, request: &AssignRequest) -> Result<AssignResponse, HostDeployError> {
    let existing = world.deployments.all()?;
    let target = versions::find_ready(&existing, &request.which)?.clone();
    rules::check_actor(world, &target.service, &request.actor)?;
    let instances: Vec<&Instance> = target.active_instances().collect();
    let mut compared = BTreeSet::new();
    for instance in &instances {
        // Instances of one build have one release.
        if compared.insert(instance.build) {
            check_release(world, &target, instance).await?;
        }
    }
    check_still_healthy(world, &target, &instances).await?;
    let before = rules::read_record(world, &target.service)?;
    let mut previous = None;
    let change = rules::change_or_preview(world, "assign", request.dry_run, |records| {
        // Read again: a kill may have begun since.
        let existing = world.deployments.all()?;
        let (intent, main_before) = versions::plan_assign(records, &existing, request, world.clock.now())?;
        previous = existing.into_iter().find(|one| Some(&one.id) == main_before.as_ref());
        Ok::<_, HostDeployError>(intent)
    })
    .await?;
    if request.dry_run {
        let (closed_connections, all_closed) = (0, true);
        return Ok(AssignResponse { deployment: target, previous, change, closed_connections, all_closed });
    }
    // With the backup vhost alone, main keeps its connections.
    let before = before.filter(|_| request.scope == AssignScope::MainAndBackup);
    let service = &target.service;
    let (closed_connections, all_closed) =
        follow_change(world, service, &request.actor, before.as_ref()).await?;
    Ok(AssignResponse { deployment: target, previous, change, closed_connections, all_closed })
}

/// Routes both ports back to the last good main, at once and without steps. Refused while that version is not healthy.
pub async fn rollback(
    world: &HostWorld,
    service: &ServiceName,
    request: &RollbackRequest,
) -> Result<AssignResponse, HostDeployError> {
    rules::check_actor(world, service, &request.actor)?;
    let records = world.store.load_records()?;
    let existing = list_service_deployments(world, service)?;
    let to = versions::find_rollback_target(&records, &existing, service, request.from.as_ref())?;
    let target = versions::find_ready(&existing, &DeploymentRef::Id(to.clone()))?.clone();
    let routes = versions::find_record(&records, service).and_then(|record| record.routes.as_ref());
    // Those that are known to be unhealthy get no connection.
    let ports = target.active_instances().map(|instance| instance.port);
    let ports = routes.map_or_else(Vec::new, |routes| routes.choose_healthy(ports));
    let instances: Vec<&Instance> =
        target.active_instances().filter(|instance| ports.contains(&instance.port)).collect();
    check_still_healthy(world, &target, &instances).await?;
    let main_before = routes.map(|routes| routes.main.deployment.clone());
    let previous = existing.into_iter().find(|one| Some(&one.id) == main_before.as_ref());
    let before = rules::read_record(world, service)?;
    let change = rules::change_or_preview(world, "rollback", request.dry_run, |records| {
        let existing = world.deployments.all()?;
        Ok::<_, HostDeployError>(versions::plan_rollback(records, &existing, service, &to, request)?)
    })
    .await?;
    if request.dry_run {
        let (closed_connections, all_closed) = (0, true);
        return Ok(AssignResponse { deployment: target, previous, change, closed_connections, all_closed });
    }
    let (closed_connections, all_closed) =
        follow_change(world, service, &request.actor, before.as_ref()).await?;
    Ok(AssignResponse { deployment: target, previous, change, closed_connections, all_closed })
}

/// Does what follows a change of main: links, proxy, and the idle connections to the main of the record `before`.
async fn follow_change(
    world: &HostWorld,
    service: &ServiceName,
    actor: &Actor,
    before: Option<&ServiceRecord>,
) -> Result<(usize, bool), HostDeployError> {
    update_links(world, service);
    proxy::reconcile_after_change(world, service, actor).await?;
    Ok(close_idle_connections(world, before).await)
}

/// Makes a service private, so that no port routes to it any more, or public, so that what is recorded is in force again.
pub async fn set_access(
    world: &HostWorld,
    service: &ServiceName,
    request: &AccessRequest,
) -> Result<ChangeResult, HostDeployError> {
    let changed = rules::change_or_preview(world, "access", request.dry_run, |records| {
        let record =
            versions::find_record(records, service).ok_or_else(|| DeployRefusal::NoMain(service.clone()))?;
        let detail = if request.public { "public" } else { "private" };
        let intent = record.build_intent(&request.actor, "access", detail);
        Ok::<_, HostDeployError>(Intent { access: Some(request.access()), ..intent })
    })
    .await?;
    if !request.dry_run {
        proxy::reconcile_after_change(world, service, &request.actor).await?;
    }
    Ok(changed)
}
