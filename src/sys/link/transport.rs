//! Opens a connection over each kind of transport.

use std::fmt;
use std::path::PathBuf;

use tokio::net::UnixStream;

use super::connection::Connection;
use super::handshake::{TransportError, start_http};
use super::{ssh, tls};
use crate::model::host::{ConnectConfig, Transport};
use crate::model::name::HostName;
use crate::model::shell::join_words;

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
        reach: Box<ConnectConfig>,
    },
    /// The way `here` has no pipe.
    None,
}

impl Pipe {
    pub(super) fn new(host: &HostName, way: &Transport, reach: &ConnectConfig) -> Self {
        match way {
            Transport::Local => Self::None,
            Transport::Socket(path) => Self::Socket(path.clone()),
            Transport::Ssh(destination) => Self::Ssh {
                destination: destination.clone(),
                options: reach.ssh_options.clone(),
                command: ssh::build_remote_command(host, reach),
            },
            Transport::Tls(address) => Self::Tls { address: address.clone(), reach: Box::new(reach.clone()) },
        }
    }

    pub(super) async fn open(&self) -> Result<Connection, TransportError> {
        let other = |error: std::io::Error| TransportError::Other(error.to_string());
        match self {
            Self::None => Err(TransportError::Other("no way leads there".to_owned())),
            Self::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(other)?;
                start_http(stream, None, None).await
            }
            Self::Ssh { destination, options, command } => ssh::open(destination, options, command).await,
            Self::Tls { address, reach } => {
                let (stream, token) = tls::open(address, reach).await.map_err(TransportError::Other)?;
                start_http(stream, token, None).await
            }
        }
    }
}

impl fmt::Display for Pipe {
    /// A command line where there is one, so that it can be tried by hand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no way"),
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Ssh { destination, options, .. } => {
                let words = options.iter().chain([destination]).map(String::as_str);
                f.write_str(&join_words(["ssh"].into_iter().chain(words)))
            }
            Self::Tls { address, .. } => write!(f, "https://{address}"),
        }
    }
}
