//! The connections of a port by their peers: who holds a drain, and what a balancer should know of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::classify_socket;
use crate::model::socket::{PeerConnections, Socket, SocketActivity};

/// The most peers that a message has.
const MAX_PEERS: usize = 32;

/// Lists the peers of a port's connections, those with the most connections first. `before` are the same sockets at the last
/// look.
pub fn list_peers(now: &[Socket], before: &[Socket]) -> Vec<PeerConnections> {
    let earlier: BTreeMap<u64, &Socket> = before.iter().map(|socket| (socket.cookie, socket)).collect();
    let mut peers: BTreeMap<IpAddr, PeerConnections> = BTreeMap::new();
    for socket in now {
        let address = socket.peer.ip().to_canonical();
        let quiet_for = socket.info.last_data_received.min(socket.info.last_data_sent);
        let activity = classify_socket(socket, earlier.get(&socket.cookie).copied());
        let peer =
            peers.entry(address).or_insert(PeerConnections { address, connections: 0, busy: 0, quiet_for });
        peer.connections += 1;
        peer.busy += u64::from(!matches!(activity, SocketActivity::Idle | SocketActivity::Ambiguous));
        peer.quiet_for = peer.quiet_for.min(quiet_for);
    }
    let mut peers: Vec<PeerConnections> = peers.into_values().collect();
    peers.sort_by_key(|peer| std::cmp::Reverse(peer.connections));
    peers.truncate(MAX_PEERS);
    peers
}

/// The connections that a balancer at an address reports to have; `None` where it does not report them.
pub type Reported = (IpAddr, Option<u64>);

/// Counts the connections from the addresses of balancers that these do not report. Connections from other addresses may be those
/// of a balancer that is not read.
pub fn count_hidden(reported: &[Reported], peers: &[PeerConnections]) -> u64 {
    peers.iter().filter_map(|peer| count_hidden_of(reported, peer)).sum()
}

/// Lists the peers whose connections no balancer reports.
pub fn list_unreported(reported: &[Reported], peers: &[PeerConnections]) -> Vec<PeerConnections> {
    let is_unreported = |peer: &&PeerConnections| count_hidden_of(reported, peer) != Some(0);
    peers.iter().filter(is_unreported).cloned().collect()
}

/// `None` where the peer is no balancer that reports its connections.
fn count_hidden_of(reported: &[Reported], peer: &PeerConnections) -> Option<u64> {
    let of_peer: Vec<Option<u64>> =
        reported.iter().filter(|(address, _)| *address == peer.address).map(|(_, count)| *count).collect();
    if of_peer.is_empty() {
        return None;
    }
    let all: u64 = of_peer.into_iter().sum::<Option<u64>>()?;
    Some(peer.connections.saturating_sub(all))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(address: &str, connections: u64) -> PeerConnections {
        let quiet_for = Duration::from_secs(12);
        PeerConnections { address: address.parse().unwrap(), connections, busy: 0, quiet_for }
    }

    #[test]
    fn connections_of_a_readable_balancer_are_compared_with_its_own_count() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let peers = [peer("10.0.0.2", 31), peer("10.0.0.3", 9), peer("10.0.0.50", 2)];
        let counted = [(address("10.0.0.2"), Some(30))];
        assert_eq!(count_hidden(&counted, &peers), 1, "a quiet websocket of its old process");
        assert_eq!(count_hidden(&[(address("10.0.0.2"), Some(31))], &peers), 0);
        let two = [(address("10.0.0.2"), Some(15)), (address("10.0.0.2"), Some(16))];
        assert_eq!(count_hidden(&two, &peers), 0, "two lines of one balancer");
        let unknown = [(address("10.0.0.2"), Some(1)), (address("10.0.0.2"), None)];
        assert_eq!(count_hidden(&unknown, &peers), 0, "one that does not report");
        let names: Vec<String> = list_unreported(&[(address("10.0.0.2"), Some(31))], &peers)
            .iter()
            .map(|peer| peer.address.to_string())
            .collect();
        assert_eq!(names, ["10.0.0.3", "10.0.0.50"]);
    }

    #[test]
    fn peer_is_one_phrase() {
        assert_eq!(
            peer("10.0.0.50", 2).to_string(),
            "`10.0.0.50` has 2 connections, 0 busy, last byte 12s ago"
        );
    }
}
