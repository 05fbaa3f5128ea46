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
/// 1 << state (net/tcp_states.h): ESTABLISHED, FIN_WAIT1, CLOSE_WAIT. A peer that has closed its side may still be
/// owed an answer, and one that we closed may still be owed bytes; later states carry none.
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 8;

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
        if u16_at(message, 6).is_some_and(|flags| flags & NLM_F_DUMP_INTR != 0) {
            parts.push(Ok(Part::Interrupted));
        }
        parts.push(part(message, sequence));
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
        Some(SOCK_DIAG_BY_FAMILY) => {
            socket(&message[HEADER..]).ok_or_else(|| "a socket message is short".to_owned())
        }
        other => Err(format!("an unexpected message of type {other:?}")),
    }
}

fn socket(message: &[u8]) -> Option<Part> {
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let address = match *message.first()? {
        AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(message.get(24..28)?).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(message.get(24..40)?).ok()?)),
    };
    let cookie = u64::from(u32_at(message, 44)?) | u64::from(u32_at(message, 48)?) << 32;
    let socket = Socket {
        cookie,
        peer: SocketAddr::new(address, port(6)?),
        receive_queue: u32_at(message, 56)?,
        send_queue: u32_at(message, 60)?,
        info: tcp_info(attribute(message.get(MESSAGE..)?, INET_DIAG_INFO).unwrap_or_default()),
    };
    Some(Part::Socket { socket, local_port: port(4)? })
}

/// Fields past the end of an older kernel's shorter structure read as zero.
fn tcp_info(info: &[u8]) -> TcpInfo {
    let number = |at| u32_at(info, at).unwrap_or(0);
    let ago = |at| Duration::from_millis(u64::from(number(at)));
    let long = |at: usize| {
        info.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
    };
    TcpInfo {
        unacked: number(24),
        unsent: number(144),
        last_data_sent: ago(44),
        last_data_received: ago(52),
        last_ack_received: ago(56),
        bytes_received: long(128),
        bytes_sent: long(200),
    }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let bytes = request(AF_INET, Port::new(8080).unwrap(), 7);
        assert_eq!(bytes.len(), 72);
        assert_eq!(
            (u32_at(&bytes, 0), u16_at(&bytes, 4), u16_at(&bytes, 6)),
            (Some(72), Some(20), Some(0x301))
        );
        assert_eq!(bytes[16..20], [2, 6, 2, 0]);
        assert_eq!(bytes[24..26], 8080u16.to_be_bytes());
        assert_eq!(bytes[64..], [0xff; 8]);
    }

    #[test]
    fn errors_and_ends_are_told() {
        let message = |kind: u16, body: &[u8]| {
            let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&7u32.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(body);
            bytes
        };
        assert_eq!(parts(&message(3, &[0; 4]), 7), [Ok(Part::Done)]);
        assert_eq!(parts(&message(3, &[0; 4]), 8), [Ok(Part::Stale)]);
        let refused = parts(&message(2, &(-1i32).to_ne_bytes()), 7);
        assert_eq!(refused, [Err("the kernel refused: Operation not permitted (os error 1)".to_owned())]);
        assert!(parts(&message(20, &[0; 10]), 7)[0].is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parts_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parts(&bytes, 1);
        }

        #[test]
        fn any_socket_message_is_a_socket_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend_from_slice(&[20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&body);
            prop_assert_eq!(parts(&bytes, 1).len() == 1, true);
        }
    }
}
