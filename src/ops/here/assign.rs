//! Another version becomes main on this host: `assign`, `rollback`, and `access`.

use std::time::Duration;

use super::{VersionError, becomes_healthy, of_service};
use crate::model::deployment::{Deployment, Instance};
use crate::model::forward::{Changed, Intent, Leg, Recorded, Routing, Switch};
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::socket::Socket;
use crate::model::versions::{AccessRequest, AssignRequest, Assigned, Part, Which};
use crate::ops::rules;
use crate::ops::traffic::canonical;
use crate::plan::versions::{self, Refused};
use crate::world::World;

/// How long a version that has answered before may take to answer again.
const HEALTHY: Duration = Duration::from_secs(5);

/// An id says nothing of its service: what was asked of one service changes no other.
pub fn is_of(world: &World, service: &ServiceName, which: &Which) -> Result<(), VersionError> {
    let existing = world.deployments.all()?;
    let found = versions::find(&existing, which)?;
    if found.service == *service { Ok(()) } else { Err(Refused::NoVersion(which.clone()).into()) }
}

/// Both ports in one transaction, once the version's own port has answered as it should. The same again changes nothing.
pub async fn assign(world: &World, request: &AssignRequest) -> Result<Assigned, VersionError> {
    let existing = world.deployments.all()?;
    let target = versions::ready(&existing, &request.which)?.clone();
    becomes_healthy(world, &target, &target.instance, HEALTHY).await?;
    let before = record(world, &target.service)?;
    let mut previous = None;
    let changed = rules::change_as(world, "assign", |records| {
        // Read again: a kill may have begun since.
        let existing = world.deployments.all()?;
        let (intent, was) = versions::assign(records, &existing, request, world.clock.now())?;
        previous = existing.into_iter().find(|one| Some(&one.id) == was.as_ref());
        Ok::<_, VersionError>(intent)
    })
    .await?;
    links(world, &target.service)?;
    let closed = match request.part {
        Part::Whole => close_kept(world, before.as_ref()).await,
        Part::Backup => 0,
    };
    Ok(Assigned { deployment: target, previous, changed, closed })
}

/// The last good main takes both ports back, at once and without steps; refused while it is not healthy.
pub async fn rollback(
    world: &World,
    service: &ServiceName,
    actor: &Actor,
    why: &str,
) -> Result<Assigned, VersionError> {
    let records = world.store.recorded()?;
    let to = versions::last_good(&records, service)?;
    let existing = of_service(world, service)?;
    let target = versions::ready(&existing, &Which::Id(to.clone()))?.clone();
    becomes_healthy(world, &target, &target.instance, HEALTHY).await?;
    let was = versions::of(&records, service).and_then(|record| record.routes.as_ref());
    let was = was.map(|routes| routes.main.deployment.clone());
    let previous = existing.into_iter().find(|one| Some(&one.id) == was.as_ref());
    let before = record(world, service)?;
    let changed = rules::change_as(world, "rollback", |records| {
        let existing = world.deployments.all()?;
        Ok::<_, VersionError>(versions::rollback(records, &existing, service, &to, actor, why)?)
    })
    .await?;
    links(world, service)?;
    let closed = close_kept(world, before.as_ref()).await;
    Ok(Assigned { deployment: target, previous, changed, closed })
}

/// Private: no port leads to the service any more. Public again: what is recorded is in force again.
pub async fn access(
    world: &World,
    service: &ServiceName,
    request: &AccessRequest,
) -> Result<Changed, VersionError> {
    rules::change_as(world, "access", |records| {
        let record = versions::of(records, service).ok_or_else(|| Refused::NoMain(service.clone()))?;
        Ok(Intent {
            forward: record.forward.clone(),
            switch: record.switch,
            from_self: record.from_self,
            actor: request.actor.clone(),
            action: "access".to_owned(),
            detail: if request.public { "public" } else { "private" }.to_owned(),
            routing: Routing::Keep,
            access: Some(request.access()),
        })
    })
    .await
}

fn record(world: &World, service: &ServiceName) -> Result<Option<Recorded>, VersionError> {
    Ok(rules::record(world, service)?)
}

/// A host that is out has idle connections to the main that was, which its balancers keep and would use again when it is
/// back: HAProxy does not close them when a server is DOWN (facts.md). Nothing can be in flight on them, for no balancer uses
/// the server; those that came by the backup vhost's port are in use and left alone. Best effort: what is not closed shows
/// as a kept connection of the old version.
async fn close_kept(world: &World, before: Option<&Recorded>) -> usize {
    let Some(Recorded { switch: Switch::Off, routes: Some(routes), .. }) = before else { return 0 };
    let Leg { port, target, .. } = routes.main;
    // Which connections came by the port has to be known: the others are in use.
    let Ok(led) = world.flows.led(port, target).await else { return 0 };
    let Ok(open) = world.sockets.established(target).await else { return 0 };
    let kept: Vec<Socket> = open.into_iter().filter(|socket| led.contains(&canonical(socket.peer))).collect();
    world.sockets.close(target, &kept).await.unwrap_or(0)
}

/// `main` and `backup` in the service's directory point at the releases that are.
pub(super) fn links(world: &World, service: &ServiceName) -> Result<(), VersionError> {
    let existing = of_service(world, service)?;
    let routes = record(world, service)?.and_then(|record| record.routes);
    let release = |leg: Option<&Leg>| -> Option<String> {
        let leg = leg?;
        let one: &Deployment = existing.iter().find(|one| one.id == leg.deployment)?;
        let instances: [Option<&Instance>; 2] = [Some(&one.instance), one.next.as_ref()];
        let instance = instances.into_iter().flatten().find(|instance| instance.port == leg.target)?;
        instance.digest.as_ref().map(|_| one.release_name(instance.build))
    };
    let (main, backup) =
        (routes.as_ref().map(|routes| &routes.main), routes.as_ref().map(|routes| &routes.backup));
    world.releases.link(service, "main", release(main).as_deref())?;
    world.releases.link(service, "backup", release(backup).as_deref())?;
    Ok(())
}
