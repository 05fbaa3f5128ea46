use proptest::prelude::*;

use super::*;
use crate::sys::netlink::{message, u16_at, u32_at};

const AF_INET: u8 = 2;

fn wanted(port: u16, target: u16) -> Wanted {
    Wanted { port: Port::new(port).unwrap(), target: Port::new(target).unwrap() }
}

fn tuple(kind: u16, addresses: &[Vec<u8>], protocol: u8, from: u16, to: u16) -> Vec<u8> {
    let ports = [
        attribute(CTA_PROTO_NUM, &[protocol]),
        attribute(CTA_PROTO_SRC_PORT, &from.to_be_bytes()),
        attribute(CTA_PROTO_DST_PORT, &to.to_be_bytes()),
    ];
    nested(kind, &[nested(CTA_TUPLE_IP, addresses), nested(CTA_TUPLE_PROTO, &ports)])
}

/// 192.0.2.7:40000 -> 192.0.2.1:80, answered from 20001 to 40001, as `conntrack -L` shows such a line.
fn translated(protocol: u8) -> Vec<u8> {
    let address = |kind, last| attribute(kind, &[192, 0, 2, last]);
    let mut body = vec![AF_INET, 0, 0, 0];
    body.extend(tuple(CTA_TUPLE_ORIG, &[address(1, 7), address(2, 1)], protocol, 40000, 80));
    // The status, which nobody asks for.
    body.extend(attribute(3, &[0, 0, 1, 0x8e]));
    body.extend(tuple(CTA_TUPLE_REPLY, &[address(1, 1), address(2, 7)], protocol, 20001, 40001));
    body
}

fn part_of(body: &[u8]) -> Result<Part, String> {
    parts(&message(CT_NEW, 2, 7, body), 7).pop().unwrap()
}

#[test]
fn a_request_with_its_filter_is_laid_out_as_the_kernel_reads_it() {
    let bytes = request(AF_INET, Some(wanted(80, 20001)), 7);
    assert_eq!(u32_at(&bytes, 0).map(|length| length as usize), Some(bytes.len()));
    assert_eq!((u16_at(&bytes, 4), u16_at(&bytes, 6)), (Some(0x0101), Some(0x301)));
    let attributes = &bytes[20..];
    let filter = find(attributes, CTA_FILTER).unwrap();
    assert_eq!(find(filter, 1), Some(&40u32.to_ne_bytes()[..]));
    assert_eq!(find(filter, 2), Some(&24u32.to_ne_bytes()[..]));
    let proto = |kind| find(find(attributes, kind).unwrap(), CTA_TUPLE_PROTO).unwrap();
    assert_eq!(find(proto(CTA_TUPLE_ORIG), CTA_PROTO_DST_PORT), Some(&80u16.to_be_bytes()[..]));
    assert_eq!(find(proto(CTA_TUPLE_REPLY), CTA_PROTO_SRC_PORT), Some(&20001u16.to_be_bytes()[..]));
    assert_eq!(request(AF_INET, None, 7).len(), 20);
}

#[test]
fn the_peer_is_the_one_that_is_answered() {
    let Ok(Part::Flow(flow)) = part_of(&translated(IPPROTO_TCP)) else { panic!() };
    assert_eq!(flow.peer(wanted(80, 20001)), Some("192.0.2.7:40001".parse().unwrap()));
    assert_eq!(flow.peer(wanted(8080, 20001)), None);
    assert_eq!(flow.peer(wanted(80, 20002)), None, "an older kernel lists all");
    let Ok(Part::Flow(udp)) = part_of(&translated(17)) else { panic!() };
    assert_eq!(udp.peer(wanted(80, 20001)), None);
}

#[test]
fn an_ipv6_peer_is_read() {
    let address =
        |kind, last: u8| attribute(kind, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let mut body = vec![10, 0, 0, 0];
    body.extend(tuple(CTA_TUPLE_ORIG, &[address(3, 7), address(4, 1)], IPPROTO_TCP, 40000, 80));
    body.extend(tuple(CTA_TUPLE_REPLY, &[address(3, 1), address(4, 7)], IPPROTO_TCP, 20001, 40000));
    let Ok(Part::Flow(flow)) = part_of(&body) else { panic!() };
    assert_eq!(flow.peer(wanted(80, 20001)), Some("[2001:db8::7]:40000".parse().unwrap()));
}

#[test]
fn errors_and_ends_are_told() {
    assert_eq!(parts(&message(NLMSG_DONE, 0, 7, &[0; 4]), 7), [Ok(Part::Done)]);
    assert_eq!(parts(&message(NLMSG_DONE, 0, 6, &[0; 4]), 7), [Ok(Part::Stale)]);
    let interrupted = message(NLMSG_DONE, NLM_F_DUMP_INTR, 7, &[0; 4]);
    assert_eq!(parts(&interrupted, 7), [Ok(Part::Interrupted), Ok(Part::Done)]);
    let refused = message(NLMSG_ERROR, 0, 7, &(-22i32).to_ne_bytes());
    assert_eq!(parts(&refused, 7), [Ok(Part::Refused(Errno::EINVAL))]);
    assert_eq!(part_of(&[AF_INET, 0, 0, 0]), Err("a connection comes without its tuples".to_owned()));
    assert_eq!(parts(&message(99, 0, 7, &[]), 7), [Err("an unexpected message of type 99".to_owned())]);
    // A ping has a type and a code where TCP has ports.
    let portless = |kind| nested(kind, &[nested(CTA_TUPLE_PROTO, &[attribute(CTA_PROTO_NUM, &[1])])]);
    let ping = [vec![AF_INET, 0, 0, 0], portless(CTA_TUPLE_ORIG), portless(CTA_TUPLE_REPLY)].concat();
    assert_eq!(part_of(&ping), Ok(Part::Other));
}

proptest! {
    #[test]
    fn any_bytes_are_parts_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parts(&bytes, 1);
    }

    #[test]
    fn any_message_is_one_part_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(parts(&message(CT_NEW, 0, 1, &body), 1).len(), 1);
    }

    /// A real message with some bytes overwritten: deeper than random bytes get.
    #[test]
    fn a_damaged_message_is_a_part_or_an_error(
        damage in proptest::collection::vec((0usize..200, any::<u8>()), 0..8), length in 0usize..200
    ) {
        let mut bytes = message(CT_NEW, 0, 1, &translated(IPPROTO_TCP));
        for (at, byte) in damage {
            if let Some(old) = bytes.get_mut(at) { *old = byte; }
        }
        bytes.truncate(length);
        let _ = parts(&bytes, 1);
    }
}
