//! `deploy` on the host: an instance with a port of its own, started, healthy; the first of a service is main.

use std::collections::BTreeSet;

use super::error::HostDeployError;
use super::health::wait_until_healthy;
use super::instance;
use super::port_owner::describe_port_owner;
use super::record::{list_service_deployments, load_recovered};
use super::release_links::update_links;
use super::service_lock::lock_service;
use crate::model::api::deployments::{DeployRequest, DeployResponse, HostNetwork};
use crate::model::deployment::{Deployment, Instance, Role, RunSpec, Stage, Workload};
use crate::model::forward::ServiceRecord;
use crate::model::ports::Port;
use crate::model::redaction::restore_env;
use crate::ops::host::rules::{self, ChangeError};
use crate::ops::host::warn::warn;
use crate::plan::versions::{self, DeployDecision, DeployRefusal, find_role, parse_local_port};
use crate::world::HostWorld;
use crate::world::store::HistoryNote;

pub async fn deploy(world: &HostWorld, request: &DeployRequest) -> Result<DeployResponse, HostDeployError> {
    let _held = lock_service(world, &request.service, "deploy", request.dry_run).await?;
    rules::check_actor(world, &request.service, &request.actor)?;
    let (records, existing) = load_recovered(world, &request.service)?;
    let request = &restore_values(request, &existing);
    let revision = match versions::decide_deploy(&existing, request)? {
        DeployDecision::New { revision } => revision,
        DeployDecision::Unchanged(deployment) => {
            let role = find_role(&records, &deployment);
            return Ok(DeployResponse { deployment: *deployment, known: true, role });
        }
    };
    let now = world.clock.now();
    let mut instances = build_instances(world, &existing, request)?.into_iter();
    let instance = instances.next().ok_or(DeployRefusal::NoNetwork)?;
    let deployment = Deployment {
        id: request.id.clone(),
        started_as: None,
        service: request.service.clone(),
        version: request.version.clone(),
        revision,
        metadata: request.metadata.clone(),
        stage: Stage::Starting,
        instance,
        more_instances: instances.collect(),
        other_instance: None,
        health: request.health.clone(),
        address: request.site.address,
        created_at: now,
        updated_at: now,
    };
    if request.dry_run {
        let role = decide_new_role(&records, &deployment);
        return Ok(DeployResponse { deployment, known: false, role });
    }
    instance::check_release(world, &deployment, &deployment.instance).await?;
    world.deployments.put(&deployment)?;
    let ready = async {
        let starts = deployment.active_instances().map(async |one| {
            instance::start(world, &deployment, one).await?;
            wait_until_healthy(world, &deployment, one, request.health_timeout).await
        });
        futures_util::future::try_join_all(starts).await?;
        // Its caller may have hung up at the last moment: only this host knows that this request made the deployment.
        if world.stop.is_requested() {
            return Err(HostDeployError::Interrupted);
        }
        route_first_deployment(world, &deployment, request).await
    };
    match ready.await {
        Ok(()) => {}
        Err(error) => {
            // The release goes with the next deploy of that version, or by retention: it may be the operator's only trace.
            instance::remove_all(world, &deployment, false).await?;
            world.deployments.remove(&deployment.id)?;
            return Err(error);
        }
    }
    let deployment = Deployment { stage: Stage::Ready, ..deployment };
    world.deployments.put(&deployment)?;
    update_links(world, &deployment.service);
    // The version is deployed, even if old releases cannot be removed.
    if let Err(error) = prune(world, request) {
        warn(world, format!("{}: old releases stay: {error}", request.service));
    }
    let role = find_role(&world.store.load_records()?, &deployment);
    if role == Role::Shadow {
        record_shadow(world, &deployment, request);
    }
    Ok(DeployResponse { deployment, known: false, role })
}

/// Puts the recorded values in the place of their placeholders: a deploy by address takes its environment from an answer.
fn restore_values(request: &DeployRequest, existing: &[Deployment]) -> DeployRequest {
    let mut request = request.clone();
    let of_service = existing.iter().filter(|one| one.service == request.service);
    let recorded: Vec<&RunSpec> =
        of_service.flat_map(Deployment::instances).map(|instance| &instance.how).collect();
    request.how.env = restore_env(request.how.env, &recorded);
    request
}

/// Records a deploy that changed no rule. The first version of a service is in the history as a change of its routes.
fn record_shadow(world: &HostWorld, deployment: &Deployment, request: &DeployRequest) {
    let Deployment { service, version, id, .. } = deployment;
    let note = HistoryNote {
        service: service.clone(),
        actor: request.actor.clone(),
        action: "deploy",
        detail: format!("{service} {version} ({id}) is a shadow"),
    };
    // The version is deployed, even if the history cannot be written.
    if let Err(error) = world.store.add_note(&note, world.clock.now()) {
        warn(world, format!("{service}: {version} is not in the history: {error}"));
    }
}

fn decide_new_role(records: &[ServiceRecord], deployment: &Deployment) -> Role {
    let record = versions::find_record(records, &deployment.service);
    if record.is_none_or(|record| record.routes.is_none()) { Role::Main } else { Role::Shadow }
}

/// D2: the first deployment of a service is main, and no later one moves traffic.
async fn route_first_deployment(
    world: &HostWorld,
    deployment: &Deployment,
    request: &DeployRequest,
) -> Result<(), HostDeployError> {
    rules::change_if_needed(world, "deploy", |records| {
        let record = versions::find_record(records, &deployment.service);
        let has_main = record.is_some_and(|record| record.routes.is_some());
        let first = || versions::plan_first(record, deployment, &request.site, &request.actor);
        Ok::<_, ChangeError>((!has_main).then(first))
    })
    .await?;
    Ok(())
}

/// Builds the instances of a new deployment, each with a port of its own.
fn build_instances(
    world: &HostWorld,
    existing: &[Deployment],
    request: &DeployRequest,
) -> Result<Vec<Instance>, HostDeployError> {
    let count = request.instances.unwrap_or(1);
    // Without an agent, an instance that has ended would keep its share of the connections.
    if count > 1 && !world.proxy.is_watched() {
        return Err(DeployRefusal::InstancesNeedAgent.into());
    }
    let (mut instances, mut taken) = (Vec::new(), BTreeSet::new());
    for number in 1..=count {
        let port = choose_port(world, existing, &taken, request)?;
        taken.insert(port);
        let (how, digest) = (request.how.clone(), request.digest.clone());
        instances.push(Instance { build: 1, number, port, how, digest });
    }
    Ok(instances)
}

/// Chooses the port the instance listens on: the port of its own address for a program that runs already, the requested
/// port, or the first free one.
fn choose_port(
    world: &HostWorld,
    existing: &[Deployment],
    taken: &BTreeSet<Port>,
    request: &DeployRequest,
) -> Result<Port, HostDeployError> {
    let records = world.store.load_records()?;
    if let Workload::External { uri } = &request.how.workload {
        let port = parse_local_port(uri, request.site.address).map_err(DeployRefusal::from)?;
        versions::check_port(port, existing, &records, &request.site)?;
        return Ok(port);
    }
    find_free_port(world, existing, taken, request.port, &request.site)
}

pub(super) fn find_free_port(
    world: &HostWorld,
    existing: &[Deployment],
    also_taken: &BTreeSet<Port>,
    requested: Option<Port>,
    site: &HostNetwork,
) -> Result<Port, HostDeployError> {
    let records = world.store.load_records()?;
    if let Some(port) = requested {
        versions::check_port(port, existing, &records, site)?;
        // Of an instance that a repair ends: only a dry run meets one.
        let all = world.deployments.all()?;
        if all.iter().flat_map(Deployment::instances).any(|instance| instance.port == port) {
            return Ok(port);
        }
        return match describe_port_owner(world, port)? {
            None => Ok(port),
            owner => Err(DeployRefusal::PortTaken { port, owner }.into()),
        };
    }
    let mut taken = versions::collect_used_ports(existing, &records, site);
    taken.extend(also_taken);
    for port in versions::list_candidate_ports(site, &taken) {
        if describe_port_owner(world, port)?.is_none() {
            return Ok(port);
        }
    }
    let (first, last) = site.port_range;
    Err(DeployRefusal::NoPort { first, last }.into())
}

/// Removes the releases that nothing uses, beyond the last few.
fn prune(world: &HostWorld, request: &DeployRequest) -> Result<(), HostDeployError> {
    let there = world.releases.list(&request.service)?;
    let existing = list_service_deployments(world, &request.service)?;
    let retained = usize::try_from(request.site.keep_releases).unwrap_or(usize::MAX);
    for release in versions::select_prunable(&there, &existing, &request.service, retained) {
        world.releases.remove(&request.service, &release)?;
    }
    Ok(())
}
