//! The bytes of sock_diag: `struct nlmsghdr` (linux/netlink.h), `struct inet_diag_req_v2` and `inet_diag_msg`
//! (linux/inet_diag.h), `struct tcp_info` (linux/tcp.h). Host byte order, but for ports and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::model::ports::Port;
use crate::model::socket::{Socket, TcpInfo};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
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

const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
/// Fixed part of `inet_diag_msg`.
const MESSAGE: usize = 72;
const AF_INET: u8 = 2;

/// One part of a dump's datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Socket {
        socket: Socket,
        local_port: u16,
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
    let mut bytes = Vec::with_capacity(REQUEST);
    bytes.extend_from_slice(&u32::try_from(REQUEST).unwrap_or(0).to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&[family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    bytes.extend_from_slice(&STATES.to_ne_bytes());
    bytes.extend_from_slice(&port.get().to_be_bytes());
    bytes.resize(REQUEST - 8, 0);
    // INET_DIAG_NOCOOKIE.
    bytes.extend_from_slice(&[0xff; 8]);
    bytes
}

/// The parts of one datagram; a malformed one ends it with an error.
pub(super) fn parts(datagram: &[u8], sequence: u32) -> Vec<Result<Part, String>> {
    let mut parts = Vec::new();
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let length = u32_at(rest, 0).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if length < HEADER || length > rest.len() {
            parts.push(Err(format!("a message of {length} bytes in {} bytes", rest.len())));
            return parts;
        }
        let message = &rest[..length];
        let part = part(message, sequence);
        if part != Ok(Part::Stale) && u16_at(message, 6).is_some_and(|flags| flags & NLM_F_DUMP_INTR != 0) {
            parts.push(Ok(Part::Interrupted));
        }
        parts.push(part);
        rest = &rest[align(length).min(rest.len())..];
    }
    parts
}

fn part(message: &[u8], sequence: u32) -> Result<Part, String> {
    if u32_at(message, 8) != Some(sequence) {
        return Ok(Part::Stale);
    }
    match u16_at(message, 4) {
        Some(NLMSG_DONE) => Ok(Part::Done),
        Some(NLMSG_ERROR) => {
            let code = i32_at(message, HEADER).unwrap_or(0);
            Err(format!("the kernel refused: {}", std::io::Error::from_raw_os_error(code.saturating_neg())))
        }
        Some(SOCK_DIAG_BY_FAMILY) => socket(&message[HEADER..]),
        other => Err(format!("an unexpected message of type {other:?}")),
    }
}

fn socket(message: &[u8]) -> Result<Part, String> {
    let attributes = message.get(MESSAGE..).ok_or("a socket message is short")?;
    let info = attribute(attributes, INET_DIAG_INFO).ok_or("a socket comes without tcp_info")?;
    let (state, socket, local_port) = fixed(message, tcp_info(info)?).ok_or("a socket message is short")?;
    Ok(without_fins(state, socket).map_or(Part::Over, |socket| Part::Socket { socket, local_port }))
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

fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(align(length)..)?;
    }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

#[cfg(test)]
mod tests;
