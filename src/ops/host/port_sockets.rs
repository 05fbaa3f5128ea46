//! Connections that came by a data port, at any target it is routed to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::model::forward::ServiceRecord;
use crate::model::ports::Port;
use crate::model::socket::Socket;
use crate::world::HostWorld;
use crate::world::sockets::SocketsError;

/// The established connections that clients made to a data port of a service. Where it is routed, the sockets are found at
/// the route's targets, among others: conntrack knows which of them came by this port. Where conntrack cannot be read, all
/// of the target's sockets count: more work than there is, never less.
pub async fn read_port_sockets(
    world: &HostWorld,
    record: Option<&ServiceRecord>,
    port: Port,
) -> Result<Vec<Socket>, SocketsError> {
    let mut found = Vec::new();
    for real in record.map_or_else(|| vec![port], |record| record.instance_ports(port)) {
        let all = world.sockets.list_established(real).await?;
        if real == port {
            found.extend(all);
            continue;
        }
        found.extend(match world.flows.list_peers(port, real).await {
            Ok(peers) => filter_by_peers(all, &peers),
            Err(_) => all,
        });
    }
    Ok(found)
}

/// The sockets whose peers are among those that conntrack knows. It knows an IPv4 client of a dual-stack listener as IPv4.
pub fn filter_by_peers(sockets: Vec<Socket>, peers: &BTreeSet<SocketAddr>) -> Vec<Socket> {
    let known = |peer: SocketAddr| SocketAddr::new(IpAddr::to_canonical(&peer.ip()), peer.port());
    sockets.into_iter().filter(|socket| peers.contains(&known(socket.peer))).collect()
}

/// Resolves the address that a client from outside reaches: a probe on the host itself does not pass PREROUTING.
pub fn resolve_target(records: &[ServiceRecord], address: SocketAddr) -> SocketAddr {
    let Some(port) = Port::new(address.port()) else { return address };
    let real = records.iter().map(|record| record.instance_port(port)).find(|real| *real != port);
    SocketAddr::new(address.ip(), real.unwrap_or(port).get())
}
