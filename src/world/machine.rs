//! Facts about the machine switchman runs on, for `check` and for finding out which host it is.

use std::net::IpAddr;

use crate::model::boot::StartedBy;
use crate::model::caller::Caller;
use crate::model::ports::{ClientPorts, Port};

/// A fact that the machine did not give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read `{subject}`: {reason}")]
pub struct MachineError {
    pub subject: String,
    pub reason: String,
}

/// A process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListeningProcess {
    pub pid: u32,
    pub name: String,
}

pub trait Machine: Send + Sync {
    fn host_name(&self) -> Result<String, MachineError>;

    /// Addresses of all interfaces, loopback and link-local left out.
    fn list_addresses(&self) -> Result<Vec<IpAddr>, MachineError>;

    /// Whether this process holds `CAP_NET_ADMIN` (capabilities(7)).
    fn can_change_rules(&self) -> Result<bool, MachineError>;

    /// Who listens on a TCP port of any address; all processes that share the socket.
    fn list_listeners(&self, port: Port) -> Result<Vec<ListeningProcess>, MachineError>;

    /// The ports that the kernel gives to clients; `None` where it does not show them.
    fn read_client_ports(&self) -> Option<ClientPorts>;

    /// What started a process; `None` where systemd does not run the machine, or does not show it.
    fn find_starter(&self, pid: u32) -> Option<StartedBy>;

    /// Whether the agent of the installed package answers; `None` where no unit of it is installed.
    fn find_installed_agent(&self) -> Option<bool>;

    /// The user who runs this process, as the kernel reports it.
    fn observe_caller(&self) -> Caller;

    /// When the machine was booted.
    fn read_boot_time(&self) -> Result<jiff::Timestamp, MachineError>;
}
