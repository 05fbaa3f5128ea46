//! The kernel's memory of translated connections (conntrack).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::ports::Port;

/// The kernel would not list its connections.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot list the connections that came by port {port} through conntrack: {reason}")]
pub struct FlowsError {
    pub port: Port,
    pub reason: String,
}

/// The kernel would not track the open connections of a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot have the kernel track the open connections to port {port}: {reason}")]
pub struct TrackError {
    pub port: Port,
    pub reason: String,
}

#[async_trait]
pub trait ConnectionTracker: Send + Sync {
    /// The peers, as the listening process sees them, of the TCP connections that were made to `port` of this host and
    /// routed to `target`. IPv4 and IPv6; a mapped IPv4 address is given as IPv4.
    async fn list_peers(&self, port: Port, target: Port) -> Result<BTreeSet<SocketAddr>, FlowsError>;

    /// How long the kernel remembers the target of a connection that was reset from this side. During that time, a new
    /// connection from the same address and port is routed to the same target: only a FIN, or a reset from the other side,
    /// makes the kernel evaluate the rules again (`nf_conntrack_proto_tcp.c`, SYN in state CLOSE).
    fn conntrack_timeout(&self) -> Duration;

    /// Has the kernel track every open connection to a port of this host that it does not track yet, as a connection that is
    /// answered from that port. Returns how many those were. Tracking begins with the first rule that needs it, and the kernel
    /// takes the next packet of a connection that it does not track for a new connection: a redirect of the port would then
    /// send it to another process, which answers with a reset.
    async fn track_open(&self, port: Port) -> Result<usize, TrackError>;
}
