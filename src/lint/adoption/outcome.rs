//! The fleet that an existing haproxy.cfg describes, and the reasons why it describes none.

use std::net::IpAddr;

use serde::Serialize;

use crate::lint::source::HaproxyCfg;
use crate::model::fleet::Fleet;
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::Port;

/// The operator's choices where haproxy.cfg leaves one.
#[derive(Debug, Clone, Default)]
pub struct AdoptionOptions {
    /// The name of the first service; the name of its backend if absent.
    pub service: Option<ServiceName>,
    /// The first backend is that of the first service, the others become `services`. Empty: the only one of the file.
    pub backends: Vec<String>,
    /// Addresses of hosts whose server lines have a name instead.
    pub addresses: Vec<(HostName, IpAddr)>,
    /// The address of the load balancer itself.
    pub balancer: Option<IpAddr>,
    /// Ports of the first service that are taken instead of those of the file.
    pub check_port: Option<Port>,
    pub backup_port: Option<Port>,
}

/// A fleet as haproxy.cfg describes it, and the lines that the file lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adoption {
    pub fleet: Fleet,
    /// In the order of the files.
    pub changes: Vec<LineChange>,
    /// The changes have the socket at which the state of HAProxy is read.
    pub adds_socket: bool,
    /// Values that are not in the file, and lines that were left out.
    pub notes: Vec<String>,
    /// The files with the changes.
    #[serde(skip)]
    pub changed: HaproxyCfg,
}

/// A change of haproxy.cfg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineChange {
    /// `FILE:LINE` of the old line, or of the line after which the new ones belong.
    pub place: String,
    /// The line that the new ones replace, or the line that they follow.
    pub line: String,
    pub is_replaced: bool,
    pub new: Vec<String>,
    /// The number of the line over all files.
    #[serde(skip)]
    pub(super) number: usize,
}

/// A line that can be understood in several ways, or in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnclearLine {
    /// `FILE:LINE`.
    pub place: String,
    pub reason: String,
    /// `--host NAME=ADDRESS` gives what the line lacks.
    pub lacks_address: bool,
}

/// Why haproxy.cfg describes no fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdoptionError {
    #[error("no backend of the files has a `server` line")]
    NoBackend,
    #[error("there are several backends with `server` lines: {}", quote_all(.found))]
    SeveralBackends { found: Vec<String> },
    #[error("there is no backend `{requested}` with `server` lines; the files have {}", quote_all(.found))]
    UnknownBackend { requested: String, found: Vec<String> },
    #[error("`{found}` is not the name of a service: {reason}")]
    ServiceName { found: String, reason: String },
    #[error("{}", .lines.iter().map(|line| format!("{}: {}", line.place, line.reason)).collect::<Vec<_>>().join("; "))]
    Unclear { lines: Vec<UnclearLine> },
    #[error("the server lines of two services differ by name or address: `{first}` has {}, `{other}` has {}", quote_all(.first_hosts), quote_all(.other_hosts))]
    HostsDiffer { first: String, first_hosts: Vec<String>, other: String, other_hosts: Vec<String> },
    #[error("no port is left for the {purpose}")]
    NoPort { purpose: &'static str },
    #[error("there is no host `{name}`; the files have {}", quote_all(.found))]
    UnknownHost { name: HostName, found: Vec<String> },
}

fn quote_all(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
