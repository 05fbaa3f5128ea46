//! The owner of a host's maintenance: the operation that took the host out of service and has not put it back.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::history::Actor;
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
}

impl Owner {
    /// Returns the owner that an actor becomes; `action` is the purpose of an actor who gives none.
    pub fn new(actor: &Actor, action: &str, now: jiff::Timestamp) -> Self {
        let purpose = if actor.purpose.is_empty() { action } else { &actor.purpose };
        Self {
            user: actor.user.clone(),
            machine: actor.machine.clone(),
            pid: actor.pid,
            roll: actor.roll.clone(),
            purpose: purpose.to_owned(),
            since: now,
        }
    }

    /// Returns whether the actor continues this very operation: the same roll, from whichever operator machine, or the same
    /// person at the same machine by hand.
    pub fn is_continued_by(&self, actor: &Actor) -> bool {
        match &self.roll {
            Some(_) => self.roll == actor.roll,
            None => actor.roll.is_none() && self.is_same_person(actor),
        }
    }

    /// Returns whether the host accepts a change by the actor. A person may also start a roll over a maintenance of their own.
    pub fn admits(&self, actor: &Actor) -> bool {
        actor.is_host || self.is_continued_by(actor) || (self.roll.is_none() && self.is_same_person(actor))
    }

    fn is_same_person(&self, actor: &Actor) -> bool {
        (&self.user, &self.machine) == (&actor.user, &actor.machine)
    }
}

/// `alice on ops1, roll r20261127-101500-5f3a, since 2026-11-27T10:15:00Z: ./deploy.sh 2.0.0`
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, machine, roll, purpose, since, .. } = self;
        f.write_str(user)?;
        if !machine.is_empty() {
            write!(f, " on {machine}")?;
        }
        match roll {
            Some(roll) => write!(f, ", roll {roll}")?,
            None => f.write_str(", by hand")?,
        }
        write!(f, ", since {since:.0}: {purpose}")
    }
}
