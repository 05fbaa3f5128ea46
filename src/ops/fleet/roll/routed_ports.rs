//! A command rolled over hosts whose data ports are routed to deployed versions: what it changes behind those ports reaches no
//! user.

use std::collections::BTreeMap;

use crate::model::fleet::Fleet;
use crate::model::forward::Routes;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::ports::{Port, join_ports};
use crate::ops::fleet::reach;
use crate::world::FleetWorld;
use crate::world::reporter::Event;

/// Warns of every host where a version has the data ports. A host that cannot be read now is found by the checks of the roll.
pub(super) async fn warn_of_routed_ports(world: &FleetWorld, fleet: &Fleet, hosts: &[Host]) {
    let reads = hosts.iter().map(async |host| (&host.name, read_main(world, fleet, host).await));
    for (host, main) in futures_util::future::join_all(reads).await {
        if let Some(text) = main.map(|main| describe_routed_ports(host, fleet, &main)) {
            world.reporter.report(&Event::Warning { text });
        }
    }
}

/// Reads the port of main on every host where a version has it. A host that cannot be read now is left out.
pub(super) async fn read_main_targets(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[HostName],
) -> BTreeMap<HostName, Port> {
    let read = hosts.iter().filter_map(|name| fleet.find_recorded_host(name)).map(async |host| {
        let target = read_main(world, fleet, &host).await.map(|(routes, _)| routes.main.target);
        target.map(|target| (host.name, target))
    });
    futures_util::future::join_all(read).await.into_iter().flatten().collect()
}

/// Reads the routes of the service, with the version that is main.
async fn read_main(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Option<(Routes, String)> {
    let view = reach::find_link(world, host).ok()?.list_deployments().await.ok()?;
    let record = view.services.into_iter().find(|record| record.forward.service == fleet.service)?;
    let routes = record.routes?;
    let is_main = |id| routes.main.deployment == id;
    let main = view.deployments.into_iter().find(|view| is_main(view.deployment.id.clone()))?;
    Some((routes, main.deployment.version.to_string()))
}

fn describe_routed_ports(host: &HostName, fleet: &Fleet, (routes, version): &(Routes, String)) -> String {
    let (service, port) = (&fleet.service, routes.main.port);
    let target = join_ports(&routes.main.targets().collect::<Vec<_>>());
    format!(
        "{host}: port {port} is routed to {service} {version} on {target}: what the command changes behind port {port} \
         reaches no user. `switchman deploy {service} VERSION SOURCE` and `switchman assign {service} VERSION` change what users \
         get"
    )
}
