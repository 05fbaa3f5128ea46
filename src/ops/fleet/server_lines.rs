//! Server lines of other backends that send requests to a host's main vhost, as the balancers report them now.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::balancer::{ServerLine, StatsEndpoint};
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::BalancerName;
use crate::plan::host_servers::find_main_line;
use crate::plan::server_lines::find_lines_to_main;
use crate::world::FleetWorld;
use crate::world::balancer::Balancer;

use super::reach::find_link;

/// Returns the main vhost's port on the configured address and on every address that the host reports.
pub(super) async fn list_main_endpoints(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Vec<SocketAddr> {
    let greeted = async { find_link(world, host)?.greet().await };
    let reported = greeted.await.map(|hello| hello.addresses).unwrap_or_default();
    let port = fleet.ports.main.get();
    let reported = reported.into_iter().map(|address| SocketAddr::new(address, port));
    std::iter::once(fleet.main_endpoint(host)).chain(reported).collect()
}

/// Reads the lines of every balancer concurrently. Each line is listed once, also where several entries of the configuration
/// name one HAProxy, and an entry's own main line is not listed at all. A balancer that cannot be read now has none: the read
/// of its backend reports the error.
pub(super) async fn read_lines_to_main(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    endpoints: &[SocketAddr],
) -> Vec<(BalancerName, ServerLine)> {
    let read = world.balancers.iter().map(async |balancer: &Arc<dyn Balancer>| {
        let spec = balancer.spec();
        let lines = balancer.read_lines().await.unwrap_or_default();
        let own = find_main_line(fleet, spec, &host.name, &lines).map(|line| line.server.clone());
        let own = own.unwrap_or_else(|| spec.servers.main_server_name(&host.name));
        let found = find_lines_to_main(&lines, (&spec.backend, &own), endpoints);
        let found = found.into_iter().map(|line| (spec, line.clone())).collect::<Vec<_>>();
        ((&spec.stats_endpoint, format!("{}/{own}", spec.backend)), found)
    });
    let (own, found): (Vec<_>, Vec<_>) = futures_util::future::join_all(read).await.into_iter().unzip();
    let mut listed: Vec<(&Option<StatsEndpoint>, String)> = own;
    let mut lines = Vec::new();
    for (spec, line) in found.into_iter().flatten() {
        let key = (&spec.stats_endpoint, line.to_string());
        if !listed.contains(&key) {
            listed.push(key);
            lines.push((spec.name.clone(), line));
        }
    }
    lines
}
