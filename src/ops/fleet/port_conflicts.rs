//! Ports on which the operator machine disagrees with a host or a balancer, as they are now.

use crate::model::api::HostView;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::port_conflict::PortConflict;
use crate::plan::port_conflicts::{compare_host, compare_lines};
use crate::plan::switch::Refusal;
use crate::world::FleetWorld;

use super::reach::{build_status_request, find_link};

/// Compares the configured ports with a host's view, where it is known, and with every balancer that reports its lines.
pub(super) async fn find_port_conflicts(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    view: Option<&HostView>,
) -> Vec<PortConflict> {
    let mut conflicts = match view.map(|view| (&view.record, view)) {
        Some((Ok(record), view)) => {
            let kernel = view.kernel.as_deref().unwrap_or_default();
            compare_host(fleet.ports, &host.name, record.as_ref(), kernel)
        }
        Some((Err(_), _)) | None => vec![],
    };
    let read = world.balancers.iter().map(|balancer| balancer.read_lines());
    let lines = futures_util::future::join_all(read).await;
    for (balancer, lines) in world.balancers.iter().zip(lines) {
        let lines = lines.unwrap_or_default();
        conflicts.extend(compare_lines(fleet.ports, balancer.spec(), &host.name, &lines));
    }
    conflicts
}

/// Returns a refusal for every conflict of these hosts. A host that cannot be read now refuses later by itself.
pub(super) async fn find_port_refusals(world: &FleetWorld, fleet: &Fleet, hosts: &[Host]) -> Vec<Refusal> {
    let found = hosts.iter().map(async |host| {
        let view = async { find_link(world, host)?.fetch_status(&build_status_request(fleet, host)).await };
        find_port_conflicts(world, fleet, host, view.await.ok().as_ref()).await
    });
    let found = futures_util::future::join_all(found).await;
    found.into_iter().flatten().map(|conflict| Refusal::OtherPort { conflict }).collect()
}
