//! The open connections of a deployment.

use crate::model::deployment::Deployment;
use crate::model::ports::Port;
use crate::model::socket::{Socket, SocketCount};
use crate::plan::drain;
use crate::world::HostWorld;
use crate::world::sockets::SocketsError;

/// Lists the connections to the ports of a deployment's instances.
pub(super) async fn list_sockets(
    world: &HostWorld,
    deployment: &Deployment,
) -> Result<Vec<Socket>, SocketsError> {
    let mut all = Vec::new();
    for instance in deployment.active_instances() {
        all.extend(world.sockets.list_established(instance.port).await?);
    }
    Ok(all)
}

/// Counts the connections to the ports of a deployment's instances, by what they do.
pub(in crate::ops::host) async fn count_sockets(
    world: &HostWorld,
    deployment: &Deployment,
) -> Result<SocketCount, SocketsError> {
    Ok(drain::count_activities(&list_sockets(world, deployment).await?, &[]).0)
}

/// Counts the connections to a port of an instance, by what they do.
pub(super) async fn count_port_sockets(world: &HostWorld, port: Port) -> Result<SocketCount, SocketsError> {
    Ok(drain::count_activities(&world.sockets.list_established(port).await?, &[]).0)
}
