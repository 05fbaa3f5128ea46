//! The bytes of sock_diag: `struct nlmsghdr` (linux/netlink.h), `struct inet_diag_req_v2` and `inet_diag_msg`
//! (linux/inet_diag.h), `struct tcp_info` (linux/tcp.h). Host byte order, but for ports and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;

use crate::model::ports::Port;
use crate::model::socket::{Socket, TcpInfo};
use crate::sys::netlink::{
    self, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, find,
    i32_at, messages, u32_at,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// linux/sock_diag.h: close with a reset.
const SOCK_DESTROY: u16 = 21;
const IPPROTO_TCP: u8 = 6;
const INET_DIAG_INFO: u16 = 2;

/// Connection states (net/tcp_states.h) that can hold work. `CLOSE_WAIT`: a peer that has closed its side may still be
/// owed an answer. The last three: the server has closed, and its answer may not have arrived in full.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
const FIN_WAIT1: u8 = 4;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
const STATES: u32 = 1 << ESTABLISHED | 1 << CLOSE_WAIT | 1 << FIN_WAIT1 | 1 << LAST_ACK | 1 << CLOSING;

/// Fixed part of `inet_diag_msg`.
const MESSAGE: usize = 72;
const AF_INET: u8 = 2;

/// A socket as the kernel itself names it: family and `struct inet_diag_sockid` (both ports, both addresses, interface,
/// cookie), kept byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    family: u8,
    sockid: [u8; 48],
}

#[cfg(test)]
impl Id {
    /// The same addresses and ports at another time.
    pub(super) fn with_cookie(mut self, cookie: u64) -> Self {
        self.sockid[40..44].copy_from_slice(&cookie.to_ne_bytes()[..4]);
        self.sockid[44..].copy_from_slice(&cookie.to_ne_bytes()[4..]);
        self
    }
}

/// One part of a dump's datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Socket {
        socket: Socket,
        local_port: u16,
        id: Id,
    },
    /// Closed by the server, and all of its answer has arrived: nothing is left to wait for.
    Over,
    /// The table changed during the dump (`NLM_F_DUMP_INTR`).
    Interrupted,
    /// Belongs to an earlier request.
    Stale,
    Done,
}

/// A dump of one family's TCP sockets with this local port (`idiag_sport` filters in the kernel), with `tcp_info`.
pub(super) fn request(family: u8, port: Port, sequence: u32) -> Vec<u8> {
    let mut sockid = [0; 48];
    sockid[..2].copy_from_slice(&port.get().to_be_bytes());
    // INET_DIAG_NOCOOKIE.
    sockid[40..].fill(0xff);
    let id = Id { family, sockid };
    netlink::message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence, &diag(&id, STATES))
}

/// Close exactly this socket: the kernel compares the cookie (`sock_diag_check_cookie`), so that a later one with the same
/// addresses and ports is never meant.
pub(super) fn destroy(id: &Id, sequence: u32) -> Vec<u8> {
    netlink::message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, sequence, &diag(id, u32::MAX))
}

/// `struct inet_diag_req_v2`: what is asked beside `tcp_info` is nothing.
fn diag(id: &Id, states: u32) -> Vec<u8> {
    let mut body = vec![id.family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(&id.sockid);
    body
}

/// What became of a [`destroy`]: whether the socket was there. `None`: the datagram answers something else.
pub(super) fn destroyed(datagram: &[u8], sequence: u32) -> Option<Result<bool, String>> {
    let answer = messages(datagram).into_iter().find_map(|message| match message {
        Ok(message) if message.sequence == sequence && message.kind == NLMSG_ERROR => Some(Ok(message)),
        Ok(_) => None,
        Err(why) => Some(Err(why)),
    })?;
    Some(answer.and_then(|message| match message.error() {
        None => Ok(true),
        Some(Errno::ENOENT) => Ok(false),
        Some(error) => Err(format!("the kernel refused to close a socket: {error}")),
    }))
}

/// The parts of one datagram; a malformed one ends it with an error.
pub(super) fn parts(datagram: &[u8], sequence: u32) -> Vec<Result<Part, String>> {
    let mut parts = Vec::new();
    for message in messages(datagram) {
        let part = message.and_then(|message| {
            let part = part(&message, sequence);
            if part != Ok(Part::Stale) && message.flags & NLM_F_DUMP_INTR != 0 {
                parts.push(Ok(Part::Interrupted));
            }
            part
        });
        parts.push(part);
    }
    parts
}

fn part(message: &Message<'_>, sequence: u32) -> Result<Part, String> {
    if message.sequence != sequence {
        return Ok(Part::Stale);
    }
    match message.kind {
        NLMSG_DONE => Ok(Part::Done),
        NLMSG_ERROR => {
            let code = i32_at(message.body, 0).unwrap_or(0);
            Err(format!("the kernel refused: {}", std::io::Error::from_raw_os_error(code.saturating_neg())))
        }
        SOCK_DIAG_BY_FAMILY => socket(message.body),
        other => Err(format!("an unexpected message of type {other}")),
    }
}

fn socket(message: &[u8]) -> Result<Part, String> {
    let attributes = message.get(MESSAGE..).ok_or("a socket message is short")?;
    let info = find(attributes, INET_DIAG_INFO).ok_or("a socket comes without tcp_info")?;
    let (state, socket, local_port) = fixed(message, tcp_info(info)?).ok_or("a socket message is short")?;
    let id = id(message).ok_or("a socket message is short")?;
    Ok(without_fins(state, socket).map_or(Part::Over, |socket| Part::Socket { socket, local_port, id }))
}

/// The fields of `inet_diag_msg`: state, socket, local port.
fn fixed(message: &[u8], info: TcpInfo) -> Option<(u8, Socket, u16)> {
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let address = match *message.first()? {
        AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(message.get(24..28)?).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(message.get(24..40)?).ok()?)),
    };
    let socket = Socket {
        cookie: u64::from(u32_at(message, 44)?) | u64::from(u32_at(message, 48)?) << 32,
        peer: SocketAddr::new(address, port(6)?),
        receive_queue: u32_at(message, 56)?,
        send_queue: u32_at(message, 60)?,
        info,
    };
    Some((*message.get(1)?, socket, port(4)?))
}

fn id(message: &[u8]) -> Option<Id> {
    Some(Id { family: *message.first()?, sockid: message.get(4..52)?.try_into().ok()? })
}

/// The kernel counts a FIN as a byte: a peer's in `bytes_received` and, until the process has seen it, in the receive
/// queue; the server's own in the send queue. It is none, and would make a request of a connection that was only closed.
fn without_fins(state: u8, mut socket: Socket) -> Option<Socket> {
    if matches!(state, CLOSE_WAIT | LAST_ACK | CLOSING) {
        socket.receive_queue = socket.receive_queue.saturating_sub(1);
        socket.info.bytes_received = socket.info.bytes_received.saturating_sub(1);
    }
    if matches!(state, FIN_WAIT1 | LAST_ACK | CLOSING) {
        socket.send_queue = socket.send_queue.saturating_sub(1);
        return (socket.send_queue > 0).then_some(socket);
    }
    Some(socket)
}

/// The structure grew with Linux. What tells work from idleness begins with `tcpi_bytes_received` (4.1); older kernels
/// are an error, for all would look idle. Before `tcpi_bytes_sent` (4.19), `tcpi_bytes_acked` stands for it: the same
/// number once nothing is unacknowledged, and what is unacknowledged is work by itself.
fn tcp_info(info: &[u8]) -> Result<TcpInfo, String> {
    let number = |at| u32_at(info, at).unwrap_or(0);
    let ago = |at| Duration::from_millis(u64::from(number(at)));
    let long = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let too_old = || format!("the kernel's tcp_info has {} bytes, 136 are needed (Linux 4.1)", info.len());
    Ok(TcpInfo {
        unacked: number(24),
        unsent: number(144),
        last_data_sent: ago(44),
        last_data_received: ago(52),
        last_ack_received: ago(56),
        bytes_received: long(128).ok_or_else(too_old)?,
        bytes_sent: long(200).or_else(|| long(120)).ok_or_else(too_old)?,
    })
}

#[cfg(test)]
mod tests;
