//! The process that listens on a port of an instance.

use crate::model::ports::Port;
use crate::world::HostWorld;
use crate::world::sockets::SocketsError;

/// Returns who listens on a port, on any address. The kernel lists a socket also where its process is not to be seen. A port is
/// not free where the kernel's list cannot be read.
pub(super) fn describe_port_owner(world: &HostWorld, port: Port) -> Result<Option<String>, SocketsError> {
    let processes = world.machine.list_listeners(port).unwrap_or_default();
    if let Some(owner) = processes.first() {
        return Ok(Some(format!("{} (pid {})", owner.name, owner.pid)));
    }
    let sockets = world.packets.list_listening_addresses(port);
    let sockets = sockets.map_err(|error| SocketsError { port, reason: error.to_string() })?;
    Ok(sockets.first().map(|address| format!("a process that switchman cannot see, at {address}")))
}
