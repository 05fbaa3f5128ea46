//! The common parts of netlink(7) clients: a socket with limits, whole datagrams, messages and attributes.
//! Host byte order, unless a protocol specifies another.

use crate::model::plural::Count;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// A datagram of a dump is at most 32 KiB (netlink(7), "messages"); more than one read may be needed, never a larger one.
pub(super) const BUFFER: usize = 64 * 1024;
/// The kernel answers at once; the timeout prevents an endless wait.
pub(super) const TIMEOUT_SECONDS: i64 = 5;
/// `struct nlmsghdr` (linux/netlink.h): length u32, type u16, flags u16, sequence u32, port u32.
pub(super) const HEADER_BYTES: usize = 16;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 0x01;
pub(super) const NLM_F_ACK: u16 = 0x04;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;

/// Why the kernel gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NetlinkError {
    #[error("{0}")]
    Open(Errno),
    #[error("send: {0}")]
    Send(Errno),
    #[error("receive: {0}")]
    Receive(Errno),
    #[error("the kernel did not answer within {TIMEOUT_SECONDS}s")]
    TimedOut,
    #[error("the kernel refused: {0}")]
    Refused(Errno),
    #[error("the kernel refused to close a socket: {0}")]
    CloseRefused(Errno),
    #[error("the kernel interrupted {dumps} dumps in a row")]
    Interrupted { dumps: u32 },
    #[error("a message of {} in {}", Count(.length, "byte"), Count(.received, "byte"))]
    MessageLength { length: usize, received: usize },
    #[error("an unexpected message of type {0}")]
    UnexpectedType(u16),
    #[error("a socket message is short")]
    ShortSocket,
    #[error("a socket comes without tcp_info")]
    NoTcpInfo,
    #[error("the kernel's tcp_info has {length} bytes, 136 are needed (Linux 4.1)")]
    ShortTcpInfo { length: usize },
    #[error("a connection comes without its tuples")]
    NoTuples,
}

/// A conversation of the network namespace that the calling thread is in.
pub(super) fn open(protocol: SockProtocol) -> nix::Result<OwnedFd> {
    subscribe(protocol, 0)
}

/// Opens such a socket that receives the notifications of these multicast groups (a bit each).
pub(super) fn subscribe(protocol: SockProtocol, groups: u32) -> nix::Result<OwnedFd> {
    let netlink = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS))?;
    // Room for a dump that is faster than the reader; a smaller buffer costs time, not correctness.
    let _ = setsockopt(&netlink, sockopt::RcvBuf, &(1024 * 1024));
    Ok(netlink)
}

pub(super) fn send(netlink: &OwnedFd, request: &[u8]) -> Result<(), NetlinkError> {
    let sent = sendto(netlink.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty());
    sent.map(|_| ()).map_err(NetlinkError::Send)
}

/// Receives one datagram; one that does not fit is an error, and its rest is lost.
pub(super) fn receive(netlink: &OwnedFd, buffer: &mut [u8]) -> nix::Result<usize> {
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<NetlinkAddr>(netlink.as_raw_fd(), &mut slices, None, MsgFlags::empty())?;
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    Ok(message.bytes)
}

/// Receives one datagram, and continues after signals.
pub(super) fn receive_datagram(
    receive: &mut impl FnMut(&mut [u8]) -> nix::Result<usize>,
    buffer: &mut [u8],
) -> Result<usize, NetlinkError> {
    loop {
        match receive(buffer) {
            Ok(length) => return Ok(length),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(NetlinkError::TimedOut),
            Err(error) => return Err(NetlinkError::Receive(error)),
        }
    }
}

/// A message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Returns the error of an `NLMSG_ERROR`; `None` is an acknowledgement.
    pub(super) fn error(&self) -> Option<Errno> {
        let code = read_i32(self.body, 0).unwrap_or(0);
        (code != 0).then(|| Errno::from_raw(code.saturating_neg()))
    }
}

/// The messages of one datagram; a malformed one ends it with an error.
pub(super) fn parse_messages(datagram: &[u8]) -> Vec<Result<Message<'_>, NetlinkError>> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while rest.len() >= HEADER_BYTES {
        let length = read_u32(rest, 0).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if length < HEADER_BYTES || length > rest.len() {
            found.push(Err(NetlinkError::MessageLength { length, received: rest.len() }));
            return found;
        }
        found.push(Ok(Message {
            kind: read_u16(rest, 4).unwrap_or(0),
            flags: read_u16(rest, 6).unwrap_or(0),
            sequence: read_u32(rest, 8).unwrap_or(0),
            body: &rest[HEADER_BYTES..length],
        }));
        rest = &rest[align(length).min(rest.len())..];
    }
    found
}

/// Header and body.
pub(super) fn build_message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&u32::try_from(HEADER_BYTES + body.len()).unwrap_or(0).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The flags of an attribute's type (linux/netlink.h): nested, network byte order.
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// `struct nlattr` with its padding.
pub(super) fn build_attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(align(4 + value.len()));
    bytes.extend_from_slice(&u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(align(bytes.len()), 0);
    bytes
}

pub(super) fn build_nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    build_attribute(kind | NLA_F_NESTED, &attributes.concat())
}

/// The value of the first attribute of a type; `None` where it is missing or what comes before it is malformed.
pub(super) fn find_attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, kind) = (usize::from(read_u16(rest, 0)?), read_u16(rest, 2)?);
        let value = rest.get(4..length)?;
        if kind & NLA_TYPE_MASK == wanted {
            return Some(value);
        }
        rest = rest.get(align(length)..)?;
    }
}

pub(super) fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn read_i32(bytes: &[u8], at: usize) -> Option<i32> {
    read_u32(bytes, at).map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_read_back_as_written() {
        let inside = [build_attribute(1, &[7]), build_attribute(2, b"nat\0")];
        let bytes = build_message(20, NLM_F_REQUEST, 5, &build_nested(9, &inside));
        let padded = [&bytes[..], &build_message(NLMSG_ERROR, 0, 5, &(-1i32).to_ne_bytes())].concat();
        let [Ok(first), Ok(second)] = parse_messages(&padded)[..] else { panic!("{padded:?}") };
        assert_eq!((first.kind, first.flags, first.sequence), (20, NLM_F_REQUEST, 5));
        let nest = find_attribute(first.body, 9).unwrap();
        assert_eq!(
            (find_attribute(nest, 1), find_attribute(nest, 2), find_attribute(nest, 3)),
            (Some(&[7][..]), Some(&b"nat\0"[..]), None)
        );
        assert_eq!(second.error(), Some(Errno::EPERM));
    }

    #[test]
    fn errors_name_the_cause() {
        let texts = [
            (NetlinkError::Receive(Errno::EMSGSIZE), "receive: EMSGSIZE: Message too long"),
            (NetlinkError::TimedOut, "the kernel did not answer within 5s"),
            (NetlinkError::Refused(Errno::EPERM), "the kernel refused: EPERM: Operation not permitted"),
            (NetlinkError::Interrupted { dumps: 5 }, "the kernel interrupted 5 dumps in a row"),
            (
                NetlinkError::ShortTcpInfo { length: 104 },
                "the kernel's tcp_info has 104 bytes, 136 are needed (Linux 4.1)",
            ),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn parse_messages_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in parse_messages(&bytes) {
                let _ = message.map(|message| (message.error(), find_attribute(message.body, 1).map(<[u8]>::len)));
            }
        }
    }
}
