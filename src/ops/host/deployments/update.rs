//! `update` in place: new code under an id that stays. Its revision stays too, and work that was begun ends where it began.

use std::collections::BTreeSet;
use std::time::Duration;

use super::deploy::find_free_port;
use super::error::HostDeployError;
use super::finish::finish_update;
use super::health::wait_until_healthy;
use super::instance;
use super::open_connections::count_port_sockets;
use super::record::{load_deployment, load_recovered};
use super::service_lock::lock_service;
use crate::model::api::deployments::{DeploymentRef, UpdateRequest};
use crate::model::deployment::{Deployment, Instance, RunSpec, Stage, Workload};
use crate::model::ports::Port;
use crate::model::redaction::restore_env;
use crate::ops::host::proxy;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::versions::{self, DeployRefusal, parse_local_port};
use crate::world::HostWorld;
use crate::world::stop::StopToken;
use crate::world::store::HistoryNote;

/// The interval between two looks at the old instance.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);

/// Updates the instances one after another. If one of them does not become healthy, the ones before it get the old code back.
pub async fn update(world: &HostWorld, request: &UpdateRequest) -> Result<Deployment, HostDeployError> {
    let service = load_deployment(world, &request.id)?.service;
    let _held = lock_service(world, &service, "update", request.dry_run).await?;
    rules::check_actor(world, &service, &request.actor)?;
    let (_, existing) = load_recovered(world, &service)?;
    let deployment = versions::find_deployment(&existing, &DeploymentRef::Id(request.id.clone()))?.clone();
    let template = build_template(&deployment, request)?;
    let old_instances = find_old_instances(world, &deployment, &template).await;
    let Some(first) = old_instances.first() else {
        if !request.dry_run {
            // The caller brought the code again: it cannot compare the values of the environment.
            instance::remove_release(world, &deployment, &template)?;
        }
        return Ok(deployment);
    };
    if request.dry_run {
        let next = place_instance(world, &existing, &deployment, request, (&template, first.number))?;
        instance::check_release(world, &deployment, &next).await?;
        return Ok(deployment.replace_instance(next));
    }
    instance::check_release(world, &deployment, &template).await?;
    let mut updated = deployment.clone();
    let mut replaced: Vec<&Instance> = Vec::new();
    for old in &old_instances {
        match replace_instance(world, &updated, request, (&template, old)).await {
            Ok(next) => updated = next,
            Err(error) => return Err(take_back(world, updated, request, &replaced, error).await),
        }
        replaced.push(old);
    }
    let note = HistoryNote {
        service,
        actor: request.actor.clone(),
        action: "update",
        detail: format!(
            "{} {} ({}), build {}",
            updated.service, updated.version, updated.id, updated.instance.build
        ),
    };
    world.store.add_note(&note, world.clock.now())?;
    Ok(updated)
}

/// Returns the instances whose code or way to run differs from the template, or whose release was changed on this host.
async fn find_old_instances(
    world: &HostWorld,
    deployment: &Deployment,
    template: &Instance,
) -> Vec<Instance> {
    let mut old_instances = Vec::new();
    for one in deployment.active_instances() {
        let is_old = one.how != template.how
            || one.digest != template.digest
            || instance::is_altered(world, deployment, one).await;
        if is_old {
            old_instances.push(one.clone());
        }
    }
    old_instances
}

/// Replaces the instances that were updated before an error by instances of the old code. Returns the error of the update.
async fn take_back(
    world: &HostWorld,
    mut updated: Deployment,
    request: &UpdateRequest,
    replaced: &[&Instance],
    error: HostDeployError,
) -> HostDeployError {
    // The caller may have hung up: that ended the update, and must not end the undo.
    let world = &HostWorld { stop: StopToken::without_handle(), ..world.clone() };
    for old in replaced {
        let Some(new) = updated.find_instance(old.number).cloned() else { continue };
        match replace_instance(world, &updated, request, (old, &new)).await {
            Ok(back) => updated = back,
            Err(undo) => {
                return HostDeployError::HalfUpdated { update: Box::new(error), undo: Box::new(undo) };
            }
        }
    }
    error
}

/// Replaces one instance: the new one is healthy before it gets connections, and the old one has no request when it is removed.
async fn replace_instance(
    world: &HostWorld,
    deployment: &Deployment,
    request: &UpdateRequest,
    (template, old): (&Instance, &Instance),
) -> Result<Deployment, HostDeployError> {
    let existing = world.deployments.all()?;
    let next = place_instance(world, &existing, deployment, request, (template, old.number))?;
    // The files of new code are compared before the first replacement, and those of old code are not: it goes back to what ran.
    instance::check_digest(world, deployment, &next)?;
    let updating =
        Deployment { stage: Stage::Updating, other_instance: Some(next.clone()), ..deployment.clone() };
    world.deployments.put(&updating)?;
    let ready = async {
        instance::start(world, &updating, &next).await?;
        wait_until_healthy(world, &updating, &next, request.health_timeout).await?;
        route_to_next(world, &updating, (old.port, next.port), request).await
    };
    if let Err(error) = ready.await {
        instance::remove(world, &updating, &next).await?;
        world.deployments.put(deployment)?;
        return Err(error);
    }
    // From here on the new instance has the users: a caller that hangs up does not shorten the drain of the old one.
    let world = &HostWorld { stop: world.stop.for_immediate(), ..world.clone() };
    proxy::reconcile_after_change(world, &deployment.service, &request.actor).await?;
    // Something that runs already may have taken the other's place by itself: its work is not the old one's.
    if next.port != old.port {
        wait_for_drain(world, old.port, request.drain_timeout).await;
    }
    finish_update(world, &updating).await
}

/// Builds an instance of the new code, without number and port of its own.
fn build_template(deployment: &Deployment, request: &UpdateRequest) -> Result<Instance, HostDeployError> {
    let mut how = request.how.clone().unwrap_or_else(|| deployment.instance.how.clone());
    // The operator sends back what the host's answer has of them.
    let recorded: Vec<&RunSpec> = deployment.instances().map(|instance| &instance.how).collect();
    how.env = restore_env(how.env, &recorded);
    let how = how.settle(&deployment.service, Some(&deployment.instance.how));
    let external = matches!(how.workload, Workload::External { .. });
    versions::check_values(&how)?;
    versions::check_health(&deployment.health, &how)?;
    if external == request.digest.is_some() || (external && deployment.has_several_instances()) {
        return Err(DeployRefusal::MixedKinds.into());
    }
    let digest = request.digest.clone();
    Ok(Instance { build: deployment.next_build(), how, digest, ..deployment.instance.clone() })
}

/// Gives an instance its number and a port. R11: something that runs already may be at another deployment's endpoint.
fn place_instance(
    world: &HostWorld,
    existing: &[Deployment],
    deployment: &Deployment,
    request: &UpdateRequest,
    (template, number): (&Instance, u32),
) -> Result<Instance, HostDeployError> {
    let port = if let Workload::External { uri } = &template.how.workload {
        parse_local_port(uri, deployment.address).map_err(DeployRefusal::from)?
    } else {
        let site = request.site.as_ref().ok_or(DeployRefusal::NoNetwork)?;
        find_free_port(world, existing, &BTreeSet::new(), None, site)?
    };
    Ok(Instance { number, port, ..template.clone() })
}

/// Routes to the new instance everything that is routed to the old one.
async fn route_to_next(
    world: &HostWorld,
    updating: &Deployment,
    ports: (Port, Port),
    request: &UpdateRequest,
) -> Result<(), HostDeployError> {
    rules::change_if_needed(world, "update", |records| {
        let record = versions::find_record(records, &updating.service);
        let moved =
            record.and_then(|record| versions::move_instance(record, updating, ports, &request.actor));
        Ok::<_, ChangeError>(moved)
    })
    .await?;
    Ok(())
}

/// Waits for the work of the old instance to end, within the limit; what is left then is cut, as a stop of the service
/// would.
async fn wait_for_drain(world: &HostWorld, old: Port, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let mut quiet = 0;
    while tokio::time::Instant::now() < deadline && quiet < 2 && !world.stop.is_requested() {
        let open = count_port_sockets(world, old).await;
        quiet = if open.is_ok_and(|count| versions::check_drained(&count).is_ok()) { quiet + 1 } else { 0 };
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
}
