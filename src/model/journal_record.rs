//! The entries and the lock of a fleet as a journal store keeps them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lock::Holder;
use super::name::HostName;

/// Which of a fleet's journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Log {
    Rolls,
    Promotions,
    /// The ends of outputs of failed commands, by roll. Only a journal that several machines share has them.
    Outputs,
}

impl Log {
    /// The name of the log where a store keeps both in one place.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rolls => "rolls",
            Self::Promotions => "promotions",
            Self::Outputs => "outputs",
        }
    }
}

/// An entry as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoredEntry {
    /// The roll or the promotion.
    pub id: String,
    #[schemars(with = "String")]
    pub at: jiff::Timestamp,
    /// `None`: about the roll or promotion as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// What happened, as JSON text.
    pub what: String,
}

/// The end of the output of a failed command or hook, for operators on other machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedOutput {
    pub at: jiff::Timestamp,
    /// `None`: of a hook of the whole roll.
    pub host: Option<HostName>,
    pub lines: Vec<String>,
}

/// The lock as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockRecord {
    pub holder: Holder,
    /// Counted up by the holder.
    pub heartbeats: u64,
}
