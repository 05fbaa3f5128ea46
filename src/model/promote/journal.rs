//! What a promotion writes down before it does it: enough to go on, or to take the canary away, after any crash.

use serde::{Deserialize, Serialize};

use super::{Judgement, PromotionId, PromotionSpec, PromotionTarget, RequestCounts};
use crate::model::history::Actor;
use crate::model::name::HostName;

/// One row; never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionEntry {
    /// Rises from row to row.
    pub number: u64,
    #[serde(alias = "rollout")]
    pub promotion: PromotionId,
    pub at: jiff::Timestamp,
    #[serde(alias = "what")]
    pub kind: PromotionEntryKind,
}

/// What is about to happen, or has happened. Steps are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum PromotionEntryKind {
    /// The first row.
    Began { spec: Box<PromotionSpec>, target: PromotionTarget, actor: Actor },
    /// It goes on after a stop or a crash, by this actor. What was asked of it before counts no more.
    Resumed { actor: Actor },
    /// What the version's answers have shown while it was a shadow.
    Compared { passed: bool, reason: String },
    /// Written before any host shares in this step.
    StepBegan { step: usize },
    /// Every host shares.
    StepSet { step: usize },
    Judged {
        step: usize,
        #[serde(alias = "judged")]
        judgement: Judgement,
    },
    /// Written before the next step. `main`: what main did in its last interval with enough requests, to compare with where it
    /// answers too few itself.
    StepPassed { step: usize, main: Option<RequestCounts> },
    /// The step has passed, and waits for somebody's word.
    #[serde(alias = "waiting")]
    AwaitingApproval { step: usize },
    /// By another process, whoever holds the lock.
    #[serde(alias = "asked")]
    Requested { ask: OperatorRequest, actor: Actor },
    /// The version is becoming main.
    Promoting,
    /// Every host's canary is being taken away, for good. Whatever comes, no step follows.
    #[serde(alias = "returning")]
    RollingBack { result: PromotionResult, why: String },
    /// It did not go on. No host shares any more, but those that could not be told.
    Stopped {
        why: String,
        #[serde(alias = "untold")]
        unreachable_hosts: Vec<(HostName, String)>,
    },
    /// The last row.
    Ended { result: PromotionResult, why: String },
}

/// What another process wants of a running promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum OperatorRequest {
    /// Go on after this step.
    #[serde(alias = "promote")]
    Approve {
        step: usize,
    },
    Abort,
}

/// How a promotion ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromotionResult {
    /// The version is main.
    Promoted,
    /// It was worse than main, or could not go on: main answers everything, as before.
    #[serde(alias = "returned")]
    RolledBack,
    /// A person ended it: main answers everything, as before.
    Aborted,
}
