//! `kill` on the host: rules first, the process last.

use std::time::Duration;

use tokio::time::Instant;

use super::error::HostDeployError;
use super::finish::{finish_kill, remove_routes};
use super::open_connections::{count_sockets, list_sockets};
use super::record::{list_service_deployments, load_deployment, load_recovered};
use super::service_lock::lock_service;
use crate::model::api::deployments::{DeploymentRef, KillRequest, KillResponse};
use crate::model::deployment::{Deployment, Role, Stage};
use crate::model::forward::ServiceRecord;
use crate::model::history::Actor;
use crate::model::socket::{Socket, SocketCount};
use crate::ops::host::proxy;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::drain;
use crate::plan::versions::{self, DeployRefusal, check_idle};
use crate::world::HostWorld;
use crate::world::stop::StopToken;

/// The interval between two looks at what is in flight.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);

pub async fn kill(world: &HostWorld, request: &KillRequest) -> Result<KillResponse, HostDeployError> {
    let service = load_deployment(world, &request.id)?.service;
    let _held = lock_service(world, &service, "kill", request.dry_run).await?;
    rules::check_actor(world, &service, &request.actor)?;
    let (records, existing) = load_recovered(world, &service)?;
    let deployment = versions::find_deployment(&existing, &DeploymentRef::Id(request.id.clone()))?.clone();
    versions::check_kill(&records, &existing, &deployment)?;
    if request.dry_run {
        let busy = count_sockets(world, &deployment).await.ok().map(|count| count.maybe_busy());
        return Ok(KillResponse { deployment, aborted_requests: busy });
    }
    let check = || -> Result<(), HostDeployError> {
        let existing = list_service_deployments(world, &service)?;
        Ok(versions::check_kill(&world.store.load_records()?, &existing, &deployment)?)
    };
    let serving = versions::find_role(&records, &deployment) == Role::Main;
    let got = proxy::remove_from_splits(world, &deployment, &request.actor).await?;
    let killing = Deployment { stage: Stage::Killing, updated_at: world.clock.now(), ..deployment.clone() };
    // Users of the backup vhost are routed to main first: nothing new comes while the rest ends.
    let before = if serving { None } else { remove_routes(world, &deployment, &request.actor).await? };
    let ready = async {
        if !serving && !request.force {
            wait_until_drained(world, &deployment, request.drain_timeout, versions::check_drained).await?;
        }
        // From here on no command makes this deployment main; one may have done so until now.
        world.deployments.put(&killing)?;
        if let Err(refused) = check() {
            world.deployments.put(&deployment)?;
            return Err(refused);
        }
        Ok(())
    };
    if let Err(error) = ready.await {
        // The caller may have hung up: that ended the wait, and must not end the undo.
        let world = &HostWorld { stop: StopToken::without_handle(), ..world.clone() };
        let routes = match before {
            Some(before) => restore_routes(world, &deployment, &before, &request.actor).await,
            None => Ok(()),
        };
        let splits = match got {
            Some(got) => proxy::restore_to_splits(world, &deployment, &got, &request.actor).await,
            None => Ok(()),
        };
        routes?;
        splits?;
        return Err(error);
    }
    remove_routes(world, &killing, &request.actor).await?;
    // From here on there is no way back: a caller that hangs up does not shorten the drain.
    let world = &HostWorld { stop: world.stop.for_immediate(), ..world.clone() };
    if serving && !request.force {
        // The last main has work until no rule routes to it: open requests get the drain timeout to finish. A connection that a
        // load balancer keeps is no work: no other version could answer on it either.
        match wait_until_drained(world, &killing, request.drain_timeout, check_idle).await {
            Ok(()) | Err(HostDeployError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let cut = count_sockets(world, &killing).await.ok().map(|count| count.maybe_busy());
    finish_kill(world, &killing, request.keep_files, &request.actor).await?;
    Ok(KillResponse { deployment: killing, aborted_requests: cut })
}

/// Restores the routes after a refused kill: every port that was routed to the deployment is again, except those that
/// another command has changed since.
async fn restore_routes(
    world: &HostWorld,
    deployment: &Deployment,
    before: &ServiceRecord,
    actor: &Actor,
) -> Result<(), HostDeployError> {
    rules::change_if_needed(world, "kill", |records| {
        let record = versions::find_record(records, &deployment.service);
        let back = record.and_then(|record| versions::restore_routes(record, before, deployment, actor));
        Ok::<_, ChangeError>(back)
    })
    .await?;
    Ok(())
}

/// Waits for two quiet looks in a row, or gives back what is still there when the time is up. A failed look is not a quiet
/// look.
async fn wait_until_drained(
    world: &HostWorld,
    deployment: &Deployment,
    limit: Duration,
    check: impl Fn(&SocketCount) -> Result<(), DeployRefusal>,
) -> Result<(), HostDeployError> {
    let deadline = Instant::now() + limit;
    let mut before: Vec<Socket> = Vec::new();
    let mut quiet = 0;
    loop {
        let now = list_sockets(world, deployment).await?;
        let count = drain::count_activities(&now, &before).0;
        before = now;
        match check(&count) {
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
            () = world.stop.wait() => return Err(HostDeployError::Interrupted),
            () = tokio::time::sleep(DRAIN_INTERVAL) => {}
        }
    }
}
