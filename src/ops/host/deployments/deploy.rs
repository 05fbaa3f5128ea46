//! `deploy` on the host: an instance with a port of its own, started, healthy; the first of a service is main.

use super::instance;
use super::{VersionError, becomes_healthy, held, of_service, warn};
use crate::model::api::deployments::{DeployRequest, Deployed};
use crate::model::deployment::{Deployment, DeploymentId, Instance, Role, Runs, Stage};
use crate::model::ports::Port;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::versions::{self, Deploy, Refused, local_port, role};
use crate::world::HostWorld;

pub async fn deploy(world: &HostWorld, request: &DeployRequest) -> Result<Deployed, VersionError> {
    let _held = held(world, &request.service, "deploy").await?;
    let existing = world.deployments.all()?;
    let revision = match versions::deploy(&existing, request)? {
        Deploy::New { revision } => revision,
        Deploy::Known(deployment) => {
            let role = role(&world.store.recorded()?, &deployment);
            return Ok(Deployed { deployment: *deployment, known: true, role });
        }
    };
    let now = world.clock.now();
    let deployment = Deployment {
        id: request.id.clone(),
        service: request.service.clone(),
        version: request.version.clone(),
        revision,
        stage: Stage::Starting,
        instance: Instance {
            build: 1,
            port: port(world, &existing, request)?,
            how: request.how.clone(),
            digest: request.digest.clone(),
        },
        next: None,
        health: request.health.clone(),
        address: request.site.address,
        created_at: now,
        updated_at: now,
    };
    if request.dry_run {
        let role = role_of_a_new_one(world, &deployment)?;
        return Ok(Deployed { deployment, known: false, role });
    }
    instance::release_is_there(world, &deployment, &deployment.instance)?;
    world.deployments.put(&deployment)?;
    let ready = async {
        instance::start(world, &deployment, &deployment.instance).await?;
        becomes_healthy(world, &deployment, &deployment.instance, request.health_timeout).await?;
        take_the_ports(world, &deployment, request).await
    };
    match ready.await {
        Ok(()) => {}
        Err(error) => {
            // The release goes with the next deploy of that version, or by retention: it may be the operator's only trace.
            instance::take_away(world, &deployment, &deployment.instance, false).await?;
            world.deployments.remove(&deployment.id)?;
            return Err(error);
        }
    }
    let deployment = Deployment { stage: Stage::Ready, ..deployment };
    world.deployments.put(&deployment)?;
    crate::ops::host::deployments::assign::links(world, &deployment.service);
    // It is deployed, whatever becomes of old releases.
    if let Err(error) = prune(world, request) {
        warn(world, format!("{}: old releases stay: {error}", request.service));
    }
    let role = role(&world.store.recorded()?, &deployment);
    Ok(Deployed { deployment, known: false, role })
}

fn role_of_a_new_one(world: &HostWorld, deployment: &Deployment) -> Result<Role, VersionError> {
    let records = world.store.recorded()?;
    let record = versions::of(&records, &deployment.service);
    Ok(if record.is_none_or(|record| record.routes.is_none()) { Role::Main } else { Role::Shadow })
}

/// D2: the first deployment of a service is main, and no later one moves traffic.
async fn take_the_ports(
    world: &HostWorld,
    deployment: &Deployment,
    request: &DeployRequest,
) -> Result<(), VersionError> {
    rules::change_where(world, "deploy", |records| {
        let record = versions::of(records, &deployment.service);
        let has_main = record.is_some_and(|record| record.routes.is_some());
        let first = || versions::first(record, deployment, &request.site, &request.actor);
        Ok::<_, ChangeError>((!has_main).then(first))
    })
    .await?;
    Ok(())
}

/// The port it listens on: its own address's for something that runs already, the one asked for, or the first that is free.
fn port(world: &HostWorld, existing: &[Deployment], request: &DeployRequest) -> Result<Port, VersionError> {
    let records = world.store.recorded()?;
    if let Runs::External { uri } = &request.how.runs {
        let port = local_port(uri, request.site.address).map_err(Refused::from)?;
        versions::may_have(port, existing, &records, &request.site)?;
        return Ok(port);
    }
    free_port(world, existing, request.port, &request.site)
}

pub(super) fn free_port(
    world: &HostWorld,
    existing: &[Deployment],
    asked: Option<Port>,
    site: &crate::model::api::deployments::Site,
) -> Result<Port, VersionError> {
    let records = world.store.recorded()?;
    let listener = |port| world.machine.listeners(port).ok().and_then(|found| found.into_iter().next());
    if let Some(port) = asked {
        versions::may_have(port, existing, &records, site)?;
        return match listener(port) {
            None => Ok(port),
            Some(by) => {
                let by = Some(format!("{} (pid {})", by.name, by.pid));
                Err(Refused::PortTaken { port, by }.into())
            }
        };
    }
    let taken = versions::taken(existing, &records, site);
    let free = versions::candidates(site, &taken).find(|port| listener(*port).is_none());
    let (first, last) = site.range;
    Ok(free.ok_or(Refused::NoPort { first, last })?)
}

/// Releases that nothing uses, beyond the last few.
fn prune(world: &HostWorld, request: &DeployRequest) -> Result<(), VersionError> {
    let there = world.releases.list(&request.service)?;
    let existing = of_service(world, &request.service)?;
    let keep = usize::try_from(request.site.keep_releases).unwrap_or(usize::MAX);
    for release in versions::prune(&there, &existing, &request.service, keep) {
        world.releases.remove(&request.service, &release)?;
    }
    Ok(())
}

/// The deployment as it is recorded now.
pub(super) fn recorded(world: &HostWorld, id: &DeploymentId) -> Result<Deployment, VersionError> {
    let all = world.deployments.all()?;
    let which = crate::model::api::deployments::Which::Id(id.clone());
    Ok(versions::find(&all, &which)?.clone())
}
