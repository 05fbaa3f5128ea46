//! Reads main of every host of a service.

use crate::model::deployment::Role;
use crate::model::host::Host;
use crate::model::host_main::HostMain;
use crate::model::name::{HostName, ServiceName};
use crate::world::FleetWorld;
use crate::world::link::LinkError;

use super::reach::find_link;

/// The mains of the hosts that were read, and the errors of the others.
#[derive(Debug, Default)]
pub(super) struct MainsView {
    pub known: Vec<HostMain>,
    pub unread: Vec<(HostName, LinkError)>,
}

/// Reads main of each host concurrently.
pub(super) async fn read_mains(world: &FleetWorld, service: &ServiceName, hosts: &[Host]) -> MainsView {
    let reads = hosts.iter().map(async |host| (host.name.clone(), read_main(world, service, host).await));
    let mut mains = MainsView::default();
    for (host, read) in futures_util::future::join_all(reads).await {
        match read {
            Ok(main) => mains.known.push(main),
            Err(error) => mains.unread.push((host, error)),
        }
    }
    mains
}

async fn read_main(world: &FleetWorld, service: &ServiceName, host: &Host) -> Result<HostMain, LinkError> {
    let deployments = find_link(world, host)?.list_deployments().await?.deployments;
    let main =
        deployments.into_iter().find(|view| view.deployment.service == *service && view.role == Role::Main);
    Ok(HostMain { host: host.name.clone(), version: main.map(|view| view.deployment.version) })
}
