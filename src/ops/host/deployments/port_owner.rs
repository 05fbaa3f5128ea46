//! The process that listens on a port of an instance.

use crate::model::ports::Port;
use crate::world::HostWorld;

/// Returns who listens on a port, on any address. The kernel lists a socket also where its process is not to be seen.
pub(super) fn describe_port_owner(world: &HostWorld, port: Port) -> Option<String> {
    let processes = world.machine.list_listeners(port).unwrap_or_default();
    if let Some(owner) = processes.first() {
        return Some(format!("{} (pid {})", owner.name, owner.pid));
    }
    let sockets = world.packets.list_listening_addresses(port);
    sockets.first().map(|address| format!("a process that switchman cannot see, at {address}"))
}
