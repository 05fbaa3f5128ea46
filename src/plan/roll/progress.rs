//! The progress of a roll, by its journal: what `--status` shows, and where `--resume` and `--abort` begin.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::model::history::Actor;
use crate::model::host_main::HostMain;
use crate::model::journal::{HostOutcome, RollEntry, RollEntryKind, RollResult};
use crate::model::name::HostName;
use crate::model::roll::{RollId, RollSpec, Step};

/// A roll as its journal entries record it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollProgress {
    pub roll: RollId,
    pub spec: RollSpec,
    pub actor: Actor,
    pub began_at: jiff::Timestamp,
    /// The time of the last entry.
    pub changed_at: jiff::Timestamp,
    /// In the order of the roll.
    pub hosts: Vec<HostProgress>,
    /// The refusals that `--force` overrode, each once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overridden: Vec<String>,
    /// Why it did not go on; `None` while it runs, or when it was killed.
    pub stop_reason: Option<String>,
    pub is_aborting: bool,
    /// `None`: unfinished.
    pub result: Option<RollResult>,
}

/// The progress of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostProgress {
    pub host: HostName,
    /// The last step that began, and how far it got.
    pub step: Option<Step>,
    pub state: StepState,
    /// The result of the last step, or why it failed.
    pub detail: String,
    /// How often the command began.
    pub attempts: u32,
    /// How it was left, when it did not get through.
    pub end: Option<HostOutcome>,
    pub began_at: Option<jiff::Timestamp>,
    pub changed_at: Option<jiff::Timestamp>,
    /// When each step was last done.
    pub steps_done: BTreeMap<Step, jiff::Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// The host has not started.
    Waiting,
    /// A step began, and its end is not recorded.
    Began,
    /// A step is done, and the next has not begun.
    StepDone,
    Failed,
    /// All of its steps are done.
    Done,
}

impl HostProgress {
    fn new(host: HostName) -> Self {
        Self {
            host,
            step: None,
            state: StepState::Waiting,
            detail: String::new(),
            attempts: 0,
            end: None,
            began_at: None,
            changed_at: None,
            steps_done: BTreeMap::new(),
        }
    }

    /// Whether its forward may be off, as far as the journal knows.
    pub fn may_be_out(&self) -> bool {
        let settled = self.end.is_some_and(HostOutcome::is_restored);
        let out = match (self.step, self.state) {
            (Some(Step::Up), StepState::StepDone) | (None, _) => false,
            (Some(step), _) => step.is_out_of_service(),
        };
        self.state != StepState::Done && !settled && out
    }

    /// Returns the step at which a resume begins with this host; `None` when the host is done.
    ///
    /// Every step but the command may be repeated without harm. The command is run again only when its end is not
    /// recorded, or when it failed. Before it, the host is taken out again: an operator may have put it back in between. An
    /// `assign` may be repeated too, and has to be where the host was settled: its last good main may be back.
    pub fn resume_step(&self, assign: bool) -> Option<Step> {
        let failed = self.state == StepState::Failed || self.end.is_some();
        let done = self.state == StepState::StepDone;
        match self.step {
            _ if self.state == StepState::Done => None,
            None | Some(Step::BeforeHost) if !done => Some(Step::BeforeHost),
            None | Some(Step::BeforeHost | Step::ForwardOff | Step::Down | Step::Drained) => {
                Some(Step::ForwardOff)
            }
            Some(Step::Command) if !done => Some(Step::ForwardOff),
            Some(Step::Healthy | Step::ForwardOn | Step::Up) if assign && self.end.is_some() => {
                Some(Step::ForwardOff)
            }
            // The hooks of a host that is back run again; it is not taken out for them.
            Some(Step::AfterHost) => Some(Step::AfterHost),
            Some(Step::Up) if done => Some(Step::AfterHost),
            // The command went well, but its main vhost never became healthy: what is there now decides.
            Some(Step::Command | Step::Healthy | Step::ForwardOn | Step::Up) if failed || done => {
                Some(Step::Healthy)
            }
            Some(Step::Command | Step::Healthy | Step::ForwardOn | Step::Up) => Some(Step::Healthy),
        }
    }
}

/// A host that is not done, and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostTurn {
    /// The index of the host in the roll, from 0.
    pub index: usize,
    pub resume_step: Step,
    pub attempts: u32,
    /// The host may be in maintenance already.
    pub may_be_out: bool,
}

impl HostTurn {
    /// Whether it is, or will be, taken out: that needs leave.
    pub fn needs_maintenance(&self) -> bool {
        self.resume_step <= Step::ForwardOff
    }
}

impl RollProgress {
    /// Returns the remaining hosts, in groups that are out together.
    ///
    /// First all those that only come back: they need no leave and add capacity. Then those that may be out, so that no
    /// more go before they are back. Then the others, batch by batch.
    pub fn remaining_turns(&self) -> Vec<Vec<HostTurn>> {
        let size = self.spec.batch.size(self.hosts.len());
        let turn = |(index, host): (usize, &HostProgress)| {
            let (attempts, out) = (host.attempts, host.may_be_out());
            host.resume_step(self.spec.work.new_main().is_some()).map(|resume_step| HostTurn {
                index,
                resume_step,
                attempts,
                may_be_out: out,
            })
        };
        let left: Vec<HostTurn> = self.hosts.iter().enumerate().filter_map(turn).collect();
        let (going, coming): (Vec<HostTurn>, Vec<HostTurn>) =
            left.into_iter().partition(HostTurn::needs_maintenance);
        let (out, waiting): (Vec<HostTurn>, Vec<HostTurn>) =
            going.into_iter().partition(|turn| turn.may_be_out);
        let batches = waiting.chunk_by(|one, other| one.index / size == other.index / size);
        let mut groups = vec![coming];
        groups.extend(out.chunks(size).chain(batches).map(<[HostTurn]>::to_vec));
        groups.retain(|group| !group.is_empty());
        groups
    }

    /// Whether the roll has made its new version main on a host, and a resume does not do so again.
    pub fn has_new_main(&self, name: &HostName) -> bool {
        self.spec.work.new_main().is_some()
            && self
                .find_host(name)
                .is_some_and(|host| host.resume_step(true).is_none_or(|step| step > Step::Command))
    }

    /// Returns the hosts, of these, whose main is another version than the roll has made main there.
    pub fn find_changed_mains(&self, mains: &[HostMain]) -> Vec<HostMain> {
        let wanted = self.spec.work.new_main().map(|new_main| &new_main.version);
        let is_changed = |main: &&HostMain| main.version.as_ref() != wanted && self.has_new_main(&main.host);
        mains.iter().filter(is_changed).cloned().collect()
    }

    pub fn find_host(&self, name: &HostName) -> Option<&HostProgress> {
        self.hosts.iter().find(|host| &host.host == name)
    }

    pub fn is_finished(&self) -> bool {
        self.result.is_some()
    }

    /// How many hosts have failed and are not done since.
    pub fn count_failures(&self) -> u32 {
        let failed = |host: &&HostProgress| host.state == StepState::Failed;
        u32::try_from(self.hosts.iter().filter(failed).count()).unwrap_or(u32::MAX)
    }

    /// Hosts where the command began, and that it ended well is not recorded.
    pub fn unfinished_commands(&self) -> impl Iterator<Item = &HostName> {
        let unended = |host: &&HostProgress| {
            host.step == Some(Step::Command) && matches!(host.state, StepState::Began | StepState::Failed)
        };
        self.hosts.iter().filter(unended).map(|host| &host.host)
    }

    pub fn count_done(&self) -> usize {
        self.hosts.iter().filter(|host| host.state == StepState::Done).count()
    }
}

/// Journal entries of one roll, oldest first -> its progress. `None` when the first entry is missing.
pub fn build_progress(rows: &[RollEntry]) -> Option<RollProgress> {
    let first = rows.first()?;
    let RollEntryKind::Began { spec, actor, .. } = &first.kind else { return None };
    let mut hosts: BTreeMap<HostName, HostProgress> =
        spec.hosts.iter().map(|host| (host.clone(), HostProgress::new(host.clone()))).collect();
    let mut standing = RollProgress {
        roll: first.roll.clone(),
        spec: spec.clone(),
        actor: actor.clone(),
        began_at: first.at,
        changed_at: first.at,
        hosts: vec![],
        overridden: vec![],
        stop_reason: None,
        is_aborting: false,
        result: None,
    };
    for row in rows {
        standing.changed_at = row.at;
        match &row.host {
            None => apply_roll_entry(&mut standing, &row.kind),
            Some(name) => {
                if let Some(host) = hosts.get_mut(name) {
                    host.changed_at = Some(row.at);
                    host.began_at.get_or_insert(row.at);
                    if let RollEntryKind::StepDone { step, .. } = &row.kind {
                        host.steps_done.insert(*step, row.at);
                    }
                    apply_host_entry(host, &row.kind);
                }
            }
        }
    }
    standing.hosts = spec.hosts.iter().filter_map(|name| hosts.remove(name)).collect();
    Some(standing)
}

fn apply_roll_entry(standing: &mut RollProgress, what: &RollEntryKind) {
    match what {
        RollEntryKind::Began { overridden, .. } => note_overridden(standing, overridden),
        RollEntryKind::Resumed { overridden, .. } => {
            standing.stop_reason = None;
            note_overridden(standing, overridden);
        }
        RollEntryKind::Aborting { .. } => {
            standing.is_aborting = true;
            standing.stop_reason = None;
        }
        RollEntryKind::Stopped { reason } => standing.stop_reason = Some(reason.clone()),
        RollEntryKind::Ended { result, .. } => standing.result = Some(*result),
        _ => {}
    }
}

fn note_overridden(standing: &mut RollProgress, overridden: &[String]) {
    for refusal in overridden {
        if !standing.overridden.contains(refusal) {
            standing.overridden.push(refusal.clone());
        }
    }
}

fn apply_host_entry(host: &mut HostProgress, what: &RollEntryKind) {
    match what {
        RollEntryKind::StepBegan { step } => {
            host.step = Some(*step);
            host.state = StepState::Began;
            host.detail.clear();
            host.end = None;
            host.attempts += u32::from(*step == Step::Command);
        }
        RollEntryKind::StepDone { step, detail } => {
            host.step = Some(*step);
            host.state = StepState::StepDone;
            host.detail.clone_from(detail);
        }
        RollEntryKind::StepFailed { step, reason } => {
            host.step = Some(*step);
            host.state = StepState::Failed;
            host.detail.clone_from(reason);
        }
        RollEntryKind::Settled { end, detail } => {
            host.end = Some(*end);
            // The cause of the failure stays: it is what the operator looks for.
            match (host.state, detail.as_str()) {
                (_, "") => {}
                (StepState::Failed, detail) if !host.detail.is_empty() && !host.detail.contains(detail) => {
                    let _ = write!(host.detail, "; {detail}");
                }
                (StepState::Failed, _) if !host.detail.is_empty() => {}
                _ => host.detail.clone_from(detail),
            }
        }
        RollEntryKind::Done => host.state = StepState::Done,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::model::roll::Step::{
        AfterHost, BeforeHost, Command, Down, Drained, ForwardOff, ForwardOn, Healthy, Up,
    };

    fn make_entries(entries: Vec<(Option<&str>, RollEntryKind)>) -> Vec<RollEntry> {
        example::make_roll_entries(&["web1", "web2"], 0, entries)
    }

    fn read_host_progress(kinds: &[RollEntryKind]) -> HostProgress {
        let entries = kinds.iter().map(|kind| (Some("web1"), kind.clone())).collect();
        build_progress(&make_entries(entries)).unwrap().hosts.remove(0)
    }

    fn make_step_done(step: Step) -> RollEntryKind {
        RollEntryKind::StepDone { step, detail: String::new() }
    }

    #[test]
    fn killed_roll_resumes_at_a_safe_step() {
        let entry = |what: RollEntryKind| read_host_progress(&[what]).resume_step(false);
        assert_eq!(read_host_progress(&[]).resume_step(false), Some(BeforeHost));
        let expected = [
            (BeforeHost, BeforeHost, ForwardOff),
            (ForwardOff, ForwardOff, ForwardOff),
            (Down, ForwardOff, ForwardOff),
            (Drained, ForwardOff, ForwardOff),
            (Command, ForwardOff, Healthy),
            (Healthy, Healthy, Healthy),
            (ForwardOn, Healthy, Healthy),
            (Up, Healthy, AfterHost),
            (AfterHost, AfterHost, AfterHost),
        ];
        for (step, when_begun, when_done) in expected {
            assert_eq!(entry(RollEntryKind::StepBegan { step }), Some(when_begun), "{step} began");
            assert_eq!(entry(make_step_done(step)), Some(when_done), "{step} done");
        }
        assert_eq!(
            read_host_progress(&[make_step_done(AfterHost), RollEntryKind::Done]).resume_step(false),
            None
        );
    }

    #[test]
    fn resume_reruns_only_a_failed_command() {
        let failed = |step| {
            read_host_progress(&[
                RollEntryKind::StepBegan { step },
                RollEntryKind::StepFailed { step, reason: "x".into() },
            ])
        };
        assert_eq!(failed(Command).resume_step(false), Some(ForwardOff));
        assert_eq!(failed(Drained).resume_step(false), Some(ForwardOff));
        assert_eq!(failed(Healthy).resume_step(false), Some(Healthy));
        let settled = RollEntryKind::Settled { end: HostOutcome::Restored, detail: String::new() };
        let returned = read_host_progress(&[RollEntryKind::StepBegan { step: Command }, settled]);
        assert_eq!((returned.resume_step(false), returned.attempts), (Some(ForwardOff), 1));
    }

    #[test]
    fn may_be_out_lasts_from_forward_off_to_observed_up() {
        let out = |rows: &[RollEntryKind]| read_host_progress(rows).may_be_out();
        assert!(!out(&[]) && !out(&[make_step_done(BeforeHost)]));
        assert!(out(&[RollEntryKind::StepBegan { step: ForwardOff }]) && out(&[make_step_done(Command)]));
        assert!(out(&[RollEntryKind::StepBegan { step: Up }]) && !out(&[make_step_done(Up)]));
        let settled = |end| RollEntryKind::Settled { end, detail: String::new() };
        assert!(!out(&[make_step_done(Down), settled(HostOutcome::Restored)]));
        assert!(out(&[make_step_done(Down), settled(HostOutcome::LeftInMaintenance)]));
    }

    #[test]
    fn resume_orders_returning_hosts_before_hosts_in_maintenance() {
        let failed = |step| RollEntryKind::StepFailed { step, reason: "x".into() };
        let settled = RollEntryKind::Settled { end: HostOutcome::Restored, detail: String::new() };
        let hosts = ["web1", "web2", "web3", "web4", "web5", "web6"];
        let entries = vec![
            (Some("web1"), failed(Command)),
            (Some("web1"), settled),
            (Some("web2"), RollEntryKind::Done),
            (Some("web3"), failed(Healthy)),
            (Some("web4"), make_step_done(Drained)),
        ];
        let mut rows = example::make_roll_entries(&hosts, 0, entries);
        if let RollEntryKind::Began { spec, .. } = &mut rows[0].kind {
            spec.batch = crate::model::roll::Batch::Hosts(2);
        }
        let turns = build_progress(&rows).unwrap().remaining_turns();
        let places: Vec<Vec<usize>> =
            turns.iter().map(|group| group.iter().map(|turn| turn.index).collect()).collect();
        assert_eq!(places, [vec![2], vec![3], vec![0], vec![4, 5]]);
        assert_eq!(turns[1], [HostTurn { index: 3, resume_step: ForwardOff, attempts: 0, may_be_out: true }]);
        assert_eq!(
            build_progress(&rows[..1]).unwrap().remaining_turns().len(),
            3,
            "a new roll goes batch by batch"
        );
    }

    #[test]
    fn roll_progress_tracks_stop_abort_and_result() {
        let failed = RollEntryKind::StepFailed { step: Command, reason: "exit 1".into() };
        let rows = make_entries(vec![
            (Some("web1"), make_step_done(AfterHost)),
            (Some("web1"), RollEntryKind::Done),
            (Some("web2"), failed),
            (None, RollEntryKind::Stopped { reason: "too many failures".into() }),
        ]);
        let standing = build_progress(&rows).unwrap();
        assert_eq!((standing.count_done(), standing.count_failures(), standing.is_finished()), (1, 1, false));
        assert_eq!(standing.stop_reason.as_deref(), Some("too many failures"));
        assert_eq!(standing.find_host(&"web2".parse().unwrap()).unwrap().detail, "exit 1");
        assert_eq!(super::build_progress(&rows[1..]), None, "without its first row nothing is known");
    }
}
