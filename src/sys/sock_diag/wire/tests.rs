use proptest::prelude::*;

use super::*;
use crate::sys::netlink::{build_message, read_u16};

/// A socket of port 8080 with 5 bytes to read and 6 to send, its `tcp_info` cut to a length; every field used in it holds
/// its own offset.
fn body(state: u8, info_length: usize) -> Vec<u8> {
    let mut fixed = [0; INET_DIAG_MSG_BYTES];
    (fixed[0], fixed[1]) = (AF_INET, state);
    fixed[4..8].copy_from_slice(&[0x1f, 0x90, 0x9c, 0x40]);
    fixed[24..28].copy_from_slice(&[192, 0, 2, 7]);
    // Two words, the low one first.
    fixed[44..52].copy_from_slice(&[0x5566_7788u32, 0x1122_3344].map(u32::to_ne_bytes).concat());
    fixed[56..60].copy_from_slice(&5u32.to_ne_bytes());
    fixed[60..64].copy_from_slice(&6u32.to_ne_bytes());
    let mut info = vec![0xee; 280];
    for at in [24, 44, 52, 56, 144] {
        info[at..at + 4].copy_from_slice(&u32::try_from(at).unwrap().to_ne_bytes());
    }
    for at in [120, 128, 200] {
        info[at..at + 8].copy_from_slice(&u64::try_from(at).unwrap().to_ne_bytes());
    }
    let mut body = fixed.to_vec();
    // Another attribute before it, of a length that is padded.
    body.extend_from_slice(&[5u16, 8].map(u16::to_ne_bytes).concat());
    body.extend_from_slice(&[1, 0, 0, 0]);
    body.extend_from_slice(&u16::try_from(4 + info_length).unwrap().to_ne_bytes());
    body.extend_from_slice(&INET_DIAG_INFO.to_ne_bytes());
    body.extend_from_slice(&info[..info_length]);
    body
}

fn part_of(body: &[u8]) -> Result<DumpPart, NetlinkError> {
    let parts = parse_parts(&build_message(SOCK_DIAG_BY_FAMILY, 0, 7, body), 7, parse_socket);
    assert_eq!(parts.len(), 1, "{parts:?}");
    parts.into_iter().next().unwrap()
}

fn socket_of(body: &[u8]) -> Socket {
    match part_of(body) {
        Ok(DumpPart::Socket { socket, local_port: 8080, .. }) => socket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn request_matches_kernel_layout() {
    let bytes = build_request(AF_INET, Port::new(8080).unwrap(), 7);
    assert_eq!(bytes.len(), 72);
    assert_eq!(
        (read_u32(&bytes, 0), read_u16(&bytes, 4), read_u16(&bytes, 6)),
        (Some(72), Some(20), Some(0x301))
    );
    assert_eq!(bytes[16..20], [2, 6, 2, 0]);
    assert_eq!(read_u32(&bytes, 20), Some(0b1011_0001_0010));
    assert_eq!(bytes[24..26], 8080u16.to_be_bytes());
    assert_eq!(bytes[64..], [0xff; 8]);
}

#[test]
fn socket_parses_kernel_layout() {
    let expected = Socket {
        cookie: 0x1122_3344_5566_7788,
        peer: "192.0.2.7:40000".parse().unwrap(),
        receive_queue: 5,
        send_queue: 6,
        info: TcpInfo {
            unacked: 24,
            unsent: 144,
            last_data_sent: Duration::from_millis(44),
            last_data_received: Duration::from_millis(52),
            last_ack_received: Duration::from_millis(56),
            bytes_received: 128,
            bytes_sent: 200,
        },
    };
    assert_eq!(socket_of(&body(ESTABLISHED, 280)), expected);
}

#[test]
fn tcp_info_of_older_kernel_parses_or_fails() {
    let before_bytes_sent = socket_of(&body(ESTABLISHED, 200)).info;
    assert_eq!((before_bytes_sent.bytes_sent, before_bytes_sent.unsent), (120, 144));
    let before_unsent = socket_of(&body(ESTABLISHED, 136)).info;
    assert_eq!((before_unsent.bytes_sent, before_unsent.bytes_received, before_unsent.unsent), (120, 128, 0));
    assert_eq!(part_of(&body(ESTABLISHED, 104)), Err(NetlinkError::ShortTcpInfo { length: 104 }));
    assert_eq!(part_of(&body(ESTABLISHED, 280)[..INET_DIAG_MSG_BYTES]), Err(NetlinkError::NoTcpInfo));
}

#[test]
fn fin_is_not_counted_as_byte() {
    let numbers = |state| {
        let socket = socket_of(&body(state, 280));
        (socket.receive_queue, socket.info.bytes_received, socket.send_queue)
    };
    assert_eq!(numbers(ESTABLISHED), (5, 128, 6));
    assert_eq!(numbers(CLOSE_WAIT), (4, 127, 6), "the peer's");
    assert_eq!(numbers(FIN_WAIT1), (5, 128, 5), "the server's");
    assert_eq!(numbers(LAST_ACK), (4, 127, 5), "both");
    assert_eq!(numbers(CLOSING), (4, 127, 5), "both at once");
}

#[test]
fn server_closed_socket_is_finished_when_only_fin_is_unacked() {
    for (state, over) in [(FIN_WAIT1, true), (LAST_ACK, true), (CLOSING, true), (CLOSE_WAIT, false)] {
        let mut only_fin = body(state, 280);
        only_fin[60..64].copy_from_slice(&1u32.to_ne_bytes());
        assert_eq!(part_of(&only_fin) == Ok(DumpPart::Finished), over, "state {state}");
    }
}

#[test]
fn dump_parts_include_errors_and_end() {
    assert_eq!(parse_parts(&build_message(NLMSG_DONE, 0, 7, &[0; 4]), 7, parse_socket), [Ok(DumpPart::Done)]);
    assert_eq!(
        parse_parts(&build_message(NLMSG_DONE, 0, 7, &[0; 4]), 8, parse_socket),
        [Ok(DumpPart::Stale)]
    );
    let refused = parse_parts(&build_message(NLMSG_ERROR, 0, 7, &(-1i32).to_ne_bytes()), 7, parse_socket);
    assert_eq!(refused, [Err(NetlinkError::Refused(Errno::EPERM))]);
    assert_eq!(part_of(&[0; 10]), Err(NetlinkError::ShortSocket));
    assert_eq!(
        parse_parts(&build_message(99, 0, 7, &[]), 7, parse_socket),
        [Err(NetlinkError::UnexpectedType(99))]
    );
    assert_eq!(
        parse_parts(&build_message(NLMSG_DONE, 0, 7, &[0; 4])[..19], 7, parse_socket),
        [Err(NetlinkError::MessageLength { length: 20, received: 19 })]
    );
}

#[test]
fn interruption_counts_only_for_its_dump() {
    let interrupted = build_message(NLMSG_DONE, NLM_F_DUMP_INTR, 7, &[0; 4]);
    assert_eq!(parse_parts(&interrupted, 7, parse_socket), [Ok(DumpPart::Interrupted), Ok(DumpPart::Done)]);
    assert_eq!(parse_parts(&interrupted, 8, parse_socket), [Ok(DumpPart::Stale)]);
}

#[test]
fn datagram_parses_many_messages() {
    let mut datagram = build_message(SOCK_DIAG_BY_FAMILY, 0, 7, &body(ESTABLISHED, 280));
    datagram.extend(build_message(SOCK_DIAG_BY_FAMILY, 0, 6, &body(ESTABLISHED, 280)));
    datagram.extend(build_message(SOCK_DIAG_BY_FAMILY, 0, 7, &body(CLOSE_WAIT, 280)));
    datagram.extend(build_message(NLMSG_DONE, 0, 7, &[0; 4]));
    let kinds: Vec<_> = parse_parts(&datagram, 7, parse_socket).into_iter().map(Result::unwrap).collect();
    assert!(
        matches!(
            kinds[..],
            [DumpPart::Socket { .. }, DumpPart::Stale, DumpPart::Socket { .. }, DumpPart::Done]
        ),
        "{kinds:?}"
    );
}

#[test]
fn destroy_uses_kernel_socket_id() {
    let dumped = body(ESTABLISHED, 280);
    let Ok(DumpPart::Socket { id, .. }) = part_of(&dumped) else { panic!() };
    let bytes = build_destroy(&id, 9);
    assert_eq!(
        (read_u32(&bytes, 0), read_u16(&bytes, 4), read_u16(&bytes, 6)),
        (Some(72), Some(21), Some(0x05))
    );
    assert_eq!((bytes[16], bytes[17], read_u32(&bytes, 20)), (AF_INET, IPPROTO_TCP, Some(u32::MAX)));
    assert_eq!(bytes[24..72], dumped[4..52], "cookie and interface among it");
    let answer = |code: i32, sequence| build_message(NLMSG_ERROR, 0, sequence, &code.to_ne_bytes());
    assert_eq!(parse_destroy_answer(&answer(0, 9), 9), Some(Ok(true)));
    assert_eq!(parse_destroy_answer(&answer(-2, 9), 9), Some(Ok(false)), "closed already");
    assert_eq!(parse_destroy_answer(&answer(0, 8), 9), None);
    let refused = NetlinkError::CloseRefused(Errno::EPERM);
    assert_eq!(parse_destroy_answer(&answer(-1, 9), 9), Some(Err(refused)));
}

proptest! {
    #[test]
    fn parse_parts_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (parse_parts(&bytes, 1, parse_socket), parse_destroy_answer(&bytes, 1));
    }

    #[test]
    fn parse_socket_never_panics(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(parse_parts(&build_message(SOCK_DIAG_BY_FAMILY, 0, 1, &body), 1, parse_socket).len(), 1);
    }

    /// A real message with some bytes overwritten: deeper than random bytes get.
    #[test]
    fn parse_socket_survives_damage(
        damage in proptest::collection::vec((0usize..500, any::<u8>()), 0..8), length in 0usize..500
    ) {
        let mut bytes = build_message(SOCK_DIAG_BY_FAMILY, 0, 1, &body(LAST_ACK, 280));
        for (at, byte) in damage {
            if let Some(old) = bytes.get_mut(at) { *old = byte; }
        }
        bytes.truncate(length);
        let _ = parse_parts(&bytes, 1, parse_socket);
    }
}
