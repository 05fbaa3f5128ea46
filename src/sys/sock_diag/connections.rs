//! The connections of a local port by their addresses and states, also those whose handshake is not complete: sock_diag(7)
//! without `tcp_info`, which a request for a connection has not.

use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockProtocol};

use super::wire::{self, OpenConnection};
use crate::model::ports::Port;
use crate::sys::netlink::{
    self, BUFFER, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkError, parse_messages,
};

const MAX_ATTEMPTS: u32 = 5;

/// Lists the connections of a local port that have not ended on both sides.
pub(in crate::sys) fn list_connections(port: Port) -> Result<Vec<OpenConnection>, NetlinkError> {
    let netlink = netlink::open(SockProtocol::NetlinkSockDiag).map_err(NetlinkError::Open)?;
    let mut connections = dump(&netlink, AddressFamily::Inet, port)?;
    connections.append(&mut dump(&netlink, AddressFamily::Inet6, port)?);
    Ok(connections)
}

fn dump(netlink: &OwnedFd, family: AddressFamily, port: Port) -> Result<Vec<OpenConnection>, NetlinkError> {
    let mut buffer = vec![0; BUFFER];
    for sequence in 1..=MAX_ATTEMPTS {
        netlink::send(netlink, &wire::build_connections_request(family as u8, port, sequence))?;
        if let Some(connections) = collect(netlink, &mut buffer, sequence, port)? {
            return Ok(connections);
        }
    }
    Err(NetlinkError::Interrupted { dumps: MAX_ATTEMPTS })
}

/// Returns `None` where the table changed during the dump.
fn collect(
    netlink: &OwnedFd,
    buffer: &mut [u8],
    sequence: u32,
    port: Port,
) -> Result<Option<Vec<OpenConnection>>, NetlinkError> {
    let mut connections = Vec::new();
    let mut is_complete = true;
    loop {
        let mut receive = |buffer: &mut [u8]| netlink::receive(netlink, buffer);
        let length = netlink::receive_datagram(&mut receive, buffer)?;
        for message in parse_messages(&buffer[..length]) {
            let message = message?;
            if message.sequence != sequence {
                continue;
            }
            is_complete &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                NLMSG_DONE => return Ok(is_complete.then_some(connections)),
                NLMSG_ERROR => {
                    return Err(message
                        .error()
                        .map_or(NetlinkError::UnexpectedType(NLMSG_ERROR), NetlinkError::Refused));
                }
                _ => {
                    let found = wire::parse_connection(message.body).ok_or(NetlinkError::ShortSocket)?;
                    connections.extend((found.local.port() == port.get()).then_some(found));
                }
            }
        }
    }
}
