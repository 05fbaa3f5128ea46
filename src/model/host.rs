//! One Linux server.

use std::net::IpAddr;

use serde::Serialize;

use super::name::HostName;

/// A web host of the fleet: where its vhosts answer, and how an operator reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    pub name: HostName,
    /// The address HAProxy connects to. `None`: this machine, whatever its address (a config without `hosts:`).
    pub address: Option<IpAddr>,
    /// What the operator's ssh calls it.
    pub ssh: Option<String>,
}
