//! The forward of one service on one host, as it should be and as it is.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::history::Actor;
use super::name::ServiceName;
use super::ports::Port;
use super::rules::{Family, Transaction, Variant};

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

/// The recorded desired state of one service's forward on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recorded {
    pub forward: Forward,
    pub switch: Switch,
    /// Whether checks come from this host itself, through the OUTPUT chain.
    pub from_self: bool,
    /// +1 with every recorded change of this service: tells a waiting command that it was overtaken.
    pub generation: u32,
    #[schemars(with = "String")]
    pub changed_at: jiff::Timestamp,
}

/// A change that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Intent {
    pub forward: Forward,
    pub switch: Switch,
    pub from_self: bool,
    pub actor: Actor,
    /// The command, as the history calls it.
    pub action: String,
    /// What was overridden by `--force`, or which roll it belongs to; empty otherwise.
    pub detail: String,
}

/// What a change came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// What was committed to the kernel; empty when it was already so.
    pub transactions: Vec<Transaction>,
    /// The record's generation after the change.
    pub generation: u32,
    /// Why the history does not say that the change, which is made and recorded, ended well.
    pub unfinished_history: Option<String>,
}

/// The forward of one service in one address family, as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelForward {
    pub family: Family,
    pub variant: Variant,
    pub forward: Option<Forward>,
    /// Whether packets reach our chain at all.
    pub hooked: bool,
}

impl KernelForward {
    pub fn switch(&self) -> Switch {
        if self.forward.is_some() && self.hooked { Switch::On } else { Switch::Off }
    }
}
