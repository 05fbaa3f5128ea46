//! A dump of the sockets of one port, repeated until the table did not change during it.

use std::os::fd::OwnedFd;

use super::wire::{DumpPart, ParseSocket, parse_parts};
use crate::sys::netlink::{self, BUFFER, NetlinkError};

/// The kernel reports when sockets came and went during a dump; a few attempts give a complete dump.
pub(super) const MAX_ATTEMPTS: u32 = 5;

/// Requests a dump and returns what is chosen of it. `build_request` gets the sequence number of the request.
pub(super) fn dump<T>(
    netlink: &OwnedFd,
    build_request: impl Fn(u32) -> Vec<u8>,
    parse: ParseSocket,
    choose: impl Fn(DumpPart) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let mut buffer = vec![0; BUFFER];
    for sequence in 1..=MAX_ATTEMPTS {
        netlink::send(netlink, &build_request(sequence))?;
        let receive = |buffer: &mut [u8]| netlink::receive(netlink, buffer);
        if let Some(chosen) = collect(receive, &mut buffer, sequence, parse, &choose)? {
            return Ok(chosen);
        }
    }
    Err(NetlinkError::Interrupted { dumps: MAX_ATTEMPTS })
}

/// Collects the answer to one request, datagram by datagram. `None`: the table changed under the dump, which may have missed or
/// doubled a socket.
pub(super) fn collect<T>(
    mut receive: impl FnMut(&mut [u8]) -> nix::Result<usize>,
    buffer: &mut [u8],
    sequence: u32,
    parse: ParseSocket,
    choose: impl Fn(DumpPart) -> Option<T>,
) -> Result<Option<Vec<T>>, NetlinkError> {
    let mut chosen = Vec::new();
    let mut is_complete = true;
    loop {
        let length = netlink::receive_datagram(&mut receive, buffer)?;
        for part in parse_parts(&buffer[..length], sequence, parse) {
            match part? {
                DumpPart::Interrupted => is_complete = false,
                DumpPart::Done => return Ok(is_complete.then_some(chosen)),
                part => chosen.extend(choose(part)),
            }
        }
    }
}
