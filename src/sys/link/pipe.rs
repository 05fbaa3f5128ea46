//! From a way to an open connection.

use std::fmt;
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::ssh::Complaints;
use super::{Body, Connection, reason, ssh, tls};
use crate::model::host::{Reach, Way};
use crate::model::name::HostName;

/// How bytes get to a host.
#[derive(Debug, Clone)]
pub(super) enum Pipe {
    Socket(PathBuf),
    Ssh {
        destination: String,
        options: Vec<String>,
        command: Vec<String>,
    },
    Tls {
        address: String,
        reach: Box<Reach>,
    },
    /// The way `here` has no pipe.
    None,
}

/// Why there is no connection.
pub(super) enum PipeError {
    /// Another switchman than this one understands.
    Skew {
        theirs: String,
        their_api: String,
    },
    Other(String),
}

impl Pipe {
    pub(super) fn new(host: &HostName, way: &Way, reach: &Reach) -> Self {
        match way {
            Way::Here => Self::None,
            Way::Socket(path) => Self::Socket(path.clone()),
            Way::Ssh(destination) => Self::Ssh {
                destination: destination.clone(),
                options: reach.ssh_options.clone(),
                command: ssh::command(host, reach),
            },
            Way::Tls(address) => Self::Tls { address: address.clone(), reach: Box::new(reach.clone()) },
        }
    }

    pub(super) async fn open(&self) -> Result<Connection, PipeError> {
        let other = |error: std::io::Error| PipeError::Other(error.to_string());
        match self {
            Self::None => Err(PipeError::Other("no way leads there".to_owned())),
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(other)?;
                talk(stream, None, None).await
            }
            Self::Ssh { destination, options, command } => ssh::open(destination, options, command).await,
            Self::Tls { address, reach } => {
                let (stream, token) = tls::open(address, reach).await.map_err(PipeError::Other)?;
                talk(stream, token, None).await
            }
        }
    }
}

/// HTTP over these bytes, until the connection is dropped.
pub(super) async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    token: Option<String>,
    complaints: Option<Complaints>,
) -> Result<Connection, PipeError> {
    let shaken = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|error| PipeError::Other(reason(&error)))?;
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            // What goes wrong is told to the request.
            _ = connection => {}
            _ = ended => {}
        }
    });
    Ok(Connection { sender, token, complaints, used: Instant::now(), _end: end })
}

impl fmt::Display for Pipe {
    /// A command line where there is one, so that it can be tried by hand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no way"),
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Ssh { destination, options, .. } => {
                f.write_str("ssh ")?;
                for option in options {
                    write!(f, "{option} ")?;
                }
                f.write_str(destination)
            }
            Self::Tls { address, .. } => write!(f, "https://{address}"),
        }
    }
}
