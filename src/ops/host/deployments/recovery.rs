//! After a kill, a crash or a boot: half-done changes are made whole, and what should run runs.

use std::collections::BTreeSet;

use super::error::HostDeployError;
use super::finish::{finish_kill, finish_update};
use super::instance;
use super::record::list_service_deployments;
use super::release_links::{link_releases, update_links};
use super::system_actor::system_actor;
use crate::model::deployment::{Deployment, Stage};
use crate::model::name::ServiceName;
use crate::plan::versions::{Recovery, plan_recovery};
use crate::world::HostWorld;
use crate::world::store::HistoryNote;

/// Recovers every service that no other process is working on. Returns what was done, as sentences. Reads once, and locks
/// only where something is left over: hosts have a thousand services.
pub async fn recover(world: &HostWorld) -> Result<Vec<String>, HostDeployError> {
    let records = world.store.load_records()?;
    let all = world.deployments.all()?;
    let left_over: BTreeSet<&ServiceName> = all
        .iter()
        .filter(|deployment| plan_recovery(&records, deployment).is_some())
        .map(|deployment| &deployment.service)
        .collect();
    let mut done = Vec::new();
    for service in left_over {
        // A process that holds the lock is at work on the service, and recovers it first itself.
        if let Ok(_held) = world.deployments.lock_service(service, "recover", std::time::Duration::ZERO).await
        {
            match recover_service(world, service).await {
                Ok(mut recovered) => done.append(&mut recovered),
                // The other services do not wait for it.
                Err(error) => done.push(format!("{service}: an unfinished change is not recovered: {error}")),
            }
            update_links(world, service);
        }
    }
    Ok(done)
}

/// Runs [`restore_instances`], unless the service manager does that at boot.
pub async fn restore_at_boot(world: &HostWorld) -> Result<Vec<String>, HostDeployError> {
    if world.runner.restarts_at_boot() { Ok(vec![]) } else { restore_instances(world).await }
}

/// Runs at boot, and when the agent starts: recovers services, sets links as the rules are, and starts or adopts every
/// instance that should run.
pub async fn restore_instances(world: &HostWorld) -> Result<Vec<String>, HostDeployError> {
    let mut done = recover_and_start(world).await?;
    let (records, all) = (world.store.load_records()?, world.deployments.all()?);
    for record in &records {
        // A link is for people: a failure is logged, and nothing waits for it.
        if let Err(error) = link_releases(world, record, &all) {
            done.push(format!("{}: {error}", record.forward.service));
        }
    }
    Ok(done)
}

/// Runs from time to time: recovers half-done changes, and starts instances that have no keeper.
pub(super) async fn recover_and_start(world: &HostWorld) -> Result<Vec<String>, HostDeployError> {
    let mut done = recover(world).await?;
    for deployment in world.deployments.all()? {
        if deployment.stage != Stage::Ready {
            continue;
        }
        for one in deployment.active_instances() {
            let id = deployment.instance_id(one);
            if let Some(conflict) = instance::find_port_conflict(world, &id, one).await {
                done.push(format!("{} {} cannot listen: {conflict}", deployment.service, deployment.version));
            }
            if let Err(error) = instance::start(world, &deployment, one).await {
                done.push(format!("{} {} does not start: {error}", deployment.service, deployment.version));
            }
        }
    }
    Ok(done)
}

/// Recovers one service under its lock: an unfinished change was left by a process that has ended.
pub(super) async fn recover_service(
    world: &HostWorld,
    service: &ServiceName,
) -> Result<Vec<String>, HostDeployError> {
    let mut done = Vec::new();
    for deployment in list_service_deployments(world, service)? {
        let Some(recovery) = plan_recovery(&world.store.load_records()?, &deployment) else { continue };
        let text = apply_recovery(world, &deployment, recovery).await?;
        let text = format!("{service} {}: {text}", deployment.version);
        let note = HistoryNote {
            service: service.clone(),
            actor: system_actor(),
            action: "recover",
            detail: text.clone(),
        };
        world.store.add_note(&note, world.clock.now())?;
        done.push(text);
    }
    Ok(done)
}

async fn apply_recovery(
    world: &HostWorld,
    deployment: &Deployment,
    recovery: Recovery,
) -> Result<&'static str, HostDeployError> {
    let ready = || Deployment { stage: Stage::Ready, other_instance: None, ..deployment.clone() };
    Ok(match recovery {
        Recovery::Remove => {
            instance::remove_all(world, deployment, false).await?;
            world.deployments.remove(&deployment.id)?;
            "an unfinished deploy is taken away"
        }
        Recovery::MarkReady => {
            world.deployments.put(&ready())?;
            "a deploy whose end was not recorded is whole"
        }
        Recovery::RemoveNext => {
            if let Some(next) = &deployment.other_instance {
                instance::remove(world, deployment, next).await?;
            }
            world.deployments.put(&ready())?;
            "an unfinished update is taken away"
        }
        Recovery::FinishUpdate => {
            finish_update(world, deployment).await?;
            "an update that had the traffic is finished"
        }
        Recovery::FinishKill => {
            // The killed process alone knew whether the release was to stay. It stays, until retention takes it.
            finish_kill(world, deployment, true, &system_actor()).await?;
            "an unfinished kill is finished"
        }
    })
}
