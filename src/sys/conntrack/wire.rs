//! The bytes of ctnetlink: `struct nfgenmsg` (linux/netfilter/nfnetlink.h) and the attributes of
//! linux/netfilter/nfnetlink_conntrack.h. Ports and addresses in network byte order, the flags of a filter in the host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;

use crate::model::ports::Port;
use crate::sys::netlink::{
    self, Message, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkError,
    build_attribute, build_nested, find_attribute, parse_messages,
};

/// `NFNL_SUBSYS_CTNETLINK << 8` with `IPCTNL_MSG_CT_GET`, and with `IPCTNL_MSG_CT_NEW`, which an answer is.
const CT_GET: u16 = 0x0101;
const CT_NEW: u16 = 0x0100;
/// `struct nfgenmsg`: family, version, resource id.
const NFGENMSG_BYTES: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_FILTER: u16 = 25;
/// Inside a tuple.
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
/// Inside its address: the destination, IPv4 and IPv6.
const CTA_IP_V4_DST: u16 = 2;
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
    let address = find_attribute(tuple, CTA_TUPLE_IP)?;
    if let Some(v4) = find_attribute(address, CTA_IP_V4_DST) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(find_attribute(address, CTA_IP_V6_DST)?).ok()?).into())
}

#[cfg(test)]
mod tests;
