//! Where a roll-out stands, by its journal: what `--status` shows, and where `--resume` and `--abort` begin.

use jiff::Timestamp;
use serde::Serialize;

use crate::model::history::Actor;
use crate::model::name::HostName;
use crate::model::percent::Percent;
use crate::model::promote::{
    Ask, Counts, Judged, RolloutId, RolloutResult, RolloutRow, RolloutSpec, RolloutWhat, Target,
};

/// A roll-out as its rows tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub rollout: RolloutId,
    pub spec: RolloutSpec,
    pub target: Target,
    pub actor: Actor,
    pub began_at: Timestamp,
    /// Of the last row.
    pub changed_at: Timestamp,
    pub steps: Vec<StepStanding>,
    /// The step to be judged next, from 0; past the last one: all have passed.
    pub step: usize,
    /// What its answers have shown while it was a shadow; whether that is enough.
    pub compared: Option<(bool, String)>,
    /// The step that has passed and waits for a person.
    pub waiting: Option<usize>,
    /// All steps have passed, and the version is becoming main.
    pub promoting: bool,
    /// How it is going to end, and why: no step follows any more.
    pub returning: Option<(RolloutResult, String)>,
    /// Why it did not go on; `None` while it runs, or when it was killed.
    pub stopped: Option<String>,
    /// Hosts that could not be told that there is no canary any more.
    pub untold: Vec<(HostName, String)>,
    /// `None`: unfinished.
    pub result: Option<RolloutResult>,
    /// Why it ended so.
    pub why: String,
    /// What main did in its last interval with enough requests.
    #[serde(skip)]
    pub base: Option<Counts>,
    /// What another process asked of it since it began or was taken up.
    #[serde(skip)]
    asked: Vec<Ask>,
}

/// One step of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepStanding {
    pub share: Percent,
    pub reached: Reached,
    /// When it last changed its state.
    pub since: Option<Timestamp>,
    /// The last verdict in it.
    pub judged: Option<Judged>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// Its turn has not come.
    Ahead,
    /// Hosts are being told.
    Begun,
    /// Every host shares, and it is judged.
    Judging,
    /// It is good, and waits for a person.
    Waiting,
    Passed,
}

impl Standing {
    pub const fn is_finished(&self) -> bool {
        self.result.is_some()
    }

    /// Whether somebody asked whoever runs it now to end it.
    pub fn is_aborted(&self) -> bool {
        self.asked.contains(&Ask::Abort)
    }

    /// Whether any host may have been told of a share yet.
    pub fn has_shared(&self) -> bool {
        self.steps.iter().any(|step| step.since.is_some())
    }

    fn set(&mut self, step: usize, reached: Reached, at: Timestamp) {
        if let Some(one) = self.steps.get_mut(step) {
            one.reached = reached;
            one.since = Some(at);
        }
    }

    fn read(&mut self, row: &RolloutRow) {
        self.changed_at = row.at;
        match &row.what {
            RolloutWhat::Began { .. } => {}
            RolloutWhat::Resumed { actor } => {
                self.actor = actor.clone();
                self.stopped = None;
                self.waiting = None;
                self.asked.clear();
            }
            RolloutWhat::Compared { passed, reason } => self.compared = Some((*passed, reason.clone())),
            RolloutWhat::StepBegan { step } => {
                self.step = *step;
                self.waiting = None;
                self.set(*step, Reached::Begun, row.at);
            }
            RolloutWhat::StepSet { step } => self.set(*step, Reached::Judging, row.at),
            RolloutWhat::Judged { step, judged } => {
                if let Some(one) = self.steps.get_mut(*step) {
                    one.judged = Some(judged.clone());
                }
            }
            RolloutWhat::StepPassed { step, main } => {
                self.step = step + 1;
                self.waiting = None;
                self.base.clone_from(main);
                self.set(*step, Reached::Passed, row.at);
            }
            RolloutWhat::Waiting { step } => {
                self.waiting = Some(*step);
                self.set(*step, Reached::Waiting, row.at);
            }
            RolloutWhat::Asked { ask, .. } => self.asked.push(*ask),
            RolloutWhat::Promoting => self.promoting = true,
            RolloutWhat::Returning { result, why } => self.returning = Some((*result, why.clone())),
            RolloutWhat::Stopped { why, untold } => {
                self.stopped = Some(why.clone());
                self.waiting = None;
                self.set(self.step, Reached::Ahead, row.at);
                self.untold.clone_from(untold);
            }
            RolloutWhat::Ended { result, why } => {
                self.result = Some(*result);
                self.why.clone_from(why);
                self.untold.clear();
            }
        }
    }
}

/// Rows of one roll-out, oldest first -> where it stands. `None` when its first row is missing.
pub fn standing(rows: &[RolloutRow]) -> Option<Standing> {
    let (first, rest) = rows.split_first()?;
    let RolloutWhat::Began { spec, target, actor } = &first.what else { return None };
    let ahead =
        |share: &Percent| StepStanding { share: *share, reached: Reached::Ahead, since: None, judged: None };
    let mut standing = Standing {
        rollout: first.rollout.clone(),
        spec: RolloutSpec::clone(spec),
        target: target.clone(),
        actor: actor.clone(),
        began_at: first.at,
        changed_at: first.at,
        steps: spec.steps.shares().iter().map(ahead).collect(),
        step: 0,
        compared: None,
        waiting: None,
        promoting: false,
        returning: None,
        stopped: None,
        untold: vec![],
        result: None,
        why: String::new(),
        base: None,
        asked: vec![],
    };
    for row in rest {
        standing.read(row);
    }
    Some(standing)
}
