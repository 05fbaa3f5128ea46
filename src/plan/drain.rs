//! When a socket is at work, and when a host is drained.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::model::balancer::ServerCounters;
use crate::model::plural::Count;
use crate::model::socket::{Socket, SocketActivity, SocketCount};

pub mod peers;

/// Classifies what a server-side socket is doing, from one snapshot and, where there was one, the snapshot before.
///
/// One snapshot separates idle from busy: a socket is busy when it has unread, unsent or unacknowledged bytes, or when it
/// received after it last sent (docs/design/measurements.md#m28: 60 of 60 idle, then 10 of 10 busy through HAProxy; a request in
/// flight was never called idle). Within one kernel tick the order is not known: then a later acknowledgement of the answer
/// means idle, and without one it is a tie.
/// Two snapshots show more: bytes that moved since are work, even where the server sent last, as in a streaming answer or a
/// websocket; a request that was answered between the snapshots costs one more. Not distinguished: a paused streaming
/// answer, a quiet websocket and HTTP/2; HAProxy's own counters know those.
pub fn classify_socket(now: &Socket, before: Option<&Socket>) -> SocketActivity {
    let moved = |field: fn(&Socket) -> u64| before.is_some_and(|before| field(now) > field(before));
    match (moved(|socket| socket.info.bytes_received), moved(|socket| socket.info.bytes_sent)) {
        (true, true) => SocketActivity::Exchange,
        (true, false) => SocketActivity::Upload,
        (false, true) => SocketActivity::Answer,
        (false, false) => classify_snapshot(now),
    }
}

/// Classifies one snapshot (docs/design/measurements.md#m28). `Ambiguous` where the tick hides the order.
fn classify_snapshot(socket: &Socket) -> SocketActivity {
    let info = &socket.info;
    if socket.send_queue > 0 || info.unsent > 0 || info.unacked > 0 {
        return SocketActivity::Answer;
    }
    if socket.receive_queue > 0 {
        return SocketActivity::Request;
    }
    if info.bytes_received == 0 {
        return SocketActivity::Idle;
    }
    if info.bytes_sent == 0 || info.last_data_received < info.last_data_sent {
        return SocketActivity::Request;
    }
    if info.last_data_received > info.last_data_sent || info.last_ack_received < info.last_data_received {
        return SocketActivity::Idle;
    }
    SocketActivity::Ambiguous
}

/// How long a tie may be a request in flight; longer requests than this are taken for idleness in that one case.
const MAX_AMBIGUOUS_AGE: Duration = Duration::from_secs(15);
/// A connection that has been open for this long without a request has none on its way.
const SILENT_AGE: Duration = Duration::from_secs(5);

/// Whether no byte of a request ever came on a connection that is not new. Its last acknowledgement is that of the handshake.
fn is_silent(socket: &Socket) -> bool {
    let info = &socket.info;
    info.bytes_received == 0 && info.bytes_sent == 0 && info.last_ack_received >= SILENT_AGE
}

/// Counts a look: how many are busy, idle or tied, and what they do.
pub fn count_activities(now: &[Socket], before: &[Socket]) -> (SocketCount, BTreeMap<SocketActivity, u64>) {
    let earlier: BTreeMap<u64, &Socket> = before.iter().map(|socket| (socket.cookie, socket)).collect();
    let mut total = SocketCount::default();
    let mut by_activity = BTreeMap::new();
    for socket in now {
        let activity = match classify_socket(socket, earlier.get(&socket.cookie).copied()) {
            // Time does not show which of two events in one tick came later; only that no request waits this long.
            SocketActivity::Ambiguous if socket.info.last_data_received > MAX_AMBIGUOUS_AGE => {
                SocketActivity::Idle
            }
            activity => activity,
        };
        *by_activity.entry(activity).or_default() += 1;
        match activity {
            SocketActivity::Idle => {
                total.idle += 1;
                total.silent += u64::from(is_silent(socket));
            }
            SocketActivity::Ambiguous => total.ambiguous += 1,
            _ => total.busy += 1,
        }
    }
    (total, by_activity)
}

/// Fed with looks until the host is drained. Two quiet looks in a row make a drain, with no server selection between.
#[derive(Debug, Clone)]
pub struct DrainTracker {
    /// Some balancer cannot be read by configuration, so a tie may be one of that balancer's requests.
    has_unreadable_balancer: bool,
    /// `selected_total` per balancer at the last look, when that look was quiet.
    last_quiet_selections: Option<Vec<u64>>,
}

/// The state of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainState {
    /// `in_flight`: requests by the balancers' counters, all together; `busy_sockets`: connections at work on the host.
    Draining {
        in_flight: u64,
        busy_sockets: u64,
        reason: NotDrainedReason,
    },
    Drained,
}

/// The first reason found why a host does not count as drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDrainedReason {
    BalancerUnreadable,
    SocketsUnreadable,
    Sessions,
    Queued,
    /// `used_conn_cur` alone: a connection that HAProxy reports as in use, and no session with it.
    Connections,
    BusySockets,
    /// The host has more established connections than all balancers together: those of an old HAProxy process that was
    /// reloaded, or of a client that does not come by a balancer.
    UnexplainedConnections {
        count: u64,
    },
    StillSelected,
    AwaitingSecondObservation,
}

impl fmt::Display for NotDrainedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnexplainedConnections { count } => {
                let connections = Count(*count, "connection");
                return write!(
                    f,
                    "{connections} that HAProxy does not account for: of an old process after a reload, of `http-reuse never`, or of another client"
                );
            }
            Self::BalancerUnreadable => "a balancer cannot be read",
            Self::SocketsUnreadable => "the host's sockets cannot be read",
            Self::Sessions => "HAProxy still counts sessions (scur)",
            Self::Queued => "HAProxy still holds requests in the server's queue (qcur)",
            Self::Connections => "HAProxy still counts used connections (used_conn_cur)",
            Self::BusySockets => "connections on the host are still at work",
            Self::StillSelected => "a balancer still selects the server",
            Self::AwaitingSecondObservation => "quiet once, not yet twice",
        })
    }
}

impl DrainTracker {
    /// `blind`: whether there is a balancer that cannot be read by configuration, or none at all.
    pub const fn new(has_unreadable_balancer: bool) -> Self {
        Self { has_unreadable_balancer, last_quiet_selections: None }
    }

    /// Records one observation. `works`: the host's main server on every balancer that can be read by configuration, `None`
    /// where it could not be read now (never drained then). `sockets`: the main vhost's data port, `None` where not known.
    /// `hidden`: the connections of `peers::count_hidden`, which decide where not every balancer reports its connections.
    pub fn observe(
        &mut self,
        works: &[Option<ServerCounters>],
        sockets: Option<SocketCount>,
        hidden: u64,
    ) -> DrainState {
        let sum = |field: fn(&ServerCounters) -> u64| works.iter().flatten().map(field).sum::<u64>();
        let in_flight = sum(ServerCounters::in_flight);
        // HAProxy's counters decide a tie exactly; without those of every HAProxy it may be a request.
        let ties = |count: &SocketCount| {
            if self.has_unreadable_balancer || works.is_empty() { count.ambiguous } else { 0 }
        };
        let busy_sockets = sockets.map_or(0, |count| count.busy + ties(&count));
        let selected: Option<Vec<u64>> =
            works.iter().map(|work| work.map(|work| work.selected_total)).collect();
        let last = self.last_quiet_selections.take();
        let reason = match (&selected, sockets) {
            (None, _) => NotDrainedReason::BalancerUnreadable,
            (_, None) => NotDrainedReason::SocketsUnreadable,
            _ if sum(|work| work.sessions) > 0 => NotDrainedReason::Sessions,
            _ if sum(|work| work.queued) > 0 => NotDrainedReason::Queued,
            _ if in_flight > 0 => NotDrainedReason::Connections,
            _ if busy_sockets > 0 => NotDrainedReason::BusySockets,
            (_, Some(sockets)) if self.count_unexplained(works, sockets, hidden) > 0 => {
                let count = self.count_unexplained(works, sockets, hidden);
                NotDrainedReason::UnexplainedConnections { count }
            }
            (Some(selected), _) => {
                let state = match &last {
                    Some(last) if last == selected => return DrainState::Drained,
                    Some(_) => NotDrainedReason::StillSelected,
                    None => NotDrainedReason::AwaitingSecondObservation,
                };
                self.last_quiet_selections = Some(selected.clone());
                state
            }
        };
        let unexplained = match reason {
            NotDrainedReason::UnexplainedConnections { count } => count,
            _ => 0,
        };
        DrainState::Draining { in_flight: in_flight + unexplained, busy_sockets, reason }
    }

    /// Counts the established connections of the host that the balancers do not have. A quiet websocket of an old HAProxy
    /// process is one: the new process does not count it, and its socket looks idle. `hidden` where not every balancer reports
    /// its connections.
    fn count_unexplained(&self, works: &[Option<ServerCounters>], sockets: SocketCount, hidden: u64) -> u64 {
        if self.has_unreadable_balancer || works.is_empty() {
            return hidden;
        }
        let explained: Option<u64> = works.iter().map(|work| work.as_ref()?.connections()).sum();
        let all = sockets.total().saturating_sub(sockets.silent);
        explained.map_or(hidden, |explained| all.saturating_sub(explained))
    }
}

#[cfg(test)]
mod tests;
