//! `kill` on the host: rules first, the process last.

use std::time::Duration;

use tokio::time::Instant;

use super::deploy;
use super::instance;
use super::{VersionError, held, of_service};
use crate::model::api::deployments::{KillRequest, Killed};
use crate::model::deployment::{Deployment, Role, Stage};
use crate::model::forward::Recorded;
use crate::model::history::Actor;
use crate::model::socket::{Socket, SocketCount};
use crate::ops::host::proxy;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::drain;
use crate::plan::versions;
use crate::world::HostWorld;
use crate::world::sockets::SocketsError;
use crate::world::store::Note;

/// Between two looks at what is in flight.
const PAUSE: Duration = Duration::from_millis(200);

pub async fn kill(world: &HostWorld, request: &KillRequest) -> Result<Killed, VersionError> {
    let service = deploy::recorded(world, &request.id)?.service;
    let _held = held(world, &service, "kill").await?;
    let deployment = deploy::recorded(world, &request.id)?;
    let check = || -> Result<(), VersionError> {
        let existing = of_service(world, &service)?;
        Ok(versions::may_kill(&world.store.recorded()?, &existing, &deployment)?)
    };
    check()?;
    let serving = versions::role(&world.store.recorded()?, &deployment) == Role::Main;
    let got = proxy::leave(world, &deployment, &request.actor).await?;
    let killing = Deployment { stage: Stage::Killing, updated_at: world.clock.now(), ..deployment.clone() };
    // Users of the backup vhost are led to main first: nothing new comes while the rest ends.
    let before = if serving { None } else { cut_off(world, &deployment, &request.actor).await? };
    let ready = async {
        if !serving && !request.force {
            drained(world, &deployment, request.drain_timeout).await?;
        }
        // From here on nobody makes it main; somebody may have until now.
        world.deployments.put(&killing)?;
        if let Err(refused) = check() {
            world.deployments.put(&deployment)?;
            return Err(refused);
        }
        Ok(())
    };
    if let Err(error) = ready.await {
        if let Some(before) = before {
            lead_back(world, &deployment, &before, &request.actor).await?;
        }
        if let Some(got) = got {
            proxy::rejoin(world, &deployment, &got, &request.actor).await?;
        }
        return Err(error);
    }
    cut_off(world, &killing, &request.actor).await?;
    if serving && !request.force {
        // A main that is alone has work until nothing leads to it: what was begun may end, in its time.
        match drained(world, &killing, request.drain_timeout).await {
            Ok(()) | Err(VersionError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let cut = count(world, &killing).await.ok().map(|count| count.at_work());
    finish(world, &killing, request.keep_files, &request.actor).await?;
    Ok(Killed { deployment: killing, cut })
}

/// From here on it is gone, whatever comes: a killed kill goes on to its end.
pub(super) async fn finish(
    world: &HostWorld,
    deployment: &Deployment,
    keep_files: bool,
    actor: &Actor,
) -> Result<(), VersionError> {
    cut_off(world, deployment, actor).await?;
    proxy::leave(world, deployment, actor).await?;
    crate::ops::host::deployments::assign::links(world, &deployment.service);
    for one in deployment.instances() {
        instance::take_away(world, deployment, one, keep_files).await?;
    }
    world.deployments.remove(&deployment.id)?;
    let note = Note {
        service: deployment.service.clone(),
        actor: actor.clone(),
        action: "kill",
        detail: format!("{} {} ({}) is gone", deployment.service, deployment.version, deployment.id),
    };
    world.store.note(&note, world.clock.now())?;
    Ok(())
}

/// Gives back what was recorded before, where something led to it.
async fn cut_off(
    world: &HostWorld,
    deployment: &Deployment,
    actor: &Actor,
) -> Result<Option<Recorded>, VersionError> {
    let mut before = None;
    rules::change_where(world, "kill", |records| {
        let record = versions::of(records, &deployment.service);
        let intent = record.and_then(|record| versions::cut_off(record, deployment, actor));
        before = record.filter(|_| intent.is_some()).cloned();
        Ok::<_, ChangeError>(intent)
    })
    .await?;
    Ok(before)
}

/// The kill is refused: whatever led to it leads to it again, where nobody leads it elsewhere meanwhile.
async fn lead_back(
    world: &HostWorld,
    deployment: &Deployment,
    before: &Recorded,
    actor: &Actor,
) -> Result<(), VersionError> {
    rules::change_where(world, "kill", |records| {
        let record = versions::of(records, &deployment.service);
        let back = record.and_then(|record| versions::led_back(record, before, deployment, actor));
        Ok::<_, ChangeError>(back)
    })
    .await?;
    Ok(())
}

/// Two quiet looks in a row, or what is still there when the time is up. Not being able to look is no quiet look.
async fn drained(world: &HostWorld, deployment: &Deployment, limit: Duration) -> Result<(), VersionError> {
    let deadline = Instant::now() + limit;
    let mut before: Vec<Socket> = Vec::new();
    let mut quiet = 0;
    loop {
        let now = world.sockets.established(deployment.instance.port).await?;
        let count = drain::count(&now, &before).0;
        before = now;
        match versions::is_drained(&count) {
            Ok(()) if quiet == 1 => return Ok(()),
            Ok(()) => quiet += 1,
            Err(refused) => {
                quiet = 0;
                if Instant::now() >= deadline {
                    return Err(refused.into());
                }
            }
        }
        tokio::select! {
            biased;
            () = world.stop.requested() => return Err(VersionError::Interrupted),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

pub(in crate::ops::host) async fn count(
    world: &HostWorld,
    deployment: &Deployment,
) -> Result<SocketCount, SocketsError> {
    let sockets = world.sockets.established(deployment.instance.port).await?;
    Ok(drain::count(&sockets, &[]).0)
}
