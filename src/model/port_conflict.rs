//! A port on which the configuration of the operator machine and a host or a balancer disagree.

use std::fmt;

use serde::Serialize;

use super::name::{BalancerName, HostName};
use super::ports::Port;

/// A port that another side has otherwise than this configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortConflict {
    pub side: PortSide,
    pub setting: PortSetting,
    pub configured: Port,
    pub found: u16,
}

/// The side that has another port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortSide {
    /// The host's record, or its kernel where nothing is recorded.
    Host(HostName),
    /// A server line of a balancer.
    Line { balancer: BalancerName, line: String },
}

/// A setting below `ports:` in `switchman.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortSetting {
    Check,
    Main,
    Backup,
}

impl fmt::Display for PortSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Check => "check",
            Self::Main => "main",
            Self::Backup => "backup",
        })
    }
}

impl fmt::Display for PortConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { side, setting, configured, found } = self;
        match (side, setting) {
            (PortSide::Host(host), _) => write!(f, "`{host}` has {setting} port {found}")?,
            (PortSide::Line { balancer, line }, PortSetting::Check) => {
                write!(f, "`{balancer}` health-checks `{line}` on port {found}")?;
            }
            (PortSide::Line { balancer, line }, _) => {
                write!(f, "`{balancer}` sends the requests of `{line}` to port {found}")?;
            }
        }
        write!(f, ", and this configuration has `ports.{setting}: {configured}`")
    }
}
