//! When a socket is at work, and when a host is drained.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::model::balancer::ServerWork;
use crate::model::socket::{Activity, Socket, SocketCount};

/// What a server-side socket is doing, from one look and, where there was one, the look before.
///
/// One look tells idle from busy: a socket is busy when it has unread, unsent or unacknowledged bytes, or when it received
/// after it last sent (facts.md: 60 of 60 idle, then 10 of 10 busy through HAProxy; a request in flight was never
/// called idle). Within one kernel tick the order is not known: then a later acknowledgement of the answer means idle, and
/// without one it is a tie.
/// Two looks tell more: what moved since is work, even where the last word was the server's, as in a streaming answer or a
/// websocket; a request that was answered between the looks costs one more look. Not told apart: a paused streaming
/// answer, a quiet websocket and HTTP/2; HAProxy's own counters know those.
pub fn activity(now: &Socket, before: Option<&Socket>) -> Activity {
    let moved = |field: fn(&Socket) -> u64| before.is_some_and(|before| field(now) > field(before));
    match (moved(|socket| socket.info.bytes_received), moved(|socket| socket.info.bytes_sent)) {
        (true, true) => Activity::Exchange,
        (true, false) => Activity::Upload,
        (false, true) => Activity::Answer,
        (false, false) => at_rest(now),
    }
}

/// The rule of crates.md 2.4. `Tie` where the tick hides the order.
fn at_rest(socket: &Socket) -> Activity {
    let info = &socket.info;
    if socket.send_queue > 0 || info.unsent > 0 || info.unacked > 0 {
        return Activity::Answer;
    }
    if socket.receive_queue > 0 {
        return Activity::Request;
    }
    if info.bytes_received == 0 {
        return Activity::Idle;
    }
    if info.bytes_sent == 0 || info.last_data_received < info.last_data_sent {
        return Activity::Request;
    }
    if info.last_data_received > info.last_data_sent || info.last_ack_received < info.last_data_received {
        return Activity::Idle;
    }
    Activity::Tie
}

/// How long a tie may be a request in flight; longer requests than this are not told from idleness in that one case.
const LONGEST_REQUEST: Duration = Duration::from_secs(15);

/// Counts a look: how many are busy, idle or tied, and what they do.
pub fn count(now: &[Socket], before: &[Socket]) -> (SocketCount, BTreeMap<Activity, u64>) {
    let earlier: BTreeMap<u64, &Socket> = before.iter().map(|socket| (socket.cookie, socket)).collect();
    let mut total = SocketCount::default();
    let mut by_activity = BTreeMap::new();
    for socket in now {
        let activity = match activity(socket, earlier.get(&socket.cookie).copied()) {
            // Time does not tell which of two events in one tick came later; only that nobody waits this long.
            Activity::Tie if socket.info.last_data_received > LONGEST_REQUEST => Activity::Idle,
            activity => activity,
        };
        *by_activity.entry(activity).or_default() += 1;
        match activity {
            Activity::Idle => total.idle += 1,
            Activity::Tie => total.tie += 1,
            _ => total.busy += 1,
        }
    }
    (total, by_activity)
}

/// Fed with looks until the host is drained. Two quiet looks in a row make a drain, with no server selection between.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Some balancer cannot be read by configuration, so nobody can say that a tie is not a request of its.
    blind: bool,
    /// `selected_total` per balancer at the last look, when that look was quiet.
    quiet: Option<Vec<u64>>,
}

/// Where a drain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainState {
    /// `in_flight`: requests by the balancers' counters, all together; `busy_sockets`: connections at work on the host.
    Draining {
        in_flight: u64,
        busy_sockets: u64,
        why: Why,
    },
    Drained,
}

/// The first reason found why a host does not count as drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    BalancerUnread,
    SocketsUnread,
    Sessions,
    Queued,
    /// `used_conn_cur` alone: a connection that HAProxy says is in use, and no session with it.
    Connections,
    BusySockets,
    StillSelected,
    SecondLook,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BalancerUnread => "a balancer cannot be read",
            Self::SocketsUnread => "the host's sockets cannot be read",
            Self::Sessions => "HAProxy still counts sessions (scur)",
            Self::Queued => "HAProxy still holds requests in the server's queue (qcur)",
            Self::Connections => "HAProxy still counts used connections (used_conn_cur)",
            Self::BusySockets => "connections on the host are still at work",
            Self::StillSelected => "a balancer still selects the server",
            Self::SecondLook => "quiet once, not yet twice",
        })
    }
}

impl Drain {
    /// `blind`: whether there is a balancer that cannot be read by configuration, or none at all.
    pub const fn new(blind: bool) -> Self {
        Self { blind, quiet: None }
    }

    /// One look. `works`: the host's main server on every balancer that can be read by configuration, `None` where it
    /// could not be read now (never drained then). `sockets`: the main vhost's data port, `None` where not known.
    pub fn look(&mut self, works: &[Option<ServerWork>], sockets: Option<SocketCount>) -> DrainState {
        let sum = |field: fn(&ServerWork) -> u64| works.iter().flatten().map(field).sum::<u64>();
        let in_flight = sum(ServerWork::in_flight);
        // What HAProxy's counters say of a tie is exact; without those of every HAProxy it may be a request.
        let ties = |count: &SocketCount| if self.blind || works.is_empty() { count.tie } else { 0 };
        let busy_sockets = sockets.map_or(0, |count| count.busy + ties(&count));
        let selected: Option<Vec<u64>> =
            works.iter().map(|work| work.map(|work| work.selected_total)).collect();
        let last = self.quiet.take();
        let why = match (&selected, sockets) {
            (None, _) => Why::BalancerUnread,
            (_, None) => Why::SocketsUnread,
            _ if sum(|work| work.sessions) > 0 => Why::Sessions,
            _ if sum(|work| work.queued) > 0 => Why::Queued,
            _ if in_flight > 0 => Why::Connections,
            _ if busy_sockets > 0 => Why::BusySockets,
            (Some(selected), _) => {
                let state = match &last {
                    Some(last) if last == selected => return DrainState::Drained,
                    Some(_) => Why::StillSelected,
                    None => Why::SecondLook,
                };
                self.quiet = Some(selected.clone());
                state
            }
        };
        DrainState::Draining { in_flight, busy_sockets, why }
    }
}

#[cfg(test)]
mod tests;
