//! `world::flows` over ctnetlink (linux/netfilter/nfnetlink_conntrack.h). This module reads and adds. It deletes
//! only an entry that it has added, by the whole tuple: a DELETE without a tuple empties the kernel's table
//! (docs/design/measurements.md#m24).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockProtocol};

use super::netlink::{self, BUFFER, NetlinkError};
use crate::model::ports::Port;
use crate::world::flows::{ConnectionTracker, FlowsError, TrackError};

mod track;
mod wire;

use wire::{DumpPart, FlowFilter};

/// The kernel reports when its table was rebuilt during a dump; a few attempts give a complete dump.
const MAX_ATTEMPTS: u32 = 5;

/// The connections of the network namespace that the calling thread is in.
#[derive(Debug)]
pub struct Conntrack;

#[async_trait]
impl ConnectionTracker for Conntrack {
    fn conntrack_timeout(&self) -> Duration {
        // Seconds, of this network namespace; 10 by default (nf_conntrack-sysctl.rst).
        let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close");
        let seconds = text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(10);
        Duration::from_secs(seconds)
    }

    /// Connections that ended lately may be among them (the kernel remembers one for up to two minutes): never two of one
    /// peer, for the tuple of a reply is unique. Blocks for the dump, on this thread, as `SockDiag` does: 33 ms among
    /// 100,000 connections where the kernel filters (Linux 5.8), 230 ms before
    /// (docs/design/measurements.md#m25).
    async fn list_peers(&self, port: Port, target: Port) -> Result<BTreeSet<SocketAddr>, FlowsError> {
        let wanted = FlowFilter { port, target };
        let list_peers = || {
            let netlink = netlink::open(SockProtocol::NetlinkNetFilter).map_err(NetlinkError::Open)?;
            let mut peers = dump(&netlink, AddressFamily::Inet, wanted)?;
            peers.append(&mut dump(&netlink, AddressFamily::Inet6, wanted)?);
            Ok(peers)
        };
        list_peers().map_err(|error: NetlinkError| FlowsError { port, reason: error.to_string() })
    }

    /// Blocks for a request per connection.
    async fn track_open(&self, port: Port) -> Result<usize, TrackError> {
        track::track_open(port).map_err(|error| TrackError { port, reason: error.to_string() })
    }
}

/// The address that answers a connection, after every translation; `None` where the kernel does not track it. Only the zone
/// 0 is searched.
pub(super) fn find_answerer(
    client: SocketAddr,
    server: SocketAddr,
) -> Result<Option<SocketAddr>, NetlinkError> {
    let netlink = netlink::open(SockProtocol::NetlinkNetFilter).map_err(NetlinkError::Open)?;
    netlink::send(&netlink, &wire::build_lookup(client, server, 1))?;
    let mut buffer = vec![0; BUFFER];
    let mut receive = |buffer: &mut [u8]| netlink::receive(&netlink, buffer);
    let length = netlink::receive_datagram(&mut receive, &mut buffer)?;
    wire::parse_lookup(&buffer[..length])
}

fn dump(
    netlink: &OwnedFd,
    family: AddressFamily,
    wanted: FlowFilter,
) -> Result<BTreeSet<SocketAddr>, NetlinkError> {
    let mut buffer = vec![0; BUFFER];
    let mut filtered = true;
    for sequence in 1..=MAX_ATTEMPTS {
        netlink::send(netlink, &wire::build_request(family as u8, filtered.then_some(wanted), sequence))?;
        let receive = |buffer: &mut [u8]| netlink::receive(netlink, buffer);
        match collect(receive, &mut buffer, sequence, wanted)? {
            DumpOutcome::Complete(peers) => return Ok(peers),
            DumpOutcome::Interrupted => {}
            // Then all are listed and filtered here, as they are from a kernel that does not know the filter at all.
            DumpOutcome::Refused(Errno::EINVAL | Errno::EOPNOTSUPP) if filtered => filtered = false,
            DumpOutcome::Refused(error) => return Err(NetlinkError::Refused(error)),
        }
    }
    Err(NetlinkError::Interrupted { dumps: MAX_ATTEMPTS })
}

/// The result of one request.
#[derive(Debug, PartialEq, Eq)]
enum DumpOutcome {
    Complete(BTreeSet<SocketAddr>),
    Interrupted,
    Refused(Errno),
}

fn collect(
    mut receive: impl FnMut(&mut [u8]) -> nix::Result<usize>,
    buffer: &mut [u8],
    sequence: u32,
    wanted: FlowFilter,
) -> Result<DumpOutcome, NetlinkError> {
    let mut peers = BTreeSet::new();
    let mut whole = true;
    loop {
        let length = netlink::receive_datagram(&mut receive, buffer)?;
        for part in wire::parse_parts(&buffer[..length], sequence) {
            match part? {
                DumpPart::Flow(flow) => peers.extend(flow.matching_peer(wanted)),
                DumpPart::Stale | DumpPart::Other => {}
                DumpPart::Interrupted => whole = false,
                DumpPart::Refused(error) => return Ok(DumpOutcome::Refused(error)),
                DumpPart::Done if whole => return Ok(DumpOutcome::Complete(peers)),
                DumpPart::Done => return Ok(DumpOutcome::Interrupted),
            }
        }
    }
}

/// Reads bytes as each datagram of connection tracking: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_datagram(datagram: &[u8]) {
    let sequence = netlink::read_u32(datagram, 8).unwrap_or(0);
    let _ = wire::parse_parts(datagram, sequence);
    let _ = wire::parse_lookup(datagram);
}

#[cfg(test)]
mod tests;
