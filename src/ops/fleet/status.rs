//! `status`: a snapshot of the record, the kernel's rules, every balancer's state and the requests in flight.

use serde::Serialize;

use crate::model::api::{HostView, StatusRequest};
use crate::model::balancer::{BalancerSpec, ServerView};
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::{BalancerName, ServiceName};
use crate::model::observation;
use crate::model::percent::Percent;
use crate::model::port_conflict::PortConflict;
use crate::model::port_forward::Switch;
use crate::model::ports::Ports;
use crate::plan::weights::compute_share;
use crate::world::FleetWorld;
use crate::world::balancer::BalancerError;
use crate::world::link::LinkError;

use super::port_conflicts::find_port_conflicts;
use super::reach::{build_status_request, find_link, read_balancers};

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
}

/// Takes a snapshot of one host, from the operator machine.
pub async fn read_status(world: &FleetWorld, fleet: &Fleet, host: &Host) -> HostStatus {
    let request = StatusRequest { send_packet: true, ..build_status_request(fleet, host) };
    let read_view = async { find_link(world, host)?.fetch_status(&request).await };
    let (view, balancers) = tokio::join!(read_view, read_balancer_status(world, fleet, host));
    let port_conflicts = find_port_conflicts(world, fleet, host, view.as_ref().ok()).await;
    let (host, service, ports) = (host.clone(), fleet.service.clone(), fleet.ports);
    HostStatus { host, service, ports, view, balancers, port_conflicts }
}

async fn read_balancer_status(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Vec<BalancerStatus> {
    let views = read_balancers(world).await;
    let build_status = |spec: &BalancerSpec| {
        let at = world.balancers.iter().position(|balancer| balancer.spec().name == spec.name);
        let servers = match at.and_then(|at| views.get(at)) {
            None => Err(BalancerStatusError::NoAccess),
            Some(Err(error)) => Err(error.clone().into()),
            Some(Ok(view)) => Ok(HostServers {
                share: compute_share(view, &spec.servers.main_server_name(&host.name)),
                main: view.find_server(&spec.servers.main_server_name(&host.name)).cloned(),
                backup: view.find_server(&spec.servers.backup_server_name(&host.name)).cloned(),
            }),
        };
        BalancerStatus { balancer: spec.name.clone(), servers }
    };
    fleet.balancers.iter().map(build_status).collect()
}
