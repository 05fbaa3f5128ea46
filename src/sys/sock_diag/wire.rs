//! The bytes of sock_diag: `struct nlmsghdr` (linux/netlink.h), `struct inet_diag_req_v2` and `inet_diag_msg`
//! (linux/inet_diag.h), `struct tcp_info` (linux/tcp.h). Host byte order, but for ports and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;

use crate::model::ports::Port;
use crate::model::socket::{Socket, TcpInfo};
use crate::sys::netlink::{
    self, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkError, find_attribute, parse_messages, read_i32, read_u32,
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
/// A handshake of which the client's last packet is missing.
const SYN_RECEIVED: u8 = 3;
const WORK_STATES: u32 = 1 << ESTABLISHED | 1 << CLOSE_WAIT | 1 << FIN_WAIT1 | 1 << LAST_ACK | 1 << CLOSING;

/// Fixed part of `inet_diag_msg`.
const INET_DIAG_MSG_BYTES: usize = 72;
const AF_INET: u8 = 2;

/// A connection of this host's side. IPv4 addresses are given as such, also of a socket that serves both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sys) struct OpenConnection {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// net/tcp_states.h.
    pub state: u8,
}

/// A socket as the kernel itself names it: family and `struct inet_diag_sockid` (both ports, both addresses, interface,
/// cookie), kept byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketId {
    family: u8,
    sockid: [u8; 48],
}

#[cfg(test)]
impl SocketId {
    /// Returns the id with this cookie, which distinguishes sockets of the same addresses and ports.
    pub(super) fn with_cookie(mut self, cookie: u64) -> Self {
        self.sockid[40..44].copy_from_slice(&cookie.to_ne_bytes()[..4]);
        self.sockid[44..].copy_from_slice(&cookie.to_ne_bytes()[4..]);
        self
    }
}

/// A part of a dump's datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DumpPart {
    Socket {
        socket: Socket,
        local_port: u16,
        id: SocketId,
    },
    Connection(OpenConnection),
    /// Closed by the server, and all of its answer has arrived: nothing is left to wait for.
    Finished,
    /// The table changed during the dump (`NLM_F_DUMP_INTR`).
    Interrupted,
    /// Belongs to an earlier request.
    Stale,
    Done,
}

/// A dump of one family's TCP sockets with this local port (`idiag_sport` filters in the kernel), with `tcp_info`.
pub(super) fn build_request(family: u8, port: Port, sequence: u32) -> Vec<u8> {
    build_dump(family, port, sequence, WORK_STATES)
}

/// Builds the request for a dump that also has the handshakes that are not complete.
pub(super) fn build_connections_request(family: u8, port: Port, sequence: u32) -> Vec<u8> {
    build_dump(family, port, sequence, WORK_STATES | 1 << SYN_RECEIVED)
}

fn build_dump(family: u8, port: Port, sequence: u32, states: u32) -> Vec<u8> {
    let mut sockid = [0; 48];
    sockid[..2].copy_from_slice(&port.get().to_be_bytes());
    // INET_DIAG_NOCOOKIE.
    sockid[40..].fill(0xff);
    let id = SocketId { family, sockid };
    netlink::build_message(
        SOCK_DIAG_BY_FAMILY,
        NLM_F_REQUEST | NLM_F_DUMP,
        sequence,
        &build_diag_body(&id, states),
    )
}

/// Close exactly this socket: the kernel compares the cookie (`sock_diag_check_cookie`), so that a later one with the same
/// addresses and ports is never meant.
pub(super) fn build_destroy(id: &SocketId, sequence: u32) -> Vec<u8> {
    netlink::build_message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, sequence, &build_diag_body(id, u32::MAX))
}

/// `struct inet_diag_req_v2`: no extension but `tcp_info` is requested.
fn build_diag_body(id: &SocketId, states: u32) -> Vec<u8> {
    let mut body = vec![id.family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(&id.sockid);
    body
}

/// Parses the answer to a [`destroy`]: whether the socket was there. `None`: the datagram answers another request.
pub(super) fn parse_destroy_answer(datagram: &[u8], sequence: u32) -> Option<Result<bool, NetlinkError>> {
    let answer = parse_messages(datagram).into_iter().find_map(|message| match message {
        Ok(message) if message.sequence == sequence && message.kind == NLMSG_ERROR => Some(Ok(message)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })?;
    Some(answer.and_then(|message| match message.error() {
        None => Ok(true),
        Some(Errno::ENOENT) => Ok(false),
        Some(error) => Err(NetlinkError::CloseRefused(error)),
    }))
}

/// Parses the body of a socket's message: [`parse_socket`] or [`parse_connection`].
pub(super) type ParseSocket = fn(&[u8]) -> Result<DumpPart, NetlinkError>;

/// Parses the parts of one datagram; a malformed one ends it with an error.
pub(super) fn parse_parts(
    datagram: &[u8],
    sequence: u32,
    parse: ParseSocket,
) -> Vec<Result<DumpPart, NetlinkError>> {
    let mut parts = Vec::new();
    for message in parse_messages(datagram) {
        let part = message.and_then(|message| {
            let part = parse_part(&message, sequence, parse);
            if part != Ok(DumpPart::Stale) && message.flags & NLM_F_DUMP_INTR != 0 {
                parts.push(Ok(DumpPart::Interrupted));
            }
            part
        });
        parts.push(part);
    }
    parts
}

fn parse_part(message: &Message<'_>, sequence: u32, parse: ParseSocket) -> Result<DumpPart, NetlinkError> {
    if message.sequence != sequence {
        return Ok(DumpPart::Stale);
    }
    match message.kind {
        NLMSG_DONE => Ok(DumpPart::Done),
        NLMSG_ERROR => {
            let code = read_i32(message.body, 0).unwrap_or(0);
            Err(NetlinkError::Refused(Errno::from_raw(code.saturating_neg())))
        }
        SOCK_DIAG_BY_FAMILY => parse(message.body),
        other => Err(NetlinkError::UnexpectedType(other)),
    }
}

/// Parses a socket with its `tcp_info`.
pub(super) fn parse_socket(message: &[u8]) -> Result<DumpPart, NetlinkError> {
    let attributes = message.get(INET_DIAG_MSG_BYTES..).ok_or(NetlinkError::ShortSocket)?;
    let info = find_attribute(attributes, INET_DIAG_INFO).ok_or(NetlinkError::NoTcpInfo)?;
    let (state, socket, local_port) =
        parse_fixed_fields(message, parse_tcp_info(info)?).ok_or(NetlinkError::ShortSocket)?;
    let id = parse_id(message).ok_or(NetlinkError::ShortSocket)?;
    Ok(subtract_fins(state, socket).map_or(DumpPart::Finished, |socket| DumpPart::Socket {
        socket,
        local_port,
        id,
    }))
}

/// The fields of `inet_diag_msg`: state, socket, local port.
fn parse_fixed_fields(message: &[u8], info: TcpInfo) -> Option<(u8, Socket, u16)> {
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let address = match *message.first()? {
        AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(message.get(24..28)?).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(message.get(24..40)?).ok()?)),
    };
    let socket = Socket {
        cookie: u64::from(read_u32(message, 44)?) | u64::from(read_u32(message, 48)?) << 32,
        peer: SocketAddr::new(address, port(6)?),
        receive_queue: read_u32(message, 56)?,
        send_queue: read_u32(message, 60)?,
        info,
    };
    Some((*message.get(1)?, socket, port(4)?))
}

/// Parses the addresses and the state of an `inet_diag_msg`.
pub(super) fn parse_connection(message: &[u8]) -> Result<DumpPart, NetlinkError> {
    parse_addresses(message).map(DumpPart::Connection).ok_or(NetlinkError::ShortSocket)
}

fn parse_addresses(message: &[u8]) -> Option<OpenConnection> {
    let family = *message.first()?;
    let endpoint = |port_at: usize, address_at: usize| {
        let port = u16::from_be_bytes(message.get(port_at..port_at + 2)?.try_into().ok()?);
        let address = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::from(
                <[u8; 4]>::try_from(message.get(address_at..address_at + 4)?).ok()?,
            )),
            _ => IpAddr::V6(Ipv6Addr::from(
                <[u8; 16]>::try_from(message.get(address_at..address_at + 16)?).ok()?,
            )),
        };
        Some(SocketAddr::new(address.to_canonical(), port))
    };
    Some(OpenConnection { local: endpoint(4, 8)?, peer: endpoint(6, 24)?, state: *message.get(1)? })
}

fn parse_id(message: &[u8]) -> Option<SocketId> {
    Some(SocketId { family: *message.first()?, sockid: message.get(4..52)?.try_into().ok()? })
}

/// The kernel counts a FIN as a byte: a peer's in `bytes_received` and, until the process has seen it, in the receive
/// queue; the server's own in the send queue. It is none, and would make a request of a connection that was only closed.
fn subtract_fins(state: u8, mut socket: Socket) -> Option<Socket> {
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

/// The structure grew with Linux. The fields that distinguish work from idleness begin with `tcpi_bytes_received` (4.1);
/// older kernels are an error, for all would look idle. Before `tcpi_bytes_sent` (4.19), `tcpi_bytes_acked` replaces it:
/// the same number once nothing is unacknowledged, and what is unacknowledged is work by itself.
fn parse_tcp_info(info: &[u8]) -> Result<TcpInfo, NetlinkError> {
    let number = |at| read_u32(info, at).unwrap_or(0);
    let ago = |at| Duration::from_millis(u64::from(number(at)));
    let long = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let too_old = || NetlinkError::ShortTcpInfo { length: info.len() };
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
