//! Ports and addresses on which the operator machine disagrees with a host or a balancer, as they are now.

use std::net::IpAddr;

use crate::model::address_conflict::AddressConflict;
use crate::model::api::HostView;
use crate::model::deployment::Access;
use crate::model::fleet::Fleet;
use crate::model::forward::ServiceRecord;
use crate::model::host::Host;
use crate::model::port_conflict::PortConflict;
use crate::plan::address_conflicts::compare_addresses;
use crate::plan::port_conflicts::{compare_host, compare_lines};
use crate::plan::switch::Refusal;
use crate::world::FleetWorld;
use crate::world::link::LinkError;

use super::reach::{build_status_request, find_link};

/// The conflicts of one host.
pub(super) struct ConfigConflicts {
    pub ports: Vec<PortConflict>,
    pub addresses: Vec<AddressConflict>,
}

/// Compares the configured ports and the host's addresses with a host's view, where it is known, and with every balancer that
/// reports its lines.
pub(super) async fn find_conflicts(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    view: Option<&HostView>,
    reported: &[IpAddr],
) -> ConfigConflicts {
    let mut ports = match view.map(|view| (&view.record, view)) {
        Some((Ok(record), view)) => {
            let kernel = view.kernel.as_deref().unwrap_or_default();
            compare_host(fleet.ports, &host.name, record.as_ref(), kernel)
        }
        Some((Err(_), _)) | None => vec![],
    };
    let mut addresses = Vec::new();
    let read = world.balancers.iter().map(|balancer| balancer.read_lines());
    let lines = futures_util::future::join_all(read).await;
    for (balancer, lines) in world.balancers.iter().zip(lines) {
        let lines = lines.unwrap_or_default();
        ports.extend(compare_lines(fleet, balancer.spec(), &host.name, &lines));
        addresses.extend(compare_addresses(fleet, balancer.spec(), host, reported, &lines));
    }
    ConfigConflicts { ports, addresses }
}

/// Reads the addresses that a host reports; none where the host cannot be reached.
pub(super) async fn read_reported_addresses(world: &FleetWorld, host: &Host) -> Vec<IpAddr> {
    let greeted = async { find_link(world, host)?.greet().await };
    greeted.await.map(|hello| hello.addresses).unwrap_or_default()
}

/// Returns a refusal for every conflict of these hosts. A host that cannot be read now refuses later by itself.
pub(super) async fn find_config_refusals(world: &FleetWorld, fleet: &Fleet, hosts: &[Host]) -> Vec<Refusal> {
    let found = hosts.iter().map(async |host| {
        let (view, reported) =
            tokio::join!(read_view(world, fleet, host), read_reported_addresses(world, host));
        find_conflicts(world, fleet, host, view.ok().as_ref(), &reported).await
    });
    let found = futures_util::future::join_all(found).await;
    let (mut refusals, mut addresses) = (Vec::new(), Vec::new());
    for conflicts in found {
        refusals.extend(conflicts.ports.into_iter().map(|conflict| Refusal::OtherPort { conflict }));
        addresses.extend(conflicts.addresses.into_iter().map(|conflict| Refusal::OtherAddress { conflict }));
    }
    refusals.append(&mut addresses);
    refusals
}

/// Returns a refusal for each of these hosts on which the service is private: no rule forwards to it there, on or off.
pub(super) async fn find_private_refusals(world: &FleetWorld, fleet: &Fleet, hosts: &[Host]) -> Vec<Refusal> {
    let read = hosts.iter().map(async |host| read_view(world, fleet, host).await);
    let views = futures_util::future::join_all(read).await;
    let is_private = |view: &Result<HostView, LinkError>| {
        let record = view.as_ref().ok().and_then(|view| view.record.as_ref().ok()?.as_ref());
        record.is_some_and(|record: &ServiceRecord| record.access == Access::Private)
    };
    let private = hosts.iter().zip(&views).filter(|(_, view)| is_private(view));
    private
        .map(|(host, _)| Refusal::Private { host: host.name.clone(), service: fleet.service.clone() })
        .collect()
}

async fn read_view(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Result<HostView, LinkError> {
    find_link(world, host)?.fetch_status(&build_status_request(fleet, host)).await
}
