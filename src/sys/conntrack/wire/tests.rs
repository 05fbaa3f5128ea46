use proptest::prelude::*;

use super::*;
use crate::sys::netlink::{build_message, read_u16, read_u32};

const AF_INET: u8 = 2;

fn wanted(port: u16, target: u16) -> FlowFilter {
    FlowFilter { port: Port::new(port).unwrap(), target: Port::new(target).unwrap() }
}

fn tuple(kind: u16, addresses: &[Vec<u8>], protocol: u8, from: u16, to: u16) -> Vec<u8> {
    let ports = [
        build_attribute(CTA_PROTO_NUM, &[protocol]),
        build_attribute(CTA_PROTO_SRC_PORT, &from.to_be_bytes()),
        build_attribute(CTA_PROTO_DST_PORT, &to.to_be_bytes()),
    ];
    build_nested(kind, &[build_nested(CTA_TUPLE_IP, addresses), build_nested(CTA_TUPLE_PROTO, &ports)])
}

/// 192.0.2.7:40000 -> 192.0.2.1:80, answered from 20001 to 40001, as `conntrack -L` shows such a line.
fn translated(protocol: u8) -> Vec<u8> {
    let address = |kind, last| build_attribute(kind, &[192, 0, 2, last]);
    let mut body = vec![AF_INET, 0, 0, 0];
    body.extend(tuple(CTA_TUPLE_ORIG, &[address(1, 7), address(2, 1)], protocol, 40000, 80));
    // The status, which is not read.
    body.extend(build_attribute(3, &[0, 0, 1, 0x8e]));
    body.extend(tuple(CTA_TUPLE_REPLY, &[address(1, 1), address(2, 7)], protocol, 20001, 40001));
    body
}

fn part_of(body: &[u8]) -> Result<DumpPart, NetlinkError> {
    parse_parts(&build_message(CT_NEW, 2, 7, body), 7).pop().unwrap()
}

#[test]
fn request_with_filter_matches_kernel_layout() {
    let bytes = build_request(AF_INET, Some(wanted(80, 20001)), 7);
    assert_eq!(read_u32(&bytes, 0).map(|length| length as usize), Some(bytes.len()));
    assert_eq!((read_u16(&bytes, 4), read_u16(&bytes, 6)), (Some(0x0101), Some(0x301)));
    let attributes = &bytes[20..];
    let filter = find_attribute(attributes, CTA_FILTER).unwrap();
    assert_eq!(find_attribute(filter, 1), Some(&40u32.to_ne_bytes()[..]));
    assert_eq!(find_attribute(filter, 2), Some(&24u32.to_ne_bytes()[..]));
    let proto = |kind| find_attribute(find_attribute(attributes, kind).unwrap(), CTA_TUPLE_PROTO).unwrap();
    assert_eq!(find_attribute(proto(CTA_TUPLE_ORIG), CTA_PROTO_DST_PORT), Some(&80u16.to_be_bytes()[..]));
    assert_eq!(find_attribute(proto(CTA_TUPLE_REPLY), CTA_PROTO_SRC_PORT), Some(&20001u16.to_be_bytes()[..]));
    assert_eq!(build_request(AF_INET, None, 7).len(), 20);
}

#[test]
fn flow_peer_is_reply_destination() {
    let Ok(DumpPart::Flow(flow)) = part_of(&translated(IPPROTO_TCP)) else { panic!() };
    assert_eq!(flow.matching_peer(wanted(80, 20001)), Some("192.0.2.7:40001".parse().unwrap()));
    assert_eq!(flow.matching_peer(wanted(8080, 20001)), None);
    assert_eq!(flow.matching_peer(wanted(80, 20002)), None, "an older kernel lists all");
    let Ok(DumpPart::Flow(udp)) = part_of(&translated(17)) else { panic!() };
    assert_eq!(udp.matching_peer(wanted(80, 20001)), None);
}

#[test]
fn flow_parses_ipv6_peer() {
    let address =
        |kind, last: u8| build_attribute(kind, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let mut body = vec![10, 0, 0, 0];
    body.extend(tuple(CTA_TUPLE_ORIG, &[address(3, 7), address(4, 1)], IPPROTO_TCP, 40000, 80));
    body.extend(tuple(CTA_TUPLE_REPLY, &[address(3, 1), address(4, 7)], IPPROTO_TCP, 20001, 40000));
    let Ok(DumpPart::Flow(flow)) = part_of(&body) else { panic!() };
    assert_eq!(flow.matching_peer(wanted(80, 20001)), Some("[2001:db8::7]:40000".parse().unwrap()));
}

#[test]
fn dump_parts_include_errors_and_end() {
    assert_eq!(parse_parts(&build_message(NLMSG_DONE, 0, 7, &[0; 4]), 7), [Ok(DumpPart::Done)]);
    assert_eq!(parse_parts(&build_message(NLMSG_DONE, 0, 6, &[0; 4]), 7), [Ok(DumpPart::Stale)]);
    let interrupted = build_message(NLMSG_DONE, NLM_F_DUMP_INTR, 7, &[0; 4]);
    assert_eq!(parse_parts(&interrupted, 7), [Ok(DumpPart::Interrupted), Ok(DumpPart::Done)]);
    let refused = build_message(NLMSG_ERROR, 0, 7, &(-22i32).to_ne_bytes());
    assert_eq!(parse_parts(&refused, 7), [Ok(DumpPart::Refused(Errno::EINVAL))]);
    assert_eq!(part_of(&[AF_INET, 0, 0, 0]), Err(NetlinkError::NoTuples));
    assert_eq!(parse_parts(&build_message(99, 0, 7, &[]), 7), [Err(NetlinkError::UnexpectedType(99))]);
    // A ping has a type and a code where TCP has ports.
    let portless =
        |kind| build_nested(kind, &[build_nested(CTA_TUPLE_PROTO, &[build_attribute(CTA_PROTO_NUM, &[1])])]);
    let ping = [vec![AF_INET, 0, 0, 0], portless(CTA_TUPLE_ORIG), portless(CTA_TUPLE_REPLY)].concat();
    assert_eq!(part_of(&ping), Ok(DumpPart::Other));
}

proptest! {
    #[test]
    fn parse_parts_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_parts(&bytes, 1);
    }

    #[test]
    fn parse_part_yields_one_part_or_error(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(parse_parts(&build_message(CT_NEW, 0, 1, &body), 1).len(), 1);
    }

    /// A real message with some bytes overwritten: deeper than random bytes get.
    #[test]
    fn parse_part_survives_damage(
        damage in proptest::collection::vec((0usize..200, any::<u8>()), 0..8), length in 0usize..200
    ) {
        let mut bytes = build_message(CT_NEW, 0, 1, &translated(IPPROTO_TCP));
        for (at, byte) in damage {
            if let Some(old) = bytes.get_mut(at) { *old = byte; }
        }
        bytes.truncate(length);
        let _ = parse_parts(&bytes, 1);
    }
}

/// As the kernel lists the entry that it makes of the request.
#[test]
fn entry_is_answered_from_the_port_that_the_client_opened() {
    for (client, server) in [("192.0.2.7:40000", "192.0.2.1:80"), ("[2001:db8::7]:40000", "[2001:db8::1]:80")]
    {
        let (client, server): (SocketAddr, SocketAddr) = (client.parse().unwrap(), server.parse().unwrap());
        let bytes = build_entry(client, server, 3, 60, 7);
        assert_eq!((read_u16(&bytes, 4), read_u16(&bytes, 6)), (Some(0x0100), Some(0x605)));
        let Ok(DumpPart::Flow(flow)) = part_of(&bytes[16..]) else { panic!("{bytes:?}") };
        assert_eq!(flow.matching_peer(wanted(80, 80)), Some(client));
        let attributes = &bytes[20..];
        assert_eq!(find_attribute(attributes, CTA_TIMEOUT), Some(&60u32.to_be_bytes()[..]));
        let tcp =
            find_attribute(find_attribute(attributes, CTA_PROTOINFO).unwrap(), CTA_PROTOINFO_TCP).unwrap();
        assert_eq!(find_attribute(tcp, CTA_PROTOINFO_TCP_STATE), Some(&[3][..]));
        assert_eq!(find_attribute(tcp, CTA_PROTOINFO_TCP_FLAGS_REPLY), Some(&[10, 10][..]));
    }
}

/// A request to delete without the whole tuple would delete other entries, or all.
#[test]
fn delete_names_every_part_of_the_tuple() {
    for (client, server) in [("192.0.2.7:40000", "192.0.2.1:80"), ("[2001:db8::7]:40000", "[2001:db8::1]:80")]
    {
        let (client, server): (SocketAddr, SocketAddr) = (client.parse().unwrap(), server.parse().unwrap());
        let bytes = build_delete(client, server, 7);
        assert_eq!((read_u16(&bytes, 4), read_u16(&bytes, 6)), (Some(0x0102), Some(0x5)));
        let tuple = find_attribute(&bytes[20..], CTA_TUPLE_ORIG).unwrap();
        let address = find_attribute(tuple, CTA_TUPLE_IP).unwrap();
        let (source, destination) =
            if client.is_ipv4() { (CTA_IP_V4_SRC, CTA_IP_V4_DST) } else { (CTA_IP_V6_SRC, CTA_IP_V6_DST) };
        assert!(find_attribute(address, source).is_some() && find_attribute(address, destination).is_some());
        assert_eq!(read_port(tuple, CTA_PROTO_SRC_PORT), Some(40000));
        assert_eq!(read_port(tuple, CTA_PROTO_DST_PORT), Some(80));
    }
}
