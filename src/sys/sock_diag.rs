//! `world::sockets` over the kernel's sock_diag interface (sock_diag(7)): the kernel filters by port and state, so the
//! cost is the sockets of one port and not of the machine.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::model::ports::Port;
use crate::model::socket::Socket;
use crate::world::sockets::{Sockets, SocketsError};

mod wire;

use wire::Part;

/// A datagram of a dump is at most 32 KiB (netlink(7), "messages"); more than one read may be needed, never a larger one.
const BUFFER: usize = 64 * 1024;
/// The kernel says when sockets came and went during a dump; a few tries give one that is whole.
const TRIES: u32 = 5;
/// The kernel answers at once; a wait without end would be nobody's.
const PATIENCE_S: i64 = 5;

/// The sockets of the network namespace that the calling thread is in.
#[derive(Debug)]
pub struct SockDiag;

#[async_trait]
impl Sockets for SockDiag {
    /// Blocks for the dump (about 10 ms for 10,000 sockets). A thread of tokio's blocking pool may have been started
    /// elsewhere and be in another network namespace, whose sockets it would list without an error.
    async fn established(&self, port: Port) -> Result<Vec<Socket>, SocketsError> {
        let failed = |why: String| SocketsError { port, why };
        let netlink = open().map_err(|error| failed(error.to_string()))?;
        // IPv4 clients of a dual-stack listener are found in the IPv6 dump only.
        let mut sockets = dump(&netlink, AddressFamily::Inet, port).map_err(failed)?;
        sockets.append(&mut dump(&netlink, AddressFamily::Inet6, port).map_err(failed)?);
        // The kernel goes on by position in its table: a connection that comes during the dump can show another twice.
        sockets.sort_unstable_by_key(|socket| socket.cookie);
        sockets.dedup_by_key(|socket| socket.cookie);
        Ok(sockets)
    }

    async fn close(&self, port: Port, _sockets: &[Socket]) -> Result<usize, SocketsError> {
        Err(SocketsError { port, why: "not built yet".to_owned() })
    }
}

fn open() -> nix::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkSockDiag;
    let netlink = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
    // Room for a dump that is faster than the reader; a smaller buffer costs time, not correctness.
    let _ = setsockopt(&netlink, sockopt::RcvBuf, &(1024 * 1024));
    Ok(netlink)
}

fn dump(netlink: &OwnedFd, family: AddressFamily, port: Port) -> Result<Vec<Socket>, String> {
    let mut buffer = vec![0; BUFFER];
    for sequence in 1..=TRIES {
        let request = wire::request(family as u8, port, sequence);
        sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .map_err(|error| format!("send: {error}"))?;
        if let Some(sockets) = collect(|buffer| receive(netlink, buffer), &mut buffer, sequence, port)? {
            return Ok(sockets);
        }
    }
    Err(format!("the kernel interrupted {TRIES} dumps in a row"))
}

/// The answer to one request, datagram by datagram. `None`: the table changed under the dump, which may have missed or
/// doubled a socket.
fn collect(
    mut receive: impl FnMut(&mut [u8]) -> nix::Result<usize>,
    buffer: &mut [u8],
    sequence: u32,
    port: Port,
) -> Result<Option<Vec<Socket>>, String> {
    let mut sockets = Vec::new();
    let mut whole = true;
    loop {
        let length = match receive(buffer) {
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => return Err(format!("the kernel did not answer within {PATIENCE_S}s")),
            Err(error) => return Err(format!("receive: {error}")),
        };
        for part in wire::parts(&buffer[..length], sequence) {
            match part? {
                Part::Socket { socket, local_port } if local_port == port.get() => sockets.push(socket),
                Part::Socket { .. } | Part::Over | Part::Stale => {}
                Part::Interrupted => whole = false,
                Part::Done => return Ok(whole.then_some(sockets)),
            }
        }
    }
}

/// One datagram; one that does not fit is an error, its rest is lost.
fn receive(netlink: &OwnedFd, buffer: &mut [u8]) -> nix::Result<usize> {
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<NetlinkAddr>(netlink.as_raw_fd(), &mut slices, None, MsgFlags::empty())?;
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests;
