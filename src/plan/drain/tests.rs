use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::socket::TcpInfo;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A connection that once received 100 bytes and sent 200; ages in ms.
fn socket(received_ago: u64, sent_ago: u64, ack_ago: u64) -> Socket {
    let info = TcpInfo {
        last_data_received: MS(received_ago),
        last_data_sent: MS(sent_ago),
        last_ack_received: MS(ack_ago),
        bytes_received: 100,
        bytes_sent: 200,
        ..TcpInfo::default()
    };
    Socket { cookie: 1, peer: "127.0.0.1:1".parse().unwrap(), receive_queue: 0, send_queue: 0, info }
}

#[test]
fn one_look_tells_idle_from_busy() {
    assert_eq!(activity(&socket(50, 40, 40), None), Activity::Idle, "answered after it was asked");
    assert_eq!(activity(&socket(40, 90, 40), None), Activity::Request, "asked after the last answer");
    assert_eq!(activity(&socket(40, 40, 36), None), Activity::Idle, "same tick, answer acknowledged later");
    assert_eq!(activity(&socket(40, 40, 40), None), Activity::Tie);
    let mut fresh = socket(0, 0, 0);
    (fresh.info.bytes_received, fresh.info.bytes_sent) = (0, 0);
    assert_eq!(activity(&fresh, None), Activity::Idle, "never asked");
    fresh.info.bytes_received = 9;
    assert_eq!(activity(&fresh, None), Activity::Request, "first request");
    let unread = Socket { receive_queue: 1, ..socket(50, 40, 40) };
    assert_eq!(activity(&unread, None), Activity::Request);
    for slow_reader in [
        Socket { send_queue: 1, ..socket(50, 40, 40) },
        Socket { info: TcpInfo { unsent: 1, ..socket(50, 40, 40).info }, ..socket(50, 40, 40) },
        Socket { info: TcpInfo { unacked: 1, ..socket(50, 40, 40).info }, ..socket(50, 40, 40) },
    ] {
        assert_eq!(activity(&slow_reader, None), Activity::Answer);
    }
}

#[test]
fn two_looks_tell_what_moves() {
    let grown = |socket: &Socket, received: u64, sent: u64| {
        let mut socket = socket.clone();
        socket.info.bytes_received += received;
        socket.info.bytes_sent += sent;
        socket
    };
    let asked = socket(0, 90, 0);
    assert_eq!(activity(&grown(&asked, 10, 0), Some(&asked)), Activity::Upload);
    assert_eq!(activity(&grown(&asked, 10, 10), Some(&asked)), Activity::Exchange);
    assert_eq!(activity(&grown(&asked, 0, 10), Some(&asked)), Activity::Answer);
    assert_eq!(activity(&asked, Some(&asked)), Activity::Request);
    let answered = socket(50, 40, 40);
    assert_eq!(activity(&grown(&answered, 10, 10), Some(&answered)), Activity::Idle);
}

#[test]
fn a_tie_is_neither_until_nobody_would_wait_that_long() {
    let tied = |ms| count(&[socket(ms, ms, ms)], &[]).0;
    assert_eq!(tied(4), SocketCount { tie: 1, ..SocketCount::default() });
    assert_eq!(tied(15_000), SocketCount { tie: 1, ..SocketCount::default() });
    assert_eq!(tied(15_004), SocketCount { idle: 1, ..SocketCount::default() });
    // An earlier look that is no different proves nothing: a slow request looks just so.
    let (first, later) = (socket(4, 4, 4), socket(204, 204, 204));
    assert_eq!(count(&[later], &[first]).0.tie, 1);
}

#[test]
fn a_balancer_decides_a_tie_and_without_one_it_is_work() {
    let tied = Some(SocketCount { tie: 1, ..SocketCount::default() });
    let mut blind = Drain::default();
    assert_eq!(why(&blind.look(&[], tied)), Some(Why::BusySockets));
    let mut told = Drain::default();
    told.look(&[work(0, 1)], tied);
    assert_eq!(told.look(&[work(0, 1)], tied), DrainState::Drained);
}

fn work(sessions: u64, selected_total: u64) -> Option<ServerWork> {
    Some(ServerWork { sessions, queued: 0, connections_used: Some(0), selected_total })
}

const NONE_BUSY: Option<SocketCount> = Some(SocketCount { busy: 0, idle: 40, tie: 0 });

fn why(state: &DrainState) -> Option<Why> {
    match state {
        DrainState::Draining { why, .. } => Some(*why),
        DrainState::Drained => None,
    }
}

#[test]
fn two_quiet_looks_make_a_drain() {
    let mut drain = Drain::default();
    assert_eq!(why(&drain.look(&[work(2, 10), work(0, 5)], NONE_BUSY)), Some(Why::InFlight));
    assert_eq!(why(&drain.look(&[work(0, 10), work(0, 5)], NONE_BUSY)), Some(Why::SecondLook));
    assert_eq!(why(&drain.look(&[work(0, 11), work(0, 5)], NONE_BUSY)), Some(Why::StillSelected));
    assert_eq!(drain.look(&[work(0, 11), work(0, 5)], NONE_BUSY), DrainState::Drained);
}

#[test]
fn idle_pooled_connections_are_not_work() {
    let mut drain = Drain::default();
    drain.look(&[work(0, 1)], NONE_BUSY);
    assert_eq!(drain.look(&[work(0, 1)], NONE_BUSY), DrainState::Drained);
}

#[test]
fn a_quiet_websocket_is_work_for_haproxy_though_not_for_the_kernel() {
    let mut drain = Drain::default();
    for _ in 0..5 {
        assert_eq!(why(&drain.look(&[work(1, 1)], NONE_BUSY)), Some(Why::InFlight));
    }
}

#[test]
fn used_connections_and_queued_requests_count() {
    let mut drain = Drain::default();
    let used = ServerWork { connections_used: Some(1), ..ServerWork::default() };
    let queued = ServerWork { queued: 1, ..ServerWork::default() };
    assert_eq!(why(&drain.look(&[Some(used)], NONE_BUSY)), Some(Why::InFlight));
    assert_eq!(why(&drain.look(&[Some(queued)], NONE_BUSY)), Some(Why::InFlight));
}

#[test]
fn what_is_not_known_is_not_drained() {
    let mut drain = Drain::default();
    for _ in 0..3 {
        assert_eq!(why(&drain.look(&[work(0, 1), None], NONE_BUSY)), Some(Why::BalancerUnread));
        assert_eq!(why(&drain.look(&[work(0, 1)], None)), Some(Why::SocketsUnread));
    }
}

#[test]
fn without_balancers_the_sockets_decide() {
    let mut drain = Drain::default();
    assert_eq!(
        why(&drain.look(&[], Some(SocketCount { busy: 1, ..SocketCount::default() }))),
        Some(Why::BusySockets)
    );
    drain.look(&[], NONE_BUSY);
    assert_eq!(drain.look(&[], NONE_BUSY), DrainState::Drained);
}

proptest! {
    #[test]
    fn drained_only_after_two_looks_with_nothing_in_flight(
        looks in proptest::collection::vec((0u64..2, 0u64..3, 0u64..2), 1..12)
    ) {
        let mut drain = Drain::default();
        let mut before: Option<(u64, u64, u64)> = None;
        for look in looks {
            let (sessions, selected, busy) = look;
            let state = drain.look(&[work(sessions, selected)], Some(SocketCount { busy, ..SocketCount::default() }));
            let quiet_twice = sessions == 0 && busy == 0 && before.is_some_and(|b| b == (0, selected, 0));
            prop_assert!(state != DrainState::Drained || quiet_twice);
            before = Some(look);
            if state == DrainState::Drained { break; }
        }
    }
}
