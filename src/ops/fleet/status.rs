//! `status`: a snapshot of the record, the kernel's rules, every balancer's state and the requests in flight.

use serde::Serialize;

use crate::model::address_conflict::AddressConflict;
use crate::model::api::{HostView, StatusRequest};
use crate::model::balancer::{BalancerSpec, ServerView};
use crate::model::deployment::Access;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::host_main::HostMain;
use crate::model::name::{BalancerName, HostName, ServiceName};
use crate::model::observation;
use crate::model::percent::Percent;
use crate::model::port_conflict::PortConflict;
use crate::model::port_forward::Switch;
use crate::model::ports::Ports;
use crate::plan::host_servers::{find_backup, find_main};
use crate::plan::mains::{MainWeights, MainsDifference, find_cause, find_difference};
use crate::plan::weights::compute_share;
use crate::world::FleetWorld;
use crate::world::balancer::BalancerError;
use crate::world::link::LinkError;

use super::port_conflicts::{ConfigConflicts, find_conflicts, read_reported_addresses};
use super::promote;
use super::reach::{build_status_request, find_link, list_host_addresses, read_balancers};
use super::roll;

/// A snapshot of one host. A part that could not be read has the error in its place; it is never left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStatus {
    pub host: Host,
    pub service: ServiceName,
    pub ports: Ports,
    /// The host's own side; an error where the host cannot be reached.
    #[serde(serialize_with = "observation::serialize")]
    pub view: Result<HostView, LinkError>,
    pub balancers: Vec<BalancerStatus>,
    /// Ports on which this configuration disagrees with the host or a balancer.
    pub port_conflicts: Vec<PortConflict>,
    /// Server lines of this host that have the address of another machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address_conflicts: Vec<AddressConflict>,
}

/// The state of this host as one balancer reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BalancerStatus {
    pub balancer: BalancerName,
    #[serde(serialize_with = "observation::serialize")]
    pub servers: Result<HostServers, BalancerStatusError>,
}

/// Why the state that a balancer reports is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BalancerStatusError {
    #[error("not read: no `haproxy:` in the configuration")]
    NoAccess,
    #[error(transparent)]
    Unreadable(#[from] BalancerError),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostServers {
    pub main: Option<ServerView>,
    /// The share of the users without a cookie that main gets now; absent where only backup vhosts are UP.
    pub share: Option<Percent>,
    pub backup: Option<ServerView>,
}

impl HostStatus {
    /// The kernel's state over all families; `None` where it is not known or families differ.
    pub fn switch(&self) -> Option<Switch> {
        self.view.as_ref().ok()?.switch()
    }

    /// Whether the service is private on this host, by the record.
    pub fn is_private(&self) -> bool {
        let record = self.view.as_ref().ok().and_then(|view| view.record.as_ref().ok()?.as_ref());
        record.is_some_and(|record| record.access == Access::Private)
    }

    /// Returns the weight of main's server line on a balancer.
    fn find_weight(&self, balancer: &BalancerName) -> Option<(HostName, u32)> {
        let read = self.balancers.iter().find(|one| one.balancer == *balancer)?;
        let main = read.servers.as_ref().ok()?.main.as_ref()?;
        Some((self.host.name.clone(), main.weight))
    }
}

/// Takes a snapshot of one host, from the operator machine.
pub async fn read_status(world: &FleetWorld, fleet: &Fleet, host: &Host) -> HostStatus {
    let addresses = list_host_addresses(world, fleet, host).await;
    let request = StatusRequest { send_packet: true, addresses, ..build_status_request(fleet, host) };
    let read_view = async { find_link(world, host)?.fetch_status(&request).await };
    let (view, balancers, reported) = tokio::join!(
        read_view,
        read_balancer_status(world, fleet, host),
        read_reported_addresses(world, host)
    );
    let conflicts = find_conflicts(world, fleet, host, view.as_ref().ok(), &reported).await;
    let ConfigConflicts { ports: port_conflicts, addresses: address_conflicts } = conflicts;
    let (host, service, ports) = (host.clone(), fleet.service.clone(), fleet.ports);
    HostStatus { host, service, ports, view, balancers, port_conflicts, address_conflicts }
}

/// Finds whether these hosts have different mains, and why. A journal that cannot be read explains nothing.
pub async fn find_mains_difference(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[HostStatus],
) -> Option<MainsDifference> {
    let main = |status: &HostStatus| {
        let view = status.view.as_ref().ok()?;
        Some(HostMain { host: status.host.name.clone(), version: view.main_version.clone() })
    };
    let mains: Vec<HostMain> = hosts.iter().filter_map(main).collect();
    let weights: Vec<MainWeights> = fleet
        .balancers
        .iter()
        .map(|spec| hosts.iter().filter_map(|status| status.find_weight(&spec.name)).collect())
        .collect();
    let roll = roll::read_last(world).await.ok().flatten();
    let promotion = promote::read_last(world).await.ok().flatten();
    let cause = find_cause(&mains, roll.as_ref(), promotion.as_ref(), &weights);
    find_difference(&fleet.service, &mains, cause)
}

async fn read_balancer_status(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Vec<BalancerStatus> {
    let views = read_balancers(world).await;
    let build_status = |spec: &BalancerSpec| {
        let at = world.balancers.iter().position(|balancer| balancer.spec().name == spec.name);
        let servers = match at.and_then(|at| views.get(at)) {
            None => Err(BalancerStatusError::NoAccess),
            Some(Err(error)) => Err(error.clone().into()),
            Some(Ok(view)) => {
                let main = find_main(fleet, spec, &host.name, view);
                Ok(HostServers {
                    share: compute_share(view, &main.name),
                    main: main.view.cloned(),
                    backup: find_backup(fleet, spec, &host.name, view).view.cloned(),
                })
            }
        };
        BalancerStatus { balancer: spec.name.clone(), servers }
    };
    fleet.balancers.iter().map(build_status).collect()
}
