//! The start of HTTP on a byte stream, and the reasons why there is no connection.

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::{Body, Connection, describe_error};
use crate::model::ssh::SshAttempt;
use crate::sys::ssh::stderr::SshStderr;

/// Why there is no connection.
pub(super) enum TransportError {
    /// Another switchman than this one understands.
    Skew {
        their_version: String,
        their_api: String,
    },
    /// A call of ssh that gave no connection.
    Ssh {
        reason: String,
        attempt: Box<SshAttempt>,
    },
    Other(String),
}

/// HTTP over these bytes, until the connection is dropped.
pub(super) async fn start_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    token: Option<String>,
    ssh_stderr: Option<SshStderr>,
) -> Result<Connection, TransportError> {
    let shaken = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|error| TransportError::Other(describe_error(&error)))?;
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            // The request receives the error of a failure.
            _ = connection => {}
            _ = ended => {}
        }
    });
    Ok(Connection { sender, token, ssh_stderr, last_used: Instant::now(), _close: end })
}
