//! The owner of a host's maintenance: the operation that took the host out of service and has not put it back.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::roll::RollId;

/// The operation that took a service's main vhost out of service on a host. Until it puts the vhost back, the host refuses
/// the changes of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    pub user: String,
    /// The operator machine; empty where the caller did not send it.
    pub machine: String,
    pub pid: u32,
    /// The roll; absent for a change by hand.
    #[serde(default)]
    pub roll: Option<RollId>,
    /// The command of the roll, the text of `--reason`, or the name of the command.
    pub purpose: String,
    #[schemars(with = "String")]
    pub since: jiff::Timestamp,
    /// The client as the host observed it; absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
}

impl Owner {
    /// Returns whether this is the same operation as another record of it. An operator of an older version sends a record without
    /// the caller.
    pub fn is_same(&self, other: &Self) -> bool {
        let caller = self.caller.clone();
        *self == Self { caller, ..other.clone() }
    }

    /// Describes the owner with its time in the form of the output.
    pub fn describe(&self, format_time: impl FnOnce(jiff::Timestamp) -> String) -> String {
        let Self { user, machine, roll, purpose, since, .. } = self;
        let machine = if machine.is_empty() { String::new() } else { format!(" on {machine}") };
        let operation = roll.as_ref().map_or_else(|| "by hand".to_owned(), |roll| format!("roll {roll}"));
        format!("{user}{machine}, {operation}, since {}: {purpose}", format_time(*since))
    }
}

/// `alice on ops1, roll r20261127-101500-5f3a, since 2026-11-27T10:15:00Z: ./deploy.sh 2.0.0`
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(|since| format!("{since:.0}")))
    }
}
