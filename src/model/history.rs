//! The append-only record of the changes to a host.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::name::ServiceName;
use super::owner::Owner;
use super::roll::RollId;

/// Ties the entry for the beginning of a change to the entry for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct OperationId(pub i64);

/// The actor of a change, as the actor's own process reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Actor {
    /// The person: `SUDO_USER` where set, else the user of the process.
    pub user: String,
    pub pid: u32,
    /// The operator machine's host name; empty where the caller did not send it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// The roll that the change belongs to; absent for a change by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roll: Option<RollId>,
    /// The purpose for people: the command of a roll, or the text of `--reason`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// Whether the operator takes hosts over from other owners: `--force --reason TEXT`. Hosts receive `replaces` instead.
    #[serde(skip)]
    pub takes_over: bool,
    /// The recorded owners that the change may replace, as they were read from the host. An owner who came since is not
    /// replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<Owner>,
    /// Whether the host itself makes the change, to repair what is recorded. No client can send this.
    #[serde(skip)]
    pub is_host: bool,
    /// The client of the change, as the host observed it; `None` for a change that the host makes by itself. No client can send
    /// this.
    #[serde(skip)]
    pub caller: Option<Caller>,
}

impl Actor {
    pub fn new(user: impl Into<String>, pid: u32) -> Self {
        Self {
            user: user.into(),
            pid,
            machine: String::new(),
            roll: None,
            purpose: String::new(),
            takes_over: false,
            replaces: vec![],
            is_host: false,
            caller: None,
        }
    }

    /// Returns the claim without the observed client, which an entry has beside it.
    #[must_use]
    pub fn without_caller(&self) -> Self {
        Self { caller: None, ..self.clone() }
    }

    /// Returns the user, with the operator machine where it is known: `ann on ops1`.
    pub fn name(&self) -> String {
        match self.machine.as_str() {
            "" => self.user.clone(),
            machine => format!("{} on {machine}", self.user),
        }
    }

    /// Returns the actor with the reason of `--reason`, which takes a host over with `--force`.
    #[must_use]
    pub fn with_reason(self, reason: Option<&str>, force: bool) -> Self {
        let takes_over = force && reason.is_some();
        Self { purpose: reason.unwrap_or_default().to_owned(), takes_over, ..self }
    }

    /// Returns the owner that the actor becomes; `action` is the purpose of an actor who gives none.
    pub fn become_owner(&self, action: &str, now: jiff::Timestamp) -> Owner {
        let purpose = if self.purpose.is_empty() { action } else { &self.purpose };
        Owner {
            user: self.user.clone(),
            machine: self.machine.clone(),
            pid: self.pid,
            roll: self.roll.clone(),
            purpose: purpose.to_owned(),
            since: now,
            caller: self.caller.clone(),
        }
    }

    /// Returns whether the actor continues the operation of the owner: the same roll, from whichever operator machine, or the
    /// same person at the same machine by hand.
    pub fn continues(&self, owner: &Owner) -> bool {
        match &owner.roll {
            Some(_) => owner.roll == self.roll,
            None => self.roll.is_none() && self.is_person_of(owner),
        }
    }

    /// Returns whether the actor may change what the owner took out of service. A person may also start a roll over a maintenance
    /// of their own.
    pub fn may_change(&self, owner: &Owner) -> bool {
        self.is_host || self.continues(owner) || (owner.roll.is_none() && self.is_person_of(owner))
    }

    fn is_person_of(&self, owner: &Owner) -> bool {
        (&owner.user, &owner.machine) == (&self.user, &self.machine)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name(), self.pid)
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

/// The action of a program that a client ran by `POST /v1/run`.
pub const RUN_ACTION: &str = "run";

/// An entry of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    pub operation: OperationId,
    #[schemars(with = "String")]
    pub at: jiff::Timestamp,
    /// The actor as the client claims.
    pub actor: Actor,
    /// The client as the host observed it; absent for a change that the host made by itself, and in entries of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    pub service: ServiceName,
    /// The command: `enable-forward`, `disable-forward`, `restore`.
    pub action: String,
    pub phase: Phase,
    /// The overridden safety checks, or the cause of the failure; empty if there is neither.
    pub detail: String,
}

impl HistoryEntry {
    /// Returns whether the entry is about a program that a client ran, and not about a change of a service.
    pub fn is_run(&self) -> bool {
        self.action == RUN_ACTION
    }
}
