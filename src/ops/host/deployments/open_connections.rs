//! The open connections of a deployment.

use crate::model::deployment::Deployment;
use crate::model::socket::SocketCount;
use crate::plan::drain;
use crate::world::HostWorld;
use crate::world::sockets::SocketsError;

/// Counts the connections to the port of the deployment's instance, by what they do.
pub(in crate::ops::host) async fn count_sockets(
    world: &HostWorld,
    deployment: &Deployment,
) -> Result<SocketCount, SocketsError> {
    let sockets = world.sockets.list_established(deployment.instance.port).await?;
    Ok(drain::count_activities(&sockets, &[]).0)
}
