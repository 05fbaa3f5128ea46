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
}

#[test]
fn what_moved_is_work_even_where_the_server_had_the_last_word() {
    let grown = |received: u64, sent: u64| {
        let mut socket = socket(50, 40, 40);
        socket.info.bytes_received += received;
        socket.info.bytes_sent += sent;
        socket
    };
    let before = socket(50, 40, 40);
    assert_eq!(activity(&grown(9, 9), None), Activity::Idle, "one look does not tell");
    assert_eq!(activity(&grown(9, 9), Some(&before)), Activity::Exchange, "a websocket in use");
    assert_eq!(activity(&grown(0, 9), Some(&before)), Activity::Answer, "a streaming answer");
    assert_eq!(activity(&before, Some(&before)), Activity::Idle);
    // A request in the tick of the last answer, which the next acknowledgement made look answered.
    let mut misread = socket(40, 40, 36);
    assert_eq!(activity(&misread, None), Activity::Idle);
    misread.info.bytes_received += 9;
    assert_eq!(activity(&misread, Some(&before)), Activity::Upload);
}

#[test]
fn looks_are_matched_by_cookie_and_counted_by_activity() {
    let numbered = |cookie, received, sent| {
        let mut socket = Socket { cookie, ..socket(50, 40, 40) };
        socket.info.bytes_received += received;
        socket.info.bytes_sent += sent;
        socket
    };
    let before = [numbered(1, 0, 0), numbered(2, 0, 0), numbered(3, 0, 0), numbered(9, 0, 0)];
    let now = [numbered(3, 5, 0), numbered(2, 0, 5), numbered(1, 0, 0), numbered(4, 5, 5), numbered(9, 5, 5)];
    let (total, by) = count(&now, &before);
    assert_eq!(total, SocketCount { busy: 3, idle: 2, tie: 0 });
    let expected =
        [(Activity::Idle, 2), (Activity::Upload, 1), (Activity::Answer, 1), (Activity::Exchange, 1)];
    assert_eq!(by, expected.into());
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
    let mut blind = Drain::new(false);
    assert_eq!(why(&blind.look(&[], tied)), Some(Why::BusySockets));
    let mut told = Drain::new(false);
    told.look(&[work(0, 1)], tied);
    assert_eq!(told.look(&[work(0, 1)], tied), DrainState::Drained);
    // A tie may be a request of the one balancer that cannot be read.
    let mut half_told = Drain::new(true);
    for _ in 0..3 {
        assert_eq!(why(&half_told.look(&[work(0, 1)], tied)), Some(Why::BusySockets));
    }
    half_told.look(&[work(0, 1)], NONE_BUSY);
    assert_eq!(half_told.look(&[work(0, 1)], NONE_BUSY), DrainState::Drained);
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
    let mut drain = Drain::new(false);
    assert_eq!(why(&drain.look(&[work(2, 10), work(0, 5)], NONE_BUSY)), Some(Why::Sessions));
    assert_eq!(why(&drain.look(&[work(0, 10), work(0, 5)], NONE_BUSY)), Some(Why::SecondLook));
    assert_eq!(why(&drain.look(&[work(0, 11), work(0, 5)], NONE_BUSY)), Some(Why::StillSelected));
    assert_eq!(drain.look(&[work(0, 11), work(0, 5)], NONE_BUSY), DrainState::Drained);
}

#[test]
fn idle_pooled_connections_are_not_work() {
    let mut drain = Drain::new(false);
    drain.look(&[work(0, 1)], NONE_BUSY);
    assert_eq!(drain.look(&[work(0, 1)], NONE_BUSY), DrainState::Drained);
}

#[test]
fn a_quiet_websocket_is_work_for_haproxy_though_not_for_the_kernel() {
    let mut drain = Drain::new(false);
    for _ in 0..5 {
        assert_eq!(why(&drain.look(&[work(1, 1)], NONE_BUSY)), Some(Why::Sessions));
    }
}

#[test]
fn used_connections_and_queued_requests_count() {
    let mut drain = Drain::new(false);
    let used = ServerWork { connections_used: Some(1), ..ServerWork::default() };
    let queued = ServerWork { queued: 1, ..ServerWork::default() };
    assert_eq!(why(&drain.look(&[Some(used)], NONE_BUSY)), Some(Why::Connections));
    assert_eq!(why(&drain.look(&[Some(queued)], NONE_BUSY)), Some(Why::Queued));
}

#[test]
fn what_is_not_known_is_not_drained() {
    let mut drain = Drain::new(false);
    for _ in 0..3 {
        assert_eq!(why(&drain.look(&[work(0, 1), None], NONE_BUSY)), Some(Why::BalancerUnread));
        assert_eq!(why(&drain.look(&[work(0, 1)], None)), Some(Why::SocketsUnread));
    }
}

#[test]
fn without_balancers_the_sockets_decide() {
    let mut drain = Drain::new(false);
    assert_eq!(
        why(&drain.look(&[], Some(SocketCount { busy: 1, ..SocketCount::default() }))),
        Some(Why::BusySockets)
    );
    drain.look(&[], NONE_BUSY);
    assert_eq!(drain.look(&[], NONE_BUSY), DrainState::Drained);
}

type Seen = (Vec<Option<ServerWork>>, Option<SocketCount>);

fn seen(balancers: usize) -> impl Strategy<Value = Seen> {
    let few = || prop_oneof![4 => Just(0u64), 1 => 1u64..3];
    let work = (few(), few(), proptest::option::of(few()), 0u64..2).prop_map(
        |(sessions, queued, connections_used, selected_total)| ServerWork {
            sessions,
            queued,
            connections_used,
            selected_total,
        },
    );
    let count = (few(), 0u64..9, few()).prop_map(|(busy, idle, tie)| SocketCount { busy, idle, tie });
    (
        proptest::collection::vec(proptest::option::weighted(0.9, work), balancers),
        proptest::option::weighted(0.9, count),
    )
}

/// Nothing in flight by anybody's word, and everybody gave it.
fn is_quiet((works, sockets): &Seen, blind: bool) -> bool {
    let nothing = |work: &Option<ServerWork>| {
        work.is_some_and(|w| w.sessions == 0 && w.queued == 0 && w.connections_used.unwrap_or(0) == 0)
    };
    works.iter().all(nothing) && sockets.is_some_and(|count| count.busy == 0 && (!blind || count.tie == 0))
}

fn selections((works, _): &Seen) -> Vec<Option<u64>> {
    works.iter().map(|work| work.map(|work| work.selected_total)).collect()
}

proptest! {
    #[test]
    fn drained_exactly_at_the_second_quiet_look_without_a_selection_between(
        blind in any::<bool>(),
        looks in (0usize..3).prop_flat_map(|balancers| proptest::collection::vec(seen(balancers), 1..12)),
    ) {
        let mut drain = Drain::new(blind);
        let mut before: Option<&Seen> = None;
        for look in &looks {
            let quiet = |look| is_quiet(look, blind || look.0.is_empty());
            let expected = quiet(look)
                && before.is_some_and(|before| quiet(before) && selections(before) == selections(look));
            let state = drain.look(&look.0, look.1);
            prop_assert_eq!(state == DrainState::Drained, expected, "{:?} then {:?}: {:?}", before, look, state);
            if expected { break; }
            before = Some(look);
        }
    }

    #[test]
    fn growth_is_work_and_standing_still_is_what_one_look_tells(
        ages in (0u64..20, 0u64..20, 0u64..20), received in 0u64..3, sent in 0u64..3
    ) {
        let before = socket(ages.0, ages.1, ages.2);
        let mut now = before.clone();
        now.info.bytes_received += received;
        now.info.bytes_sent += sent;
        let told = activity(&now, Some(&before));
        if received + sent > 0 {
            prop_assert!(told.is_work());
        } else {
            prop_assert_eq!(told, activity(&now, None));
        }
    }
}
