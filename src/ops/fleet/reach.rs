//! A host or every balancer, reached from the operator machine: links, reads, and waits that a stop request ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::api::{ProbeRequest, ProbeResult, StatusRequest};
use crate::model::balancer::BackendView;
use crate::model::fleet::Fleet;
use crate::model::forward::ServiceRecord;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::port_forward::Switch;
use crate::plan::host_servers::{find_backup, find_main, find_main_line};
use crate::world::FleetWorld;
use crate::world::balancer::{Balancer, BalancerError};
use crate::world::link::{HostLink, LinkError};

/// The interval between two reads of a host's record.
const RECORD_INTERVAL: Duration = Duration::from_millis(500);

/// How long a switch waits for the address that a balancer uses: a packet to the configured address proves nearly as much.
const LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the link to a host.
pub fn find_link<'a>(world: &'a FleetWorld, host: &Host) -> Result<&'a dyn HostLink, LinkError> {
    let none = || LinkError::Unreachable {
        via: "no link".to_owned(),
        reason: format!("`{}` is none of the hosts of this command", host.name),
        ssh: None,
    };
    world.links.get(&host.name).map(AsRef::as_ref).ok_or_else(none)
}

/// Probes the host's real port from the host itself.
pub async fn probe_main(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Result<ProbeResult, LinkError> {
    let request = ProbeRequest { address: fleet.main_endpoint(host), health: fleet.health.clone() };
    find_link(world, host)?.probe(&request).await
}

/// Builds the status request for a host.
pub fn build_status_request(fleet: &Fleet, host: &Host) -> StatusRequest {
    StatusRequest {
        service: fleet.service.clone(),
        ports: fleet.ports,
        main: fleet.main_endpoint(host),
        health: fleet.health.clone(),
        send_packet: false,
        addresses: vec![],
    }
}

/// Reads every balancer concurrently. Those without access by configuration are left out.
pub async fn read_balancers(world: &FleetWorld) -> Vec<Result<Arc<BackendView>, BalancerError>> {
    futures_util::future::join_all(world.balancers.iter().map(|balancer| balancer.read())).await
}

/// Lists the addresses of a host that balancers use, as far as they are known: the configured one, and those of its main server
/// lines.
pub async fn list_host_addresses(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Vec<IpAddr> {
    let lines = world.balancers.iter().map(async |balancer| {
        let spec = balancer.spec();
        let lines = tokio::time::timeout(LINES_TIMEOUT, balancer.read_lines()).await.ok()?.ok()?;
        find_main_line(fleet, spec, &host.name, &lines).map(|line| line.address.ip().to_canonical())
    });
    let used = futures_util::future::join_all(lines).await.into_iter().flatten();
    let mut addresses: Vec<IpAddr> = std::iter::once(fleet.main_endpoint(host).ip()).chain(used).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Reads the names that HAProxy's commands have for a host's two servers: the configured ones where the balancer cannot be read.
pub(super) async fn read_server_names(
    balancer: &dyn Balancer,
    fleet: &Fleet,
    host: &HostName,
) -> (String, String) {
    let spec = balancer.spec();
    match balancer.read().await {
        Ok(view) => (find_main(fleet, spec, host, &view).name, find_backup(fleet, spec, host, &view).name),
        Err(_) => (spec.servers.main_server_name(host), spec.servers.backup_server_name(host)),
    }
}

/// Off by the record and off in the kernel: what is so already needs no leave.
pub async fn is_off(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Result<bool, LinkError> {
    let link = find_link(world, host)?;
    // The record alone decides most cases, and costs a tenth of a full read.
    if link.fetch_activity(&fleet.service, fleet.ports.main).await?.switch != Some(Switch::Off) {
        return Ok(false);
    }
    let view = link.fetch_status(&build_status_request(fleet, host)).await?;
    let off = |part: &Option<ServiceRecord>| part.as_ref().is_some_and(|record| record.switch == Switch::Off);
    let kernel_off = view
        .kernel
        .as_ref()
        .is_ok_and(|families| families.iter().all(|family| family.switch() == Switch::Off));
    Ok(view.record.as_ref().is_ok_and(off) && kernel_off && view.drift.is_empty())
}

/// Waits; true when a stop was requested before the time was up.
pub(super) async fn sleep_or_stop(world: &FleetWorld, pause: Duration) -> bool {
    tokio::select! {
        () = world.stop.wait() => true,
        () = tokio::time::sleep(pause) => false,
    }
}

/// Returns when this service's record on the host is not the one of this switch any more. A host that cannot be reached
/// is queried again: a wait for balancers needs no link.
pub(super) async fn wait_until_overtaken(world: &FleetWorld, fleet: &Fleet, host: &Host, generation: u32) {
    let Ok(link) = find_link(world, host) else { return std::future::pending().await };
    loop {
        tokio::time::sleep(RECORD_INTERVAL).await;
        let activity = link.fetch_activity(&fleet.service, fleet.ports.main).await;
        if activity.is_ok_and(|activity| activity.generation != generation) {
            return;
        }
    }
}
