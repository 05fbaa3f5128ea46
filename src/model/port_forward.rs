//! The forward of a service from its check port, and its two states.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::ServiceName;
use super::ports::Port;

/// check port -> the port that really answers for main. Its absence is maintenance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Forward {
    pub service: ServiceName,
    pub check: Port,
    pub target: Port,
}

/// Two states; off is maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
