//! The forward of one service on one host, as it should be and as it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::ServiceName;
use super::ports::Port;

/// check port -> the port that really answers for main. Its absence is maintenance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forward {
    pub service: ServiceName,
    pub check: Port,
    pub target: Port,
}

/// Two states; off is maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    On,
    Off,
}

impl Switch {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The recorded desired state of one service's forward on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recorded {
    pub forward: Forward,
    pub switch: Switch,
    /// Whether checks come from this host itself, through the OUTPUT chain.
    pub from_self: bool,
    /// +1 with every recorded change of this service: tells a waiting command that it was overtaken.
    pub generation: u32,
    pub changed_at: jiff::Timestamp,
}
