//! What a roll-out writes down before it does it: enough to go on, or to take the canary away, after any crash.

use serde::{Deserialize, Serialize};

use super::{Counts, Judged, RolloutId, RolloutSpec, Target};
use crate::model::history::Actor;
use crate::model::name::HostName;

/// One row; never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRow {
    /// Rises from row to row.
    pub number: u64,
    pub rollout: RolloutId,
    pub at: jiff::Timestamp,
    pub what: RolloutWhat,
}

/// What is about to happen, or has happened. Steps are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum RolloutWhat {
    /// The first row.
    Began {
        spec: Box<RolloutSpec>,
        target: Target,
        actor: Actor,
    },
    /// It goes on after a stop or a crash, by this actor. What was asked of it before counts no more.
    Resumed {
        actor: Actor,
    },
    /// What the version's answers have shown while it was a shadow.
    Compared {
        passed: bool,
        reason: String,
    },
    /// Written before any host shares in this step.
    StepBegan {
        step: usize,
    },
    /// Every host shares.
    StepSet {
        step: usize,
    },
    Judged {
        step: usize,
        judged: Judged,
    },
    /// Written before the next step. `main`: what main did in its last interval with enough requests, to compare with where it
    /// answers too few itself.
    StepPassed {
        step: usize,
        main: Option<Counts>,
    },
    /// The step has passed, and waits for somebody's word.
    Waiting {
        step: usize,
    },
    /// By another process, whoever holds the lock.
    Asked {
        ask: Ask,
        actor: Actor,
    },
    /// The version is becoming main.
    Promoting,
    /// Every host's canary is being taken away, for good. Whatever comes, no step follows.
    Returning {
        result: RolloutResult,
        why: String,
    },
    /// It did not go on. No host shares any more, but those that could not be told.
    Stopped {
        why: String,
        untold: Vec<(HostName, String)>,
    },
    /// The last row.
    Ended {
        result: RolloutResult,
        why: String,
    },
}

/// What another process wants of a running roll-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// Go on after this step.
    Promote {
        step: usize,
    },
    Abort,
}

/// How a roll-out ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutResult {
    /// The version is main.
    Promoted,
    /// It was worse than main, or could not go on: main answers everything, as before.
    Returned,
    /// A person ended it: main answers everything, as before.
    Aborted,
}
