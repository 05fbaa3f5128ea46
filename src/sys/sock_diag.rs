//! `world::sockets` over the kernel's sock_diag interface (sock_diag(7)): the kernel filters by port and state, so the
//! cost is the sockets of one port and not of the machine.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use nix::sys::socket::{AddressFamily, SockProtocol};

use super::netlink::{self, NetlinkError};
use crate::model::ports::Port;
use crate::model::socket::Socket;
use crate::world::sockets::{SocketTable, SocketsError};

pub(super) mod connections;
mod dump;
pub(super) mod wire;

use dump::{MAX_ATTEMPTS, dump};
use wire::DumpPart;

/// The sockets of the network namespace that the calling thread is in.
#[derive(Debug)]
pub struct SockDiag;

#[async_trait]
impl SocketTable for SockDiag {
    /// Blocks for the dump (about 10 ms for 10,000 sockets, docs/design/measurements.md#m27). A thread of tokio's blocking
    /// pool may have been started elsewhere and be in another network namespace, whose sockets it would list without an
    /// error.
    async fn list_established(&self, port: Port) -> Result<Vec<Socket>, SocketsError> {
        let listed = open_netlink().and_then(|netlink| list_sockets(&netlink, port));
        Ok(listed
            .map_err(|error| SocketsError { port, reason: error.to_string() })?
            .into_iter()
            .map(|one| one.socket)
            .collect())
    }

    /// Lists the sockets again, for the kernel's own ids of them; then sends one request each.
    async fn close(&self, port: Port, sockets: &[Socket]) -> Result<usize, SocketsError> {
        let named: BTreeSet<u64> = sockets.iter().map(|socket| socket.cookie).collect();
        let closed = open_netlink().and_then(|netlink| {
            let listed =
                list_sockets(&netlink, port)?.into_iter().filter(|one| named.contains(&one.socket.cookie));
            let mut closed = 0;
            for (sequence, one) in (MAX_ATTEMPTS + 1..).zip(listed) {
                closed += usize::from(destroy(&netlink, &one.id, sequence)?);
            }
            Ok(closed)
        });
        closed.map_err(|error| SocketsError { port, reason: error.to_string() })
    }
}

/// A socket, and how the kernel calls it.
#[derive(Debug, PartialEq, Eq)]
struct ListedSocket {
    socket: Socket,
    id: wire::SocketId,
}

fn open_netlink() -> Result<OwnedFd, NetlinkError> {
    netlink::open(SockProtocol::NetlinkSockDiag).map_err(NetlinkError::Open)
}

fn list_sockets(netlink: &OwnedFd, port: Port) -> Result<Vec<ListedSocket>, NetlinkError> {
    // IPv4 clients of a dual-stack listener are found in the IPv6 dump only.
    let mut sockets = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let request = |sequence| wire::build_request(family as u8, port, sequence);
        sockets.extend(dump(netlink, request, wire::parse_socket, choose_socket(port))?);
    }
    // The kernel goes on by position in its table: a connection that comes during the dump can show another twice.
    sockets.sort_unstable_by_key(|one| one.socket.cookie);
    sockets.dedup_by_key(|one| one.socket.cookie);
    Ok(sockets)
}

/// Chooses the sockets with this local port: the filter of an older kernel may return others.
fn choose_socket(port: Port) -> impl Fn(DumpPart) -> Option<ListedSocket> {
    move |part| match part {
        DumpPart::Socket { socket, local_port, id } if local_port == port.get() => {
            Some(ListedSocket { socket, id })
        }
        _ => None,
    }
}

/// Whether it was there to be closed.
fn destroy(netlink: &OwnedFd, id: &wire::SocketId, sequence: u32) -> Result<bool, NetlinkError> {
    let mut buffer = [0; 1024];
    netlink::send(netlink, &wire::build_destroy(id, sequence))?;
    loop {
        let mut receive = |buffer: &mut [u8]| netlink::receive(netlink, buffer);
        let length = netlink::receive_datagram(&mut receive, &mut buffer)?;
        if let Some(answer) = wire::parse_destroy_answer(&buffer[..length], sequence) {
            return answer;
        }
    }
}

/// Reads bytes as each datagram of the kernel's sockets: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_datagram(datagram: &[u8]) {
    let sequence = netlink::read_u32(datagram, 8).unwrap_or(0);
    let _ = wire::parse_parts(datagram, sequence, wire::parse_socket);
    let _ = wire::parse_parts(datagram, sequence, wire::parse_connection);
    let _ = wire::parse_destroy_answer(datagram, sequence);
}

#[cfg(test)]
mod tests;
