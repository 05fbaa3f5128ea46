//! A Linux server, and the transports that reach it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::name::HostName;
use super::ssh::SshFiles;

/// A web host of the fleet: where its vhosts answer, and how an operator reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub name: HostName,
    /// The address HAProxy connects to. `None`: this machine at any of its addresses (a config without `hosts:`).
    pub address: Option<IpAddr>,
    /// How it is driven from elsewhere.
    pub transport: Transport,
}

/// The transport between an operator and a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Nothing: this machine is the host.
    Local,
    /// The unix socket of an agent on this machine.
    Socket(PathBuf),
    /// The destination that the operator's ssh uses for the host.
    Ssh(String),
    /// HOST:PORT of an agent that speaks TLS.
    Tls(String),
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("this machine"),
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Ssh(destination) => write!(f, "ssh {destination}"),
            Self::Tls(address) => write!(f, "https://{address}"),
        }
    }
}

/// The operator's own programs and keys for connections to the hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConnectConfig {
    /// Put before the destination on ssh's command line.
    pub ssh_options: Vec<String>,
    /// What the environment names for ssh; its options are in `ssh_options` too.
    pub ssh_files: SshFiles,
    /// Command line of switchman on the host, as the remote shell finds it; `{host}` is replaced by the host's name. Empty: `switchman`.
    pub remote_switchman: Vec<String>,
    /// Certificate authorities that the hosts' certificates are checked against (PEM).
    pub ca: Option<PathBuf>,
    /// This operator's own certificate and key (PEM), for agents that require one.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Holds the bearer token for agents that want one.
    pub token_file: Option<PathBuf>,
}
