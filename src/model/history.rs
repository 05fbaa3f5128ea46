//! The append-only record of the changes to a host.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::ServiceName;

/// Ties the entry for the beginning of a change to the entry for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct OperationId(pub i64);

/// The actor of a change: user, terminal or parent as far as known, process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Actor {
    /// The person: `SUDO_USER` where set, else the user of the process.
    pub user: String,
    pub pid: u32,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.user, self.pid)
    }
}

/// How far a change got. A `Began` with no later entry of the same operation was interrupted (kill -9, power loss).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Began,
    Done,
    Failed,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// An entry of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    pub operation: OperationId,
    #[schemars(with = "String")]
    pub at: jiff::Timestamp,
    pub actor: Actor,
    pub service: ServiceName,
    /// The command: `enable-forward`, `disable-forward`, `restore`.
    pub action: String,
    pub phase: Phase,
    /// The overridden safety checks, or the cause of the failure; empty if there is neither.
    pub detail: String,
}
