//! A server line of a balancer whose address is not one of the host that the line is named after.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::name::{BalancerName, HostName};

/// An address of a server line that does not belong to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressConflict {
    pub host: HostName,
    pub balancer: BalancerName,
    /// `backend/server`.
    pub line: String,
    pub found: IpAddr,
    /// The other host of the configuration that has this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_on: Option<HostName>,
    /// The configured address, and those that the host reports.
    pub known: Vec<IpAddr>,
}

impl fmt::Display for AddressConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, balancer, line, found, found_on, known } = self;
        write!(f, "`{balancer}` sends the requests of `{line}` to `{found}`")?;
        if let Some(other) = found_on {
            write!(f, " of `{other}`")?;
        }
        let known = known.iter().map(|address| format!("`{address}`")).collect::<Vec<_>>().join(", ");
        write!(f, ", and `{host}` has {known}")
    }
}
