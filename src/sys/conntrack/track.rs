//! New entries of the kernel's table for connections that are open and not tracked: `IPCTNL_MSG_CT_NEW` of
//! linux/netfilter/nfnetlink_conntrack.h. An entry that was there is never changed.
//!
//! A short timeout would not do: traffic renews it to the default of its state, but a websocket may be quiet for longer than any
//! short timeout, and would lose its entry. So an entry gets the default, and is deleted where its connection has ended before
//! the entry was added.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::wire;
use crate::model::ports::Port;
use crate::sys::netlink::{self, BUFFER, NLMSG_ERROR, NetlinkError, parse_messages};
use crate::sys::sock_diag::connections::list_connections;
use crate::sys::sock_diag::wire::OpenConnection;

/// Seconds; of an established connection by default (nf_conntrack-sysctl.rst), and of one that is ending.
const ESTABLISHED_TIMEOUT: u32 = 432_000;
const ENDING_TIMEOUT: u32 = 120;

/// Tracks the connections of a port; returns how many had no entry.
pub(super) fn track_open(port: Port) -> Result<usize, NetlinkError> {
    track_connections(list_connections(port)?, || list_connections(port))
}

/// Tracks connections; `list_again` returns those that are still open once all entries are added.
pub(super) fn track_connections(
    connections: Vec<OpenConnection>,
    list_again: impl FnOnce() -> Result<Vec<OpenConnection>, NetlinkError>,
) -> Result<usize, NetlinkError> {
    if connections.is_empty() {
        return Ok(0);
    }
    let netlink = netlink::open(SockProtocol::NetlinkNetFilter).map_err(NetlinkError::Open)?;
    let established = read_established_timeout();
    let (mut added, mut refused) = (Vec::new(), None);
    for (sequence, connection) in (1..).zip(connections) {
        let state = TrackedState::from_socket(connection.state);
        let timeout = if state == TrackedState::Established { established } else { ENDING_TIMEOUT };
        let request = wire::build_entry(connection.peer, connection.local, state as u8, timeout, sequence);
        match send_change(&netlink, &request, sequence, Errno::EEXIST) {
            Ok(true) => added.push(connection),
            Ok(false) => {}
            // The others are tracked all the same.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let removed = delete_ended(&netlink, &added, list_again)?;
    refused.map_or(Ok(added.len() - removed), Err)
}

/// Deletes the entries of connections that ended before their entries were added: no packet of theirs would end them, and a new
/// connection of the same client port would be taken for the old one for days. Returns how many.
fn delete_ended(
    netlink: &OwnedFd,
    added: &[OpenConnection],
    list_again: impl FnOnce() -> Result<Vec<OpenConnection>, NetlinkError>,
) -> Result<usize, NetlinkError> {
    if added.is_empty() {
        return Ok(0);
    }
    let open = list_again()?;
    let is_open =
        |ended: &OpenConnection| open.iter().any(|one| (one.local, one.peer) == (ended.local, ended.peer));
    let mut removed = 0;
    for (sequence, ended) in (1..).zip(added.iter().filter(|one| !is_open(one))) {
        let request = wire::build_delete(ended.peer, ended.local, sequence);
        removed += usize::from(send_change(netlink, &request, sequence, Errno::ENOENT)?);
    }
    Ok(removed)
}

/// The states of `enum tcp_conntrack` (linux/netfilter/nf_conntrack_tcp.h) that a connection can be picked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum TrackedState {
    SynReceived = 2,
    Established = 3,
    FinWait = 4,
    CloseWait = 5,
    LastAck = 6,
}

impl TrackedState {
    /// Maps a state of net/tcp_states.h.
    const fn from_socket(state: u8) -> Self {
        match state {
            3 => Self::SynReceived,
            4 => Self::FinWait,
            8 => Self::CloseWait,
            9 | 11 => Self::LastAck,
            _ => Self::Established,
        }
    }
}

fn read_established_timeout() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(ESTABLISHED_TIMEOUT)
}

/// Sends a request for one entry. Returns false where the kernel answers that it is so already.
fn send_change(
    netlink: &OwnedFd,
    request: &[u8],
    sequence: u32,
    already: Errno,
) -> Result<bool, NetlinkError> {
    let mut buffer = vec![0; BUFFER];
    netlink::send(netlink, request)?;
    loop {
        let mut receive = |buffer: &mut [u8]| netlink::receive(netlink, buffer);
        let length = netlink::receive_datagram(&mut receive, &mut buffer)?;
        for message in parse_messages(&buffer[..length]) {
            let message = message?;
            if message.sequence == sequence && message.kind == NLMSG_ERROR {
                return match message.error() {
                    None => Ok(true),
                    Some(error) if error == already => Ok(false),
                    Some(error) => Err(NetlinkError::Refused(error)),
                };
            }
        }
    }
}
