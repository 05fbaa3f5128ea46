//! After a kill, a crash or a boot: half-done changes are made whole, and what should run runs.

use std::collections::BTreeSet;

use super::instance;
use super::kill;
use super::update;
use super::{VersionError, of_service};
use crate::model::deployment::{Deployment, Stage};
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::plan::versions::{Recovery, recovery};
use crate::world::HostWorld;
use crate::world::store::Note;

/// Mends every service that nobody is working on; gives back what was done, as sentences. Reads once, and locks only where
/// something is left over: hosts have a thousand services.
pub async fn recover(world: &HostWorld) -> Result<Vec<String>, VersionError> {
    let records = world.store.recorded()?;
    let all = world.deployments.all()?;
    let left_over: BTreeSet<&ServiceName> = all
        .iter()
        .filter(|deployment| recovery(&records, deployment).is_some())
        .map(|deployment| &deployment.service)
        .collect();
    let mut done = Vec::new();
    for service in left_over {
        // Whoever holds it is at work on it, and mends first himself.
        if let Ok(_held) = world.deployments.lock_service(service, "recover", std::time::Duration::ZERO).await
        {
            done.append(&mut leftovers(world, service).await?);
            crate::ops::host::deployments::assign::links(world, service);
        }
    }
    Ok(done)
}

/// `restore`: as [`boot`], where nobody else does it.
pub async fn at_boot(world: &HostWorld) -> Result<Vec<String>, VersionError> {
    if world.runner.comes_back_at_boot() { Ok(vec![]) } else { boot(world).await }
}

/// At boot, and when the agent begins: recovered, links as the rules are, and every instance that should run is started or
/// adopted.
pub async fn boot(world: &HostWorld) -> Result<Vec<String>, VersionError> {
    let mut done = look_after(world).await?;
    let (records, all) = (world.store.recorded()?, world.deployments.all()?);
    for record in &records {
        // A link is for people: what it costs is told, and nothing waits for it.
        if let Err(error) = crate::ops::host::deployments::assign::link_up(world, record, &all) {
            done.push(format!("{}: {error}", record.forward.service));
        }
    }
    Ok(done)
}

/// From time to time: whatever was left half done, and instances that nobody runs.
pub(super) async fn look_after(world: &HostWorld) -> Result<Vec<String>, VersionError> {
    let mut done = recover(world).await?;
    for deployment in world.deployments.all()? {
        if deployment.stage != Stage::Ready {
            continue;
        }
        if let Err(error) = instance::start(world, &deployment, &deployment.instance).await {
            done.push(format!("{} {} does not start: {error}", deployment.service, deployment.version));
        }
    }
    Ok(done)
}

/// Under the service's lock: what is not at rest was left by somebody who is gone.
pub(super) async fn leftovers(world: &HostWorld, service: &ServiceName) -> Result<Vec<String>, VersionError> {
    let mut done = Vec::new();
    for deployment in of_service(world, service)? {
        let Some(recovery) = recovery(&world.store.recorded()?, &deployment) else { continue };
        let text = mend(world, &deployment, recovery).await?;
        let text = format!("{service} {}: {text}", deployment.version);
        let note =
            Note { service: service.clone(), actor: nobody(), action: "recover", detail: text.clone() };
        world.store.note(&note, world.clock.now())?;
        done.push(text);
    }
    Ok(done)
}

/// The one who began it is gone.
pub(super) fn nobody() -> Actor {
    Actor { user: "switchman".to_owned(), pid: std::process::id() }
}

async fn mend(
    world: &HostWorld,
    deployment: &Deployment,
    recovery: Recovery,
) -> Result<&'static str, VersionError> {
    let ready = || Deployment { stage: Stage::Ready, next: None, ..deployment.clone() };
    Ok(match recovery {
        Recovery::TakeAway => {
            instance::take_away(world, deployment, &deployment.instance, false).await?;
            world.deployments.remove(&deployment.id)?;
            "an unfinished deploy is taken away"
        }
        Recovery::IsReady => {
            world.deployments.put(&ready())?;
            "a deploy whose end was not recorded is whole"
        }
        Recovery::DropNext => {
            if let Some(next) = &deployment.next {
                instance::take_away(world, deployment, next, false).await?;
            }
            world.deployments.put(&ready())?;
            "an unfinished update is taken away"
        }
        Recovery::Promote => {
            update::promote(world, deployment).await?;
            "an update that had the traffic is finished"
        }
        Recovery::FinishKill => {
            // Whether its release was to stay died with whoever knew: it does, until retention takes it.
            kill::finish(world, deployment, true, &nobody()).await?;
            "an unfinished kill is finished"
        }
    })
}
