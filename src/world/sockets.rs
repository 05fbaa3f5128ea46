//! The kernel's view of connections.

use async_trait::async_trait;

use crate::model::ports::Port;
use crate::model::socket::Socket;

/// The kernel would not list sockets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot list the TCP sockets of port {port} through sock_diag: {reason}")]
pub struct SocketsError {
    pub port: Port,
    pub reason: String,
}

#[async_trait]
pub trait SocketTable: Send + Sync {
    /// The established server-side sockets of a local port, IPv4 and IPv6, each once, in the order of their cookies;
    /// closed ones too while bytes of an answer have not arrived.
    async fn list_established(&self, port: Port) -> Result<Vec<Socket>, SocketsError>;

    /// Closes server-side sockets of a local port with a reset (SOCK_DESTROY, sock_diag(7)). Returns how many were closed.
    /// A socket that no longer exists is not counted.
    async fn close(&self, port: Port, sockets: &[Socket]) -> Result<usize, SocketsError>;
}
