//! Server lines of other backends that send requests to a host's main vhost, as the balancers report them now.

use std::sync::Arc;

use crate::model::balancer::ServerLine;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::BalancerName;
use crate::plan::server_lines::find_lines_to_main;
use crate::world::FleetWorld;
use crate::world::balancer::Balancer;

/// Reads the lines of every balancer concurrently. A balancer that cannot be read now has none: the read of its backend
/// reports the error.
pub(super) async fn read_lines_to_main(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
) -> Vec<(BalancerName, ServerLine)> {
    let read = world.balancers.iter().map(async |balancer: &Arc<dyn Balancer>| {
        let spec = balancer.spec();
        let lines = balancer.read_lines().await.unwrap_or_default();
        let main = spec.servers.main_server_name(&host.name);
        let found = find_lines_to_main(&lines, (&spec.backend, &main), fleet.main_endpoint(host));
        found.into_iter().map(|line| (spec.name.clone(), line.clone())).collect::<Vec<_>>()
    });
    futures_util::future::join_all(read).await.concat()
}
