//! The connections of a local port by their addresses and states, also those whose handshake is not complete: sock_diag(7)
//! without `tcp_info`, which a request for a connection has not.

use nix::sys::socket::{AddressFamily, SockProtocol};

use super::dump::dump;
use super::wire::{self, DumpPart, OpenConnection};
use crate::model::ports::Port;
use crate::sys::netlink::{self, NetlinkError};

/// Lists the connections of a local port that have not ended on both sides.
pub(in crate::sys) fn list_connections(port: Port) -> Result<Vec<OpenConnection>, NetlinkError> {
    let netlink = netlink::open(SockProtocol::NetlinkSockDiag).map_err(NetlinkError::Open)?;
    let choose = |part| match part {
        DumpPart::Connection(found) if found.local.port() == port.get() => Some(found),
        _ => None,
    };
    let mut connections = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let request = |sequence| wire::build_connections_request(family as u8, port, sequence);
        connections.extend(dump(&netlink, request, wire::parse_connection, choose)?);
    }
    Ok(connections)
}
