//! A connection from outside of this host's network stack, made of single packets.

use std::net::SocketAddr;

use async_trait::async_trait;

use crate::model::packet_proof::PacketAnswer;
use crate::model::ports::Port;

/// Why no packet could be sent, its answer could not be received, or the sockets could not be listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action}: {why}")]
pub struct PacketProbeError {
    pub action: String,
    pub why: String,
}

/// The answers, in the order of the addresses.
pub type PacketAnswers = Vec<Result<PacketAnswer, PacketProbeError>>;

#[async_trait]
pub trait PacketProbe: Send + Sync {
    /// Opens a connection to each address as a client outside of this host does, through PREROUTING, and resets it when it
    /// is accepted. Nothing is left behind.
    async fn connect(&self, addresses: &[SocketAddr]) -> Result<PacketAnswers, PacketProbeError>;

    /// Lists the addresses on which processes of this host listen on a TCP port. A list that cannot be read is an error, never empty.
    fn list_listening_addresses(&self, port: Port) -> Result<Vec<SocketAddr>, PacketProbeError>;
}
