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
fn single_observation_separates_idle_from_busy() {
    for (seen, activity, name) in [
        (socket(50, 40, 40), SocketActivity::Idle, "answered after its request"),
        (socket(40, 90, 40), SocketActivity::Request, "requested after the last answer"),
        (socket(40, 40, 36), SocketActivity::Idle, "same tick, answer acknowledged later"),
        (socket(40, 40, 40), SocketActivity::Ambiguous, "same tick"),
    ] {
        assert_eq!(classify_socket(&seen, None), activity, "{name}");
    }
    let mut fresh = socket(0, 0, 0);
    (fresh.info.bytes_received, fresh.info.bytes_sent) = (0, 0);
    assert_eq!(classify_socket(&fresh, None), SocketActivity::Idle, "no request yet");
    fresh.info.bytes_received = 9;
    assert_eq!(classify_socket(&fresh, None), SocketActivity::Request, "first request");
    let unread = Socket { receive_queue: 1, ..socket(50, 40, 40) };
    assert_eq!(classify_socket(&unread, None), SocketActivity::Request);
    for slow_reader in [
        Socket { send_queue: 1, ..socket(50, 40, 40) },
        Socket { info: TcpInfo { unsent: 1, ..socket(50, 40, 40).info }, ..socket(50, 40, 40) },
        Socket { info: TcpInfo { unacked: 1, ..socket(50, 40, 40).info }, ..socket(50, 40, 40) },
    ] {
        assert_eq!(classify_socket(&slow_reader, None), SocketActivity::Answer);
    }
}

#[test]
fn two_observations_detect_moving_bytes() {
    let grown = |socket: &Socket, received: u64, sent: u64| {
        let mut socket = socket.clone();
        socket.info.bytes_received += received;
        socket.info.bytes_sent += sent;
        socket
    };
    let asked = socket(0, 90, 0);
    assert_eq!(classify_socket(&grown(&asked, 10, 0), Some(&asked)), SocketActivity::Upload);
    assert_eq!(classify_socket(&grown(&asked, 10, 10), Some(&asked)), SocketActivity::Exchange);
    assert_eq!(classify_socket(&grown(&asked, 0, 10), Some(&asked)), SocketActivity::Answer);
    assert_eq!(classify_socket(&asked, Some(&asked)), SocketActivity::Request);
}

#[test]
fn moved_bytes_are_busy_even_when_the_server_sent_last() {
    let grown = |received: u64, sent: u64| {
        let mut socket = socket(50, 40, 40);
        socket.info.bytes_received += received;
        socket.info.bytes_sent += sent;
        socket
    };
    let before = socket(50, 40, 40);
    assert_eq!(classify_socket(&grown(9, 9), None), SocketActivity::Idle, "one look is not enough");
    assert_eq!(classify_socket(&grown(9, 9), Some(&before)), SocketActivity::Exchange, "a websocket in use");
    assert_eq!(classify_socket(&grown(0, 9), Some(&before)), SocketActivity::Answer, "a streaming answer");
    assert_eq!(classify_socket(&before, Some(&before)), SocketActivity::Idle);
    // A request in the tick of the last answer, which the next acknowledgement made look answered.
    let mut misread = socket(40, 40, 36);
    assert_eq!(classify_socket(&misread, None), SocketActivity::Idle);
    misread.info.bytes_received += 9;
    assert_eq!(classify_socket(&misread, Some(&before)), SocketActivity::Upload);
}

#[test]
fn observations_are_matched_by_socket_cookie() {
    let numbered = |cookie, received, sent| {
        let mut socket = Socket { cookie, ..socket(50, 40, 40) };
        socket.info.bytes_received += received;
        socket.info.bytes_sent += sent;
        socket
    };
    let before = [numbered(1, 0, 0), numbered(2, 0, 0), numbered(3, 0, 0), numbered(9, 0, 0)];
    let now = [numbered(3, 5, 0), numbered(2, 0, 5), numbered(1, 0, 0), numbered(4, 5, 5), numbered(9, 5, 5)];
    let (total, by) = count_activities(&now, &before);
    assert_eq!(total, SocketCount { busy: 3, idle: 2, ambiguous: 0, silent: 0 });
    let expected = [
        (SocketActivity::Idle, 2),
        (SocketActivity::Upload, 1),
        (SocketActivity::Answer, 1),
        (SocketActivity::Exchange, 1),
    ];
    assert_eq!(by, expected.into());
}

#[test]
fn ambiguous_socket_becomes_idle_after_the_limit() {
    let tied = |ms| count_activities(&[socket(ms, ms, ms)], &[]).0;
    assert_eq!(tied(4), SocketCount { ambiguous: 1, ..SocketCount::default() });
    assert_eq!(tied(15_000), SocketCount { ambiguous: 1, ..SocketCount::default() });
    assert_eq!(tied(15_004), SocketCount { idle: 1, ..SocketCount::default() });
    // An earlier look that is no different proves nothing: a slow request looks just so.
    let (first, later) = (socket(4, 4, 4), socket(204, 204, 204));
    assert_eq!(count_activities(&[later], &[first]).0.ambiguous, 1);
}

#[test]
fn ambiguous_socket_is_decided_by_the_balancer_or_counts_as_busy() {
    let tied = Some(SocketCount { ambiguous: 1, ..SocketCount::default() });
    let mut blind = DrainTracker::new(false);
    assert_eq!(observe(&mut blind, &[], tied), Some(NotDrainedReason::BusySockets));
    let mut told = DrainTracker::new(false);
    told.observe(&[work(0, 1)], tied, 0);
    assert_eq!(told.observe(&[work(0, 1)], tied, 0), DrainState::Drained);
    // A tie may be a request of the one balancer that cannot be read.
    let mut half_told = DrainTracker::new(true);
    for _ in 0..3 {
        assert_eq!(observe(&mut half_told, &[work(0, 1)], tied), Some(NotDrainedReason::BusySockets));
    }
    half_told.observe(&[work(0, 1)], NONE_BUSY, 0);
    assert_eq!(half_told.observe(&[work(0, 1)], NONE_BUSY, 0), DrainState::Drained);
}

fn work(sessions: u64, selected_total: u64) -> Option<ServerCounters> {
    Some(ServerCounters { sessions, selected_total, connections_used: Some(0), ..ServerCounters::default() })
}

const NONE_BUSY: Option<SocketCount> = Some(SocketCount { busy: 0, idle: 40, ambiguous: 0, silent: 0 });

/// Observes once more; returns what the drain still waits for.
fn observe(
    drain: &mut DrainTracker,
    balancers: &[Option<ServerCounters>],
    sockets: Option<SocketCount>,
) -> Option<NotDrainedReason> {
    match drain.observe(balancers, sockets, 0) {
        DrainState::Draining { reason, .. } => Some(reason),
        DrainState::Drained => None,
    }
}

#[test]
fn drain_needs_two_quiet_observations() {
    let mut drain = DrainTracker::new(false);
    assert_eq!(observe(&mut drain, &[work(2, 10), work(0, 5)], NONE_BUSY), Some(NotDrainedReason::Sessions));
    assert_eq!(
        observe(&mut drain, &[work(0, 10), work(0, 5)], NONE_BUSY),
        Some(NotDrainedReason::AwaitingSecondObservation)
    );
    assert_eq!(
        observe(&mut drain, &[work(0, 11), work(0, 5)], NONE_BUSY),
        Some(NotDrainedReason::StillSelected)
    );
    assert_eq!(drain.observe(&[work(0, 11), work(0, 5)], NONE_BUSY, 0), DrainState::Drained);
}

#[test]
fn idle_pooled_connections_are_not_in_flight() {
    let mut drain = DrainTracker::new(false);
    drain.observe(&[work(0, 1)], NONE_BUSY, 0);
    assert_eq!(drain.observe(&[work(0, 1)], NONE_BUSY, 0), DrainState::Drained);
}

#[test]
fn quiet_websocket_counts_as_haproxy_session() {
    let mut drain = DrainTracker::new(false);
    for _ in 0..5 {
        assert_eq!(observe(&mut drain, &[work(1, 1)], NONE_BUSY), Some(NotDrainedReason::Sessions));
    }
}

/// The quiet websocket of an old HAProxy process: the new one has no session, and the socket looks idle.
/// Source: haproxy/haproxy#228.
#[test]
fn connection_that_no_balancer_has_is_in_flight() {
    let kept = |idle| {
        let counters = ServerCounters {
            connections_used: Some(0),
            idle_connections: Some(idle),
            ..ServerCounters::default()
        };
        Some(counters)
    };
    let mut drain = DrainTracker::new(false);
    for _ in 0..3 {
        let observed = drain.observe(&[kept(30), kept(9)], NONE_BUSY, 0);
        let unexplained = NotDrainedReason::UnexplainedConnections { count: 1 };
        assert!(
            matches!(observed, DrainState::Draining { in_flight: 1, reason, .. } if reason == unexplained)
        );
    }
    drain.observe(&[kept(30), kept(10)], NONE_BUSY, 0);
    assert_eq!(drain.observe(&[kept(30), kept(10)], NONE_BUSY, 0), DrainState::Drained);
    // Of 40 connections one never had a request.
    let one_silent = NONE_BUSY.map(|count| SocketCount { silent: 1, ..count });
    let mut drain = DrainTracker::new(false);
    drain.observe(&[kept(30), kept(9)], one_silent, 0);
    assert_eq!(drain.observe(&[kept(30), kept(9)], one_silent, 0), DrainState::Drained);
    // A balancer that is not read may have it.
    let mut half_read = DrainTracker::new(true);
    half_read.observe(&[kept(0)], NONE_BUSY, 0);
    assert_eq!(half_read.observe(&[kept(0)], NONE_BUSY, 0), DrainState::Drained);
}

/// Of two balancers one is not read: the other one has fewer connections than come from its address.
#[test]
fn hidden_connection_of_a_readable_balancer_is_in_flight_beside_an_unreadable_one() {
    let mut drain = DrainTracker::new(true);
    for _ in 0..3 {
        let DrainState::Draining { reason, .. } = drain.observe(&[work(0, 1)], NONE_BUSY, 1) else {
            panic!("drained");
        };
        assert_eq!(reason, NotDrainedReason::UnexplainedConnections { count: 1 });
    }
}

#[test]
fn connection_without_a_request_is_silent_after_a_while() {
    let silent_for = |ms| {
        let mut fresh = socket(ms, ms, ms);
        (fresh.info.bytes_received, fresh.info.bytes_sent) = (0, 0);
        count_activities(&[fresh], &[]).0
    };
    assert_eq!(silent_for(4_000), SocketCount { idle: 1, ..SocketCount::default() });
    assert_eq!(silent_for(5_000), SocketCount { idle: 1, silent: 1, ..SocketCount::default() });
    let answered = count_activities(&[socket(60_000, 59_000, 59_000)], &[]).0;
    assert_eq!(answered.silent, 0, "it may be a websocket");
}

#[test]
fn used_connections_and_queued_requests_block_the_drain() {
    let mut drain = DrainTracker::new(false);
    let used = ServerCounters { connections_used: Some(1), ..ServerCounters::default() };
    let queued = ServerCounters { queued: 1, ..ServerCounters::default() };
    assert_eq!(observe(&mut drain, &[Some(used)], NONE_BUSY), Some(NotDrainedReason::Connections));
    assert_eq!(observe(&mut drain, &[Some(queued)], NONE_BUSY), Some(NotDrainedReason::Queued));
}

#[test]
fn unreadable_state_is_not_drained() {
    let mut drain = DrainTracker::new(false);
    for _ in 0..3 {
        assert_eq!(
            observe(&mut drain, &[work(0, 1), None], NONE_BUSY),
            Some(NotDrainedReason::BalancerUnreadable)
        );
        assert_eq!(observe(&mut drain, &[work(0, 1)], None), Some(NotDrainedReason::SocketsUnreadable));
    }
}

#[test]
fn sockets_decide_without_balancers() {
    let mut drain = DrainTracker::new(false);
    assert_eq!(
        observe(&mut drain, &[], Some(SocketCount { busy: 1, ..SocketCount::default() })),
        Some(NotDrainedReason::BusySockets)
    );
    drain.observe(&[], NONE_BUSY, 0);
    assert_eq!(drain.observe(&[], NONE_BUSY, 0), DrainState::Drained);
}

type Observation = (Vec<Option<ServerCounters>>, Option<SocketCount>);

fn seen(balancers: usize) -> impl Strategy<Value = Observation> {
    let few = || prop_oneof![4 => Just(0u64), 1 => 1u64..3];
    let work = (few(), few(), proptest::option::of(few()), 0u64..2).prop_map(
        |(sessions, queued, connections_used, selected_total)| ServerCounters {
            sessions,
            queued,
            connections_used,
            idle_connections: None,
            selected_total,
        },
    );
    let count = (few(), 0u64..9, few()).prop_map(|(busy, idle, tie)| SocketCount {
        busy,
        idle,
        ambiguous: tie,
        silent: 0,
    });
    (
        proptest::collection::vec(proptest::option::weighted(0.9, work), balancers),
        proptest::option::weighted(0.9, count),
    )
}

/// Every balancer and the host report that nothing is in flight.
fn is_quiet((works, sockets): &Observation, blind: bool) -> bool {
    let nothing = |work: &Option<ServerCounters>| {
        work.is_some_and(|w| w.sessions == 0 && w.queued == 0 && w.connections_used.unwrap_or(0) == 0)
    };
    works.iter().all(nothing)
        && sockets.is_some_and(|count| count.busy == 0 && (!blind || count.ambiguous == 0))
}

fn selections((works, _): &Observation) -> Vec<Option<u64>> {
    works.iter().map(|work| work.map(|work| work.selected_total)).collect()
}

proptest! {
    #[test]
    fn drain_ends_exactly_at_second_quiet_observation_without_selection(
        blind in any::<bool>(),
        looks in (0usize..3).prop_flat_map(|balancers| proptest::collection::vec(seen(balancers), 1..12)),
    ) {
        let mut drain = DrainTracker::new(blind);
        let mut before: Option<&Observation> = None;
        for look in &looks {
            let quiet = |look| is_quiet(look, blind || look.0.is_empty());
            let expected = quiet(look)
                && before.is_some_and(|before| quiet(before) && selections(before) == selections(look));
            let state = drain.observe(&look.0, look.1, 0);
            prop_assert_eq!(state == DrainState::Drained, expected, "{:?} then {:?}: {:?}", before, look, state);
            if expected { break; }
            before = Some(look);
        }
    }

    #[test]
    fn unchanged_socket_is_classified_like_a_single_observation(
        ages in (0u64..20, 0u64..20, 0u64..20), received in 0u64..3, sent in 0u64..3
    ) {
        let before = socket(ages.0, ages.1, ages.2);
        let mut now = before.clone();
        now.info.bytes_received += received;
        now.info.bytes_sent += sent;
        let told = classify_socket(&now, Some(&before));
        if received + sent > 0 {
            prop_assert!(!matches!(told, SocketActivity::Idle | SocketActivity::Ambiguous));
        } else {
            prop_assert_eq!(told, classify_socket(&now, None));
        }
    }
}
