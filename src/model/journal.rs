//! The journal of a roll, written ahead of every step: enough to go on, or to put everything back, after any crash.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::history::Actor;
use super::name::HostName;
use super::roll::{RollId, RollSpec, Step};

/// An entry of the journal. Entries of a roll are numbered from 1 and never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollEntry {
    pub roll: RollId,
    pub at: jiff::Timestamp,
    /// `None`: about the roll as a whole.
    pub host: Option<HostName>,
    #[serde(alias = "what")]
    pub kind: RollEntryKind,
}

/// An event of a roll that is about to happen, or has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum RollEntryKind {
    /// The first entry.
    Began {
        spec: RollSpec,
        actor: Actor,
        /// The refusals that `--force` overrode.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        overridden: Vec<String>,
    },
    /// The roll goes on after a stop or a crash, by this actor.
    Resumed {
        actor: Actor,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        overridden: Vec<String>,
    },
    /// All touched hosts are being put back.
    Aborting {
        actor: Actor,
    },
    /// Written before the step is done.
    StepBegan {
        step: Step,
    },
    StepDone {
        step: Step,
        detail: String,
    },
    /// A host's step did not end well. The following entries put the host back into service.
    StepFailed {
        step: Step,
        #[serde(rename = "why")]
        reason: String,
    },
    /// The state in which a host was left after a failure or an abort.
    Settled {
        end: HostOutcome,
        detail: String,
    },
    /// All steps of a host are done.
    Done,
    /// The roll did not go on: what follows, if anything, is a resume or an abort.
    Stopped {
        #[serde(rename = "why")]
        reason: String,
    },
    /// The last entry.
    Ended {
        result: RollResult,
        /// Empty in entries of a switchman that did not record it.
        #[serde(rename = "why", default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
}

/// How a host that did not get through was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostOutcome {
    /// The forward is on and the balancers report UP.
    #[serde(rename = "returned")]
    Restored,
    /// The forward is off and the users are on the backup vhost: the main vhost is not healthy, or something is at work on
    /// it, or another command switched it off.
    #[serde(rename = "left-out")]
    LeftInMaintenance,
    /// Another operation took the host over, and keeps it out of service.
    TakenOver,
    /// The forward is on, but the main vhost is not healthy or not every balancer reports UP.
    NotUp,
    /// The host could not be reached; the entries before have the last request that it received.
    Unreachable,
}

impl HostOutcome {
    /// Whether the host serves its users from its main vhost as before.
    pub const fn is_restored(self) -> bool {
        matches!(self, Self::Restored)
    }
}

impl fmt::Display for RollResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::DoneWithFailures => "done with failures",
            Self::Aborted => "aborted",
            Self::PartiallyAborted => "aborted in part",
        })
    }
}

/// How a roll ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollResult {
    /// Every host is done.
    Done,
    /// The roll went through, with failed hosts within `max_failures`.
    DoneWithFailures,
    /// Every touched host was put back.
    Aborted,
    /// Aborted, with hosts that could not be put back.
    #[serde(rename = "aborted-in-part")]
    PartiallyAborted,
}
