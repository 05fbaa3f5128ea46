//! The addresses of the device, over rtnetlink(7): a pair from a range for documentation, the device's own one and the
//! client's, which is the only address that gets a route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockProtocol};
use tokio::time::Instant;

use crate::sys::netlink::{
    self, BUFFER, Message, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkError, build_attribute,
    build_message, find_attribute, parse_messages, read_u32,
};
use crate::world::packet_probe::PacketProbeError;

/// linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
/// "Fail if it exists", "create it": with both, nothing is replaced.
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
/// Return the route that matches, not the result for this one address (Linux 4.13).
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// `struct rtmsg` has 12 bytes, the length of the destination's prefix is the second.
const RTMSG_BYTES: usize = 12;
/// linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
/// No search for duplicates, which takes a second.
const IFA_F_NODAD: u8 = 0x02;
/// `RT_SCOPE_LINK`: the kernel does not choose it as the source of other traffic.
const SCOPE_LINK: u8 = 253;
/// net/if.h.
const IFF_UP: u32 = 1;

/// TEST-NET-1 to TEST-NET-3 (RFC 5737). Nothing on the Internet has these addresses, and no host needs a route to them.
const V4_RANGES: [[u8; 3]; 3] = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];
/// Documentation (RFC 3849).
const V6_RANGE: [u16; 2] = [0x2001, 0xdb8];
const MAX_CANDIDATES: u64 = 24;
/// The kernel acknowledges an IPv6 address before a worker of it has added the routes.
const V6_ROUTE_TIMEOUT: Duration = Duration::from_millis(200);
const V6_ROUTE_INTERVAL: Duration = Duration::from_millis(1);

/// The pair of addresses of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The device's own address, which a redirect needs.
    pub own: IpAddr,
    /// The client's address, whose answers go into the device.
    pub client: IpAddr,
}

/// Sets the device up. Returns the conversation for its addresses.
pub(super) fn start_device(index: u32) -> Result<OwnedFd, NetlinkError> {
    let netlink = netlink::open(SockProtocol::NetlinkRoute).map_err(NetlinkError::Open)?;
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    call(&netlink, RTM_NEWLINK, NLM_F_ACK, &body)?;
    Ok(netlink)
}

/// Gives the device a free pair of addresses of the target's family.
pub(super) async fn add_endpoint(
    netlink: &OwnedFd,
    index: u32,
    target: IpAddr,
    seed: u64,
) -> Result<Endpoint, PacketProbeError> {
    let mut candidates = (0..MAX_CANDIDATES).map(|number| make_candidate(target, seed.wrapping_add(number)));
    let is_free = |address| is_without_route(netlink, address);
    let endpoint = candidates.find(|pair| is_free(pair.own) && is_free(pair.client)).ok_or_else(|| {
        to_error("find an unused address", &"this host has routes to the ranges for documentation")
    })?;
    add_address(netlink, index, &endpoint)
        .map_err(|error| to_error("give the TUN device an address", &error))?;
    let deadline = Instant::now() + V6_ROUTE_TIMEOUT;
    loop {
        let found = find_interface(netlink, endpoint.client, target);
        if found == Ok(Some(index)) {
            return Ok(endpoint);
        }
        if target.is_ipv6() && Instant::now() < deadline {
            tokio::time::sleep(V6_ROUTE_INTERVAL).await;
            continue;
        }
        return Err(to_route_error(found));
    }
}

/// Checks that answers from another address of this host go into the device too.
pub(super) fn check_answer_route(
    netlink: &OwnedFd,
    index: u32,
    endpoint: &Endpoint,
    target: IpAddr,
) -> Result<(), PacketProbeError> {
    match find_interface(netlink, endpoint.client, target) {
        Ok(Some(found)) if found == index => Ok(()),
        found => Err(to_route_error(found)),
    }
}

fn to_route_error(found: Result<Option<u32>, NetlinkError>) -> PacketProbeError {
    match found {
        Ok(_) => to_error("receive an answer", &"policy routing sends it to another interface"),
        Err(error) => to_error("receive an answer", &error),
    }
}

fn make_candidate(target: IpAddr, number: u64) -> Endpoint {
    if target.is_ipv4() {
        let [first, second, third] = V4_RANGES[usize::from(u8::try_from(number % 3).unwrap_or(0))];
        let low = u8::try_from(number / 3 % 126).unwrap_or(0) * 2 + 2;
        let address = |last| IpAddr::V4(Ipv4Addr::new(first, second, third, last));
        return Endpoint { own: address(low), client: address(low + 1) };
    }
    let [first, second] = V6_RANGE;
    let group = u16::try_from(number % 0xffff).unwrap_or(0);
    let address = |last| IpAddr::V6(Ipv6Addr::new(first, second, 0x7377, group, 0, 0, 0, last));
    Endpoint { own: address(1), client: address(2) }
}

/// Whether only a default route matches. An address without any route is free too.
fn is_without_route(netlink: &OwnedFd, address: IpAddr) -> bool {
    let body = build_route_body(address, None, RTM_F_FIB_MATCH);
    match call(netlink, RTM_GETROUTE, 0, &body) {
        Ok(Some(route)) => route.get(1) == Some(&0),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// The interface by which this host sends to `address` from `source`.
fn find_interface(netlink: &OwnedFd, address: IpAddr, source: IpAddr) -> Result<Option<u32>, NetlinkError> {
    let route = call(netlink, RTM_GETROUTE, 0, &build_route_body(address, Some(source), 0))?;
    let attributes = route.as_deref().and_then(|route| route.get(RTMSG_BYTES..));
    Ok(attributes.and_then(|attributes| read_u32(find_attribute(attributes, RTA_OIF)?, 0)))
}

fn build_route_body(address: IpAddr, source: Option<IpAddr>, flags: u32) -> Vec<u8> {
    let (family, bytes, bits) = describe_address(address);
    let mut body = vec![family, bits, source.map_or(0, |_| bits), 0, 0, 0, 0, 0];
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend(build_attribute(RTA_DST, &bytes));
    if let Some(source) = source {
        body.extend(build_attribute(RTA_SRC, &describe_address(source).1));
    }
    body
}

fn add_address(netlink: &OwnedFd, index: u32, endpoint: &Endpoint) -> Result<(), NetlinkError> {
    let (family, own, bits) = describe_address(endpoint.own);
    let is_v4 = endpoint.own.is_ipv4();
    let mut body = vec![family, bits, IFA_F_NODAD, if is_v4 { SCOPE_LINK } else { 0 }];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend(build_attribute(IFA_LOCAL, &own));
    body.extend(build_attribute(IFA_ADDRESS, &describe_address(endpoint.client).1));
    if !is_v4 {
        // Deprecated at once: the kernel does not choose it as the source of other traffic.
        let (preferred, valid) = (0u32.to_ne_bytes(), u32::MAX.to_ne_bytes());
        body.extend(build_attribute(IFA_CACHEINFO, &[&preferred[..], &valid, &[0; 8]].concat()));
    }
    call(netlink, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body).map(|_| ())
}

/// Family, bytes and length in bits.
fn describe_address(address: IpAddr) -> (u8, Vec<u8>, u8) {
    match address {
        IpAddr::V4(address) => (AddressFamily::Inet as u8, address.octets().to_vec(), 32),
        IpAddr::V6(address) => (AddressFamily::Inet6 as u8, address.octets().to_vec(), 128),
    }
}

pub(super) fn to_error(action: &str, why: &dyn std::fmt::Display) -> PacketProbeError {
    PacketProbeError { action: action.to_owned(), why: why.to_string() }
}

/// Sends one request and returns the body of its answer; `None` where the kernel only acknowledges.
fn call(netlink: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> Result<Option<Vec<u8>>, NetlinkError> {
    // Requests follow each other on a socket of their own: an answer can only be to the last one.
    const SEQUENCE: u32 = 1;
    netlink::send(netlink, &build_message(kind, NLM_F_REQUEST | flags, SEQUENCE, body))?;
    let mut buffer = vec![0; BUFFER];
    let mut receive = |buffer: &mut [u8]| netlink::receive(netlink, buffer);
    let length = netlink::receive_datagram(&mut receive, &mut buffer)?;
    match parse_messages(&buffer[..length]).into_iter().next() {
        Some(Ok(message @ Message { kind: NLMSG_ERROR, .. })) => {
            message.error().map_or(Ok(None), |error| Err(NetlinkError::Refused(error)))
        }
        Some(Ok(Message { kind: RTM_NEWROUTE, body, .. })) => Ok(Some(body.to_vec())),
        Some(Ok(other)) => Err(NetlinkError::UnexpectedType(other.kind)),
        Some(Err(error)) => Err(error),
        None => Ok(None),
    }
}
