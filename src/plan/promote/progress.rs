//! The progress of a promotion, by its journal: what `--status` shows, and where `--resume` and `--abort` begin.

use jiff::Timestamp;
use serde::Serialize;

use crate::model::history::Actor;
use crate::model::name::HostName;
use crate::model::percent::Percent;
use crate::model::promote::{
    Judgement, OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionId, PromotionResult,
    PromotionSpec, PromotionTarget, RequestCounts,
};

/// A promotion as its journal entries record it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromotionProgress {
    pub promotion: PromotionId,
    pub spec: PromotionSpec,
    pub target: PromotionTarget,
    pub actor: Actor,
    pub began_at: Timestamp,
    /// The time of the last entry.
    pub changed_at: Timestamp,
    pub steps: Vec<StepProgress>,
    /// The step to be judged next, from 0; past the last one: all have passed.
    pub step: usize,
    /// Whether the comparison made while the version was a shadow is sufficient, and its result.
    pub comparison: Option<(bool, String)>,
    /// The step that has passed and waits for a person.
    pub awaiting_approval: Option<usize>,
    /// All steps have passed, and the version is becoming main.
    pub is_promoting: bool,
    /// How it is going to end, and why: no step follows any more.
    pub rolling_back: Option<(PromotionResult, String)>,
    /// Why it did not go on; `None` while it runs, or when it was killed.
    pub stop_reason: Option<String>,
    /// Hosts that could not receive the removal of the canary.
    pub unreachable_hosts: Vec<(HostName, String)>,
    /// `None`: unfinished.
    pub result: Option<PromotionResult>,
    /// Why it ended so.
    pub reason: String,
    /// Main's counts in its last interval with enough requests.
    #[serde(skip)]
    pub baseline: Option<RequestCounts>,
    /// The requests of other processes since the promotion began or was resumed.
    #[serde(skip)]
    requests: Vec<OperatorRequest>,
}

/// A step of the promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepProgress {
    pub share: Percent,
    pub state: PromotionStepState,
    /// When it last changed its state.
    pub changed_at: Option<Timestamp>,
    /// The last verdict in it.
    pub judgement: Option<Judgement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromotionStepState {
    /// The step has not started.
    Pending,
    /// Hosts are receiving the share.
    Begun,
    /// Every host shares, and it is judged.
    Judging,
    /// The step is good, and waits for approval.
    AwaitingApproval,
    Passed,
}

impl PromotionProgress {
    pub const fn is_finished(&self) -> bool {
        self.result.is_some()
    }

    /// Whether another process has requested that the running process abort it.
    pub fn is_abort_requested(&self) -> bool {
        self.requests.contains(&OperatorRequest::Abort)
    }

    /// Whether any host may have received a share yet.
    pub fn has_shared(&self) -> bool {
        self.steps.iter().any(|step| step.changed_at.is_some())
    }

    fn set_state(&mut self, step: usize, reached: PromotionStepState, at: Timestamp) {
        if let Some(one) = self.steps.get_mut(step) {
            one.state = reached;
            one.changed_at = Some(at);
        }
    }

    fn apply_entry(&mut self, row: &PromotionEntry) {
        self.changed_at = row.at;
        match &row.kind {
            PromotionEntryKind::Began { .. } => {}
            PromotionEntryKind::Resumed { actor } => {
                self.actor = actor.clone();
                self.stop_reason = None;
                self.awaiting_approval = None;
                self.requests.clear();
            }
            PromotionEntryKind::Compared { passed, reason } => {
                self.comparison = Some((*passed, reason.clone()));
            }
            PromotionEntryKind::StepBegan { step } => {
                self.step = *step;
                self.awaiting_approval = None;
                self.set_state(*step, PromotionStepState::Begun, row.at);
            }
            PromotionEntryKind::StepSet { step } => {
                self.set_state(*step, PromotionStepState::Judging, row.at);
            }
            PromotionEntryKind::Judged { step, judgement: judged } => {
                if let Some(one) = self.steps.get_mut(*step) {
                    one.judgement = Some(judged.clone());
                }
            }
            PromotionEntryKind::StepPassed { step, main } => {
                self.step = step + 1;
                self.awaiting_approval = None;
                self.baseline.clone_from(main);
                self.set_state(*step, PromotionStepState::Passed, row.at);
            }
            PromotionEntryKind::AwaitingApproval { step } => {
                self.awaiting_approval = Some(*step);
                self.set_state(*step, PromotionStepState::AwaitingApproval, row.at);
            }
            PromotionEntryKind::Requested { ask, .. } => self.requests.push(*ask),
            PromotionEntryKind::Promoting => self.is_promoting = true,
            PromotionEntryKind::RollingBack { result, reason } => {
                self.rolling_back = Some((*result, reason.clone()));
            }
            PromotionEntryKind::Stopped { reason, unreachable_hosts: untold } => {
                self.stop_reason = Some(reason.clone());
                self.awaiting_approval = None;
                self.set_state(self.step, PromotionStepState::Pending, row.at);
                self.unreachable_hosts.clone_from(untold);
            }
            PromotionEntryKind::Ended { result, reason } => {
                self.result = Some(*result);
                self.reason.clone_from(reason);
                self.unreachable_hosts.clear();
            }
        }
    }
}

/// Journal entries of one promotion, oldest first -> its progress. `None` when the first entry is missing.
pub fn build_progress(rows: &[PromotionEntry]) -> Option<PromotionProgress> {
    let (first, rest) = rows.split_first()?;
    let PromotionEntryKind::Began { spec, target, actor } = &first.kind else { return None };
    let ahead = |share: &Percent| StepProgress {
        share: *share,
        state: PromotionStepState::Pending,
        changed_at: None,
        judgement: None,
    };
    let mut standing = PromotionProgress {
        promotion: first.promotion.clone(),
        spec: PromotionSpec::clone(spec),
        target: target.clone(),
        actor: actor.clone(),
        began_at: first.at,
        changed_at: first.at,
        steps: spec.steps.shares().iter().map(ahead).collect(),
        step: 0,
        comparison: None,
        awaiting_approval: None,
        is_promoting: false,
        rolling_back: None,
        stop_reason: None,
        unreachable_hosts: vec![],
        result: None,
        reason: String::new(),
        baseline: None,
        requests: vec![],
    };
    for row in rest {
        standing.apply_entry(row);
    }
    Some(standing)
}
