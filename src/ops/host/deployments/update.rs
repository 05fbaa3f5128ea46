//! `update` in place: new code under an id that stays. Its revision stays too, and work that was begun ends where it began.

use std::time::Duration;

use super::deploy::find_free_port;
use super::error::HostDeployError;
use super::finish::finish_update;
use super::health::wait_until_healthy;
use super::instance;
use super::open_connections::count_sockets;
use super::record::{load_deployment, load_recovered};
use super::service_lock::lock_service;
use crate::model::api::deployments::{DeploymentRef, UpdateRequest};
use crate::model::deployment::{Deployment, Instance, Stage, Workload};
use crate::ops::host::proxy;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::versions::{self, DeployRefusal, parse_local_port};
use crate::world::HostWorld;
use crate::world::store::HistoryNote;

/// The interval between two looks at the old instance.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);

pub async fn update(world: &HostWorld, request: &UpdateRequest) -> Result<Deployment, HostDeployError> {
    let service = load_deployment(world, &request.id)?.service;
    let _held = lock_service(world, &service, "update", request.dry_run).await?;
    rules::check_actor(world, &service, &request.actor)?;
    let (_, existing) = load_recovered(world, &service)?;
    let deployment = versions::find_deployment(&existing, &DeploymentRef::Id(request.id.clone()))?.clone();
    let next = build_next_instance(world, &existing, &deployment, request)?;
    if next.how == deployment.instance.how && next.digest == deployment.instance.digest {
        return Ok(deployment);
    }
    instance::check_release(world, &deployment, &next)?;
    if request.dry_run {
        return Ok(Deployment { instance: next, ..deployment });
    }
    let updating =
        Deployment { stage: Stage::Updating, other_instance: Some(next.clone()), ..deployment.clone() };
    world.deployments.put(&updating)?;
    let ready = async {
        instance::start(world, &updating, &next).await?;
        wait_until_healthy(world, &updating, &next, request.health_timeout).await?;
        route_to_next(world, &updating, &next, request).await
    };
    if let Err(error) = ready.await {
        instance::remove(world, &updating, &next, false).await?;
        world.deployments.put(&deployment)?;
        return Err(error);
    }
    // From here on the new instance has the users: a caller that hangs up does not shorten the drain of the old one.
    let world = &HostWorld { stop: world.stop.for_immediate(), ..world.clone() };
    proxy::reconcile_after_change(world, &service, &request.actor).await?;
    // Something that runs already may have taken the other's place by itself: its work is not the old one's.
    if next.port != deployment.instance.port {
        wait_for_drain(world, &deployment, request.drain_timeout).await;
    }
    let updated = finish_update(world, &updating).await?;
    let note = HistoryNote {
        service,
        actor: request.actor.clone(),
        action: "update",
        detail: format!("{} {} ({}), build {}", updated.service, updated.version, updated.id, next.build),
    };
    world.store.add_note(&note, world.clock.now())?;
    Ok(updated)
}

/// The instance that takes over. R11: something that runs already may be at another deployment's endpoint.
fn build_next_instance(
    world: &HostWorld,
    existing: &[Deployment],
    deployment: &Deployment,
    request: &UpdateRequest,
) -> Result<Instance, HostDeployError> {
    let how = request.how.clone().unwrap_or_else(|| deployment.instance.how.clone());
    let external = matches!(how.workload, Workload::External { .. });
    versions::check_values(&how)?;
    versions::check_health(&deployment.health, &how)?;
    if external == request.digest.is_some() {
        return Err(DeployRefusal::MixedKinds.into());
    }
    let port = if let Workload::External { uri } = &how.workload {
        parse_local_port(uri, deployment.address).map_err(DeployRefusal::from)?
    } else {
        let site = request.site.as_ref().ok_or(DeployRefusal::NoNetwork)?;
        find_free_port(world, existing, None, site)?
    };
    Ok(Instance { build: deployment.instance.build + 1, port, how, digest: request.digest.clone() })
}

/// Routes to the new instance everything that is routed to the old one.
async fn route_to_next(
    world: &HostWorld,
    updating: &Deployment,
    next: &Instance,
    request: &UpdateRequest,
) -> Result<(), HostDeployError> {
    rules::change_if_needed(world, "update", |records| {
        let record = versions::find_record(records, &updating.service);
        let moved =
            record.and_then(|record| versions::move_instance(record, updating, next.port, &request.actor));
        Ok::<_, ChangeError>(moved)
    })
    .await?;
    Ok(())
}

/// Waits for the work of the old instance to end, within the limit; what is left then is cut, as a stop of the service
/// would.
async fn wait_for_drain(world: &HostWorld, old: &Deployment, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let mut quiet = 0;
    while tokio::time::Instant::now() < deadline && quiet < 2 && !world.stop.is_requested() {
        let open = count_sockets(world, old).await;
        quiet = if open.is_ok_and(|count| versions::check_drained(&count).is_ok()) { quiet + 1 } else { 0 };
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
}
