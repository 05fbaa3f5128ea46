//! The bytes of ctnetlink: `struct nfgenmsg` (linux/netfilter/nfnetlink.h) and the attributes of
//! linux/netfilter/nfnetlink_conntrack.h. Ports and addresses in network byte order, the flags of a filter in the host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use nix::sys::socket::AddressFamily;

use crate::model::ports::Port;
use crate::sys::netlink::{
    self, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkError, build_attribute, build_nested, find_attribute, parse_messages,
};

/// `NFNL_SUBSYS_CTNETLINK << 8` with `IPCTNL_MSG_CT_GET`, with `IPCTNL_MSG_CT_NEW`, which an answer is, and with
/// `IPCTNL_MSG_CT_DELETE`.
const CT_GET: u16 = 0x0101;
const CT_NEW: u16 = 0x0100;
const CT_DELETE: u16 = 0x0102;
/// `struct nfgenmsg`: family, version, resource id.
const NFGENMSG_BYTES: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_FILTER: u16 = 25;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
/// Inside `CTA_PROTOINFO`, and inside that.
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
/// linux/netfilter/nf_conntrack_common.h.
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_ASSURED: u32 = 1 << 2;
const IPS_CONFIRMED: u32 = 1 << 3;
/// linux/netfilter/nf_conntrack_tcp.h. The window's scale is not known, so it is not checked: as for every connection that the
/// kernel picks up in its middle (`tcp_new`, net/netfilter/nf_conntrack_proto_tcp.c).
const SACK_PERMITTED: u8 = 0x02;
const BE_LIBERAL: u8 = 0x08;
/// "Fail if it exists", "create it" (linux/netlink.h).
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// Inside a tuple.
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
/// Inside its address: source and destination, IPv4 and IPv6.
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
/// Inside its protocol.
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// Inside a filter.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Flags for the parts of a tuple that are compared (net/netfilter/nf_conntrack_netlink.c, `CTA_FILTER_F_*`; in no header
/// for programs). A port needs the protocol.
const COMPARE_PROTOCOL: u32 = 1 << 3;
const COMPARE_SRC_PORT: u32 = 1 << 4;
const COMPARE_DST_PORT: u32 = 1 << 5;

const IPPROTO_TCP: u8 = 6;

/// Connections made to `port` that are answered from `target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowFilter {
    pub port: Port,
    pub target: Port,
}

/// A connection, with the fields that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    protocol: u8,
    /// The port that the client connected to.
    original_port: u16,
    /// The port that answers.
    reply_port: u16,
    /// Whom it answers: the peer as the listening process sees it, whose source port the kernel may have translated.
    peer: SocketAddr,
}

impl Flow {
    pub(super) fn matching_peer(&self, wanted: FlowFilter) -> Option<SocketAddr> {
        let routed = self.original_port == wanted.port.get() && self.reply_port == wanted.target.get();
        (self.protocol == IPPROTO_TCP && routed).then_some(self.peer)
    }
}

/// A part of a dump's datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DumpPart {
    Flow(Flow),
    /// A connection of a protocol without ports.
    Other,
    /// The table changed during the dump (`NLM_F_DUMP_INTR`).
    Interrupted,
    /// Belongs to an earlier request.
    Stale,
    Refused(Errno),
    Done,
}

/// Builds the request for a dump of one family's connections; the kernel filters them since Linux 5.8, an older one
/// lists all.
pub(super) fn build_request(family: u8, wanted: Option<FlowFilter>, sequence: u32) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0];
    if let Some(FlowFilter { port, target }) = wanted {
        let tuple = |kind, port_kind, port: Port| {
            let protocol = build_attribute(CTA_PROTO_NUM, &[IPPROTO_TCP]);
            let port = build_attribute(port_kind, &port.get().to_be_bytes());
            build_nested(kind, &[build_nested(CTA_TUPLE_PROTO, &[protocol, port])])
        };
        let flags = |kind, flags: u32| build_attribute(kind, &(COMPARE_PROTOCOL | flags).to_ne_bytes());
        body.extend(tuple(CTA_TUPLE_ORIG, CTA_PROTO_DST_PORT, port));
        body.extend(tuple(CTA_TUPLE_REPLY, CTA_PROTO_SRC_PORT, target));
        let compared =
            [flags(CTA_FILTER_ORIG_FLAGS, COMPARE_DST_PORT), flags(CTA_FILTER_REPLY_FLAGS, COMPARE_SRC_PORT)];
        body.extend(build_nested(CTA_FILTER, &compared));
    }
    netlink::build_message(CT_GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, &body)
}

/// Builds the request for the one connection that a client opened to a server.
pub(super) fn build_lookup(client: SocketAddr, server: SocketAddr, sequence: u32) -> Vec<u8> {
    let mut body = build_family(client);
    body.extend(build_tuple(CTA_TUPLE_ORIG, client, server));
    netlink::build_message(CT_GET, NLM_F_REQUEST, sequence, &body)
}

/// Builds the request for a new entry: a connection that the client opened to the server, which answers it without
/// translation. `state` is one of `enum tcp_conntrack`, `timeout` in seconds. The kernel refuses it with `EEXIST` where it tracks
/// the connection.
pub(super) fn build_entry(
    client: SocketAddr,
    server: SocketAddr,
    state: u8,
    timeout: u32,
    sequence: u32,
) -> Vec<u8> {
    let flags = [SACK_PERMITTED | BE_LIBERAL; 2];
    let tcp = [
        build_attribute(CTA_PROTOINFO_TCP_STATE, &[state]),
        build_attribute(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &flags),
        build_attribute(CTA_PROTOINFO_TCP_FLAGS_REPLY, &flags),
    ];
    let status = IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED;
    let mut body = build_family(client);
    body.extend(build_tuple(CTA_TUPLE_ORIG, client, server));
    body.extend(build_tuple(CTA_TUPLE_REPLY, server, client));
    body.extend(build_attribute(CTA_STATUS, &status.to_be_bytes()));
    body.extend(build_attribute(CTA_TIMEOUT, &timeout.to_be_bytes()));
    body.extend(build_nested(CTA_PROTOINFO, &[build_nested(CTA_PROTOINFO_TCP, &tcp)]));
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    netlink::build_message(CT_NEW, flags, sequence, &body)
}

/// Builds the request to delete the entry of one connection: every part of its tuple is named, so no other entry matches.
pub(super) fn build_delete(client: SocketAddr, server: SocketAddr, sequence: u32) -> Vec<u8> {
    let mut body = build_family(client);
    body.extend(build_tuple(CTA_TUPLE_ORIG, client, server));
    netlink::build_message(CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, sequence, &body)
}

fn build_family(client: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    vec![family as u8, 0, 0, 0]
}

fn build_tuple(kind: u16, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let address = |v4, v6, address: IpAddr| match address {
        IpAddr::V4(address) => build_attribute(v4, &address.octets()),
        IpAddr::V6(address) => build_attribute(v6, &address.octets()),
    };
    let addresses = [
        address(CTA_IP_V4_SRC, CTA_IP_V6_SRC, source.ip()),
        address(CTA_IP_V4_DST, CTA_IP_V6_DST, destination.ip()),
    ];
    let ports = [
        build_attribute(CTA_PROTO_NUM, &[IPPROTO_TCP]),
        build_attribute(CTA_PROTO_SRC_PORT, &source.port().to_be_bytes()),
        build_attribute(CTA_PROTO_DST_PORT, &destination.port().to_be_bytes()),
    ];
    build_nested(kind, &[build_nested(CTA_TUPLE_IP, &addresses), build_nested(CTA_TUPLE_PROTO, &ports)])
}

/// Parses the answer to such a request: the address that answers the client, or `None` where the kernel does not track
/// the connection.
pub(super) fn parse_lookup(datagram: &[u8]) -> Result<Option<SocketAddr>, NetlinkError> {
    match parse_messages(datagram).into_iter().next() {
        Some(Ok(message)) if message.kind == NLMSG_ERROR => match message.error() {
            None | Some(Errno::ENOENT) => Ok(None),
            Some(error) => Err(NetlinkError::Refused(error)),
        },
        Some(Ok(message)) if message.kind == CT_NEW => {
            let attributes = message.body.get(NFGENMSG_BYTES..).unwrap_or_default();
            let reply = find_attribute(attributes, CTA_TUPLE_REPLY).ok_or(NetlinkError::NoTuples)?;
            Ok(read_address(reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC)
                .zip(read_port(reply, CTA_PROTO_SRC_PORT))
                .map(|(address, port)| SocketAddr::new(address, port)))
        }
        Some(Ok(message)) => Err(NetlinkError::UnexpectedType(message.kind)),
        Some(Err(error)) => Err(error),
        None => Ok(None),
    }
}

/// The parts of one datagram; a malformed one ends it with an error.
pub(super) fn parse_parts(datagram: &[u8], sequence: u32) -> Vec<Result<DumpPart, NetlinkError>> {
    let mut parts = Vec::new();
    for message in parse_messages(datagram) {
        let part = message.and_then(|message| {
            if message.sequence != sequence {
                return Ok(DumpPart::Stale);
            }
            if message.flags & NLM_F_DUMP_INTR != 0 {
                parts.push(Ok(DumpPart::Interrupted));
            }
            parse_part(&message)
        });
        parts.push(part);
    }
    parts
}

fn parse_part(message: &Message<'_>) -> Result<DumpPart, NetlinkError> {
    match message.kind {
        // A dump that fails at once ends with an error or with a code in its end.
        NLMSG_DONE | NLMSG_ERROR => Ok(message.error().map_or(DumpPart::Done, DumpPart::Refused)),
        CT_NEW => parse_flow(message.body),
        other => Err(NetlinkError::UnexpectedType(other)),
    }
}

fn parse_flow(body: &[u8]) -> Result<DumpPart, NetlinkError> {
    let tuple = |kind| body.get(NFGENMSG_BYTES..).and_then(|attributes| find_attribute(attributes, kind));
    let (Some(original), Some(reply)) = (tuple(CTA_TUPLE_ORIG), tuple(CTA_TUPLE_REPLY)) else {
        return Err(NetlinkError::NoTuples);
    };
    let ports = || {
        let made_to = read_port(original, CTA_PROTO_DST_PORT)?;
        let answers = read_port(reply, CTA_PROTO_SRC_PORT)?;
        let peer = SocketAddr::new(read_destination(reply)?, read_port(reply, CTA_PROTO_DST_PORT)?);
        let protocol = *find_attribute(find_attribute(original, CTA_TUPLE_PROTO)?, CTA_PROTO_NUM)?.first()?;
        Some(Flow { protocol, original_port: made_to, reply_port: answers, peer })
    };
    Ok(ports().map_or(DumpPart::Other, DumpPart::Flow))
}

fn read_port(tuple: &[u8], kind: u16) -> Option<u16> {
    let value = find_attribute(find_attribute(tuple, CTA_TUPLE_PROTO)?, kind)?;
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn read_destination(tuple: &[u8]) -> Option<IpAddr> {
    read_address(tuple, CTA_IP_V4_DST, CTA_IP_V6_DST)
}

fn read_address(tuple: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    let address = find_attribute(tuple, CTA_TUPLE_IP)?;
    if let Some(v4) = find_attribute(address, v4) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(find_attribute(address, v6)?).ok()?).into())
}

#[cfg(test)]
mod tests;
