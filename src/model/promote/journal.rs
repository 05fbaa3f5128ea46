//! The journal of a promotion, written ahead of every step: enough to go on, or to remove the canary, after any crash.

use serde::{Deserialize, Serialize};

use super::{Judgement, PromotionId, PromotionSpec, PromotionTarget, RequestCounts};
use crate::model::history::Actor;
use crate::model::name::HostName;

/// An entry of the journal; never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionEntry {
    #[serde(alias = "rollout")]
    pub promotion: PromotionId,
    pub at: jiff::Timestamp,
    #[serde(alias = "what")]
    pub kind: PromotionEntryKind,
}

/// An event of a promotion that is about to happen, or has happened. Steps are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum PromotionEntryKind {
    /// The first entry.
    Began { spec: Box<PromotionSpec>, target: PromotionTarget, actor: Actor },
    /// This actor continues after a stop or a crash. Earlier operator requests count no more.
    Resumed { actor: Actor },
    /// The verdict on the version's answers while it was a shadow.
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
    /// The step has passed, and waits for an operator's approval.
    #[serde(alias = "waiting")]
    AwaitingApproval { step: usize },
    /// A request of another process, regardless of the lock's holder.
    #[serde(alias = "asked")]
    Requested { ask: OperatorRequest, actor: Actor },
    /// The version is becoming main.
    Promoting,
    /// Every host's canary is being removed, permanently. No step follows in any case.
    #[serde(alias = "returning")]
    RollingBack {
        result: PromotionResult,
        #[serde(rename = "why")]
        reason: String,
    },
    /// The promotion ended without success. No host shares traffic any more, except the hosts that could not be reached.
    Stopped {
        #[serde(rename = "why")]
        reason: String,
        #[serde(alias = "untold")]
        unreachable_hosts: Vec<(HostName, String)>,
    },
    /// The last entry.
    Ended {
        result: PromotionResult,
        #[serde(rename = "why")]
        reason: String,
    },
}

/// A request from another process to a running promotion.
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

/// A request to a promotion, with its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromotionRequest {
    pub promotion: PromotionId,
    pub at: jiff::Timestamp,
    pub request: OperatorRequest,
    pub actor: Actor,
}

impl From<PromotionRequest> for PromotionEntry {
    fn from(PromotionRequest { promotion, at, request, actor }: PromotionRequest) -> Self {
        Self { promotion, at, kind: PromotionEntryKind::Requested { ask: request, actor } }
    }
}

/// How a promotion ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromotionResult {
    /// The version is main.
    Promoted,
    /// The canary was worse than main, or could not go on: main answers everything, as before.
    #[serde(alias = "returned")]
    RolledBack,
    /// A person ended it: main answers everything, as before.
    Aborted,
}
