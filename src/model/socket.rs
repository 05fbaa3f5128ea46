//! Established TCP sockets of a port, as the kernel describes them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration;

/// An established server-side socket (`struct inet_diag_msg`, `linux/inet_diag.h`) with the parts of `tcp_info`
/// (`linux/tcp.h`) that distinguish work from idleness. A FIN is not counted as a byte, which the kernel does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The kernel's identifier of this socket, never reused while the machine is up (`idiag_cookie`).
    pub cookie: u64,
    pub peer: SocketAddr,
    /// Bytes received by the kernel and not yet read by the process.
    pub receive_queue: u32,
    /// Bytes written by the process and not yet acknowledged by the peer.
    pub send_queue: u32,
    pub info: TcpInfo,
}

/// Times are "ago" at the moment of the dump, with the kernel tick's resolution (4 ms at HZ=250): smaller is later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Segments sent and not acknowledged (`tcpi_unacked`).
    pub unacked: u32,
    /// Bytes not sent yet (`tcpi_notsent_bytes`).
    pub unsent: u32,
    pub last_data_sent: Duration,
    pub last_data_received: Duration,
    pub last_ack_received: Duration,
    /// Payload bytes received since the connection began (`tcpi_bytes_received`).
    pub bytes_received: u64,
    /// Payload bytes sent, retransmissions included (`tcpi_bytes_sent`).
    pub bytes_sent: u64,
}

/// The activity of a socket, as far as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketActivity {
    /// No request arrived, or every request was answered.
    Idle,
    /// A request arrived and its answer has not begun.
    Request,
    /// The peer is still sending: an upload.
    Upload,
    /// An answer is on its way to the peer.
    Answer,
    /// Both directions moved between two samples: a websocket in use, a streaming answer to a streaming request.
    Exchange,
    /// Last receive and last send fall in one kernel tick, so the kernel cannot show which came later.
    Ambiguous,
}

/// How many sockets of one port do what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SocketCount {
    pub busy: u64,
    pub idle: u64,
    /// Sockets that the kernel cannot classify; work unless a balancer reports otherwise.
    pub ambiguous: u64,
    /// Idle sockets on which no request ever came, for long enough that none is on its way. Nothing is cut with them.
    #[serde(default)]
    pub silent: u64,
}

/// The connections of one peer to a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerConnections {
    pub address: IpAddr,
    pub connections: u64,
    /// Those with a request in flight.
    pub busy: u64,
    /// The time since the last byte of a request or an answer on any of them.
    #[serde(rename = "quiet_for_ms", with = "super::duration::ms")]
    #[schemars(with = "u64")]
    pub quiet_for: Duration,
}

impl fmt::Display for PeerConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, connections, busy, quiet_for } = self;
        let plural = if *connections == 1 { "" } else { "s" };
        let quiet = duration::format(*quiet_for);
        write!(f, "`{address}` has {connections} connection{plural}, {busy} busy, last byte {quiet} ago")
    }
}

impl SocketCount {
    /// Counts the sockets that may have a request in flight.
    pub const fn maybe_busy(&self) -> u64 {
        self.busy + self.ambiguous
    }

    pub const fn total(&self) -> u64 {
        self.busy + self.ambiguous + self.idle
    }
}
