//! `access`: whether a service can be called from outside.

use super::each_host::{PerHost, all_or_partial, for_each_host, require_owned_hosts};
use super::error::FleetDeployError;
use crate::model::api::deployments::AccessRequest;
use crate::model::fleet::Fleet;
use crate::model::forward::ChangeResult;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::ops::fleet::lock::{check_no_live_holder, run_under_lock};
use crate::ops::fleet::owner::HostActors;
use crate::world::FleetWorld;

/// Checks, before the prompt, what would refuse the change on any host: a maintenance of another operator, a running operation of
/// the fleet, a host that does not answer or that refuses by itself. Nothing is changed.
pub async fn check_access(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    service: &ServiceName,
    request: &AccessRequest,
) -> Result<(), FleetDeployError> {
    require_accepted(world, fleet, hosts, service, request).await?;
    Ok(check_no_live_holder(world).await?)
}

/// Makes a service public or private on every host, under the fleet's lock. No host is changed if one of them would refuse.
pub async fn set_access(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    service: &ServiceName,
    request: &AccessRequest,
) -> Result<Vec<(HostName, ChangeResult)>, FleetDeployError> {
    let change = async {
        let actors = require_accepted(world, fleet, hosts, service, request).await?;
        all_or_partial(send_request(world, hosts, service, request, &actors).await)
    };
    run_under_lock(world, &request.actor.user, "access", change).await
}

/// Returns the actors for the change once every host has accepted it as a dry run.
async fn require_accepted(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    service: &ServiceName,
    request: &AccessRequest,
) -> Result<HostActors, FleetDeployError> {
    let actors = require_owned_hosts(world, fleet, service, hosts, &request.actor).await?;
    let dry_run = AccessRequest { dry_run: true, ..request.clone() };
    let checked = send_request(world, hosts, service, &dry_run, &actors).await;
    let refused = checked.into_iter().filter_map(|(host, result)| result.err().map(|error| (host, error)));
    let refused: Vec<_> = refused.collect();
    if refused.is_empty() { Ok(actors) } else { Err(FleetDeployError::Hosts(refused)) }
}

async fn send_request(
    world: &FleetWorld,
    hosts: &[Host],
    service: &ServiceName,
    request: &AccessRequest,
    actors: &HostActors,
) -> PerHost<ChangeResult> {
    for_each_host(world, hosts, async |host, link| {
        let request = AccessRequest { actor: actors.find(&host.name), ..request.clone() };
        link.set_access(service, &request).await
    })
    .await
}
