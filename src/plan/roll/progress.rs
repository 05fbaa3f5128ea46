//! Where a roll stands, by its journal: what `--status` shows, and where `--resume` and `--abort` begin.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::history::Actor;
use crate::model::journal::{HostEnd, RollResult, Row, What};
use crate::model::name::HostName;
use crate::model::roll::{RollId, RollSpec, Step};

/// A roll as its rows tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub roll: RollId,
    pub spec: RollSpec,
    pub actor: Actor,
    pub began_at: jiff::Timestamp,
    /// Of the last row.
    pub changed_at: jiff::Timestamp,
    /// In the order of the roll.
    pub hosts: Vec<HostStanding>,
    /// Why it did not go on; `None` while it runs, or when it was killed.
    pub stopped: Option<String>,
    pub aborting: bool,
    /// `None`: unfinished.
    pub result: Option<RollResult>,
}

/// One host of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStanding {
    pub host: HostName,
    /// The last step that began, and how far it got.
    pub step: Option<Step>,
    pub reached: Reached,
    /// What the last step said, or why it failed.
    pub detail: String,
    /// How often the command began.
    pub attempts: u32,
    /// How it was left, when it did not get through.
    pub end: Option<HostEnd>,
    pub began_at: Option<jiff::Timestamp>,
    pub changed_at: Option<jiff::Timestamp>,
    /// When each step was last done.
    pub steps_done: BTreeMap<Step, jiff::Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// Its turn has not come.
    Waiting,
    /// A step began, and its end is not recorded.
    Began,
    /// A step is done, and the next has not begun.
    StepDone,
    Failed,
    /// All of its steps are done.
    Done,
}

impl HostStanding {
    fn waiting(host: HostName) -> Self {
        Self {
            host,
            step: None,
            reached: Reached::Waiting,
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
        let settled = self.end.is_some_and(HostEnd::is_well);
        let out = match (self.step, self.reached) {
            (Some(Step::Up), Reached::StepDone) | (None, _) => false,
            (Some(step), _) => step.is_out(),
        };
        self.reached != Reached::Done && !settled && out
    }

    /// Where a resume begins with this host; `None` when it is done.
    ///
    /// Every step but the command may be repeated without harm. The command is run again only when its end is not
    /// recorded, or when it failed. Before it, the host is taken out anew: somebody may have put it back meanwhile. An
    /// `assign` may be repeated too, and has to be where the host was settled: its last good main may be back.
    pub fn entry(&self, assign: bool) -> Option<Step> {
        let failed = self.reached == Reached::Failed || self.end.is_some();
        let done = self.reached == Reached::StepDone;
        match self.step {
            _ if self.reached == Reached::Done => None,
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
pub struct Turn {
    /// Its place in the roll, from 0.
    pub at: usize,
    pub entry: Step,
    pub attempts: u32,
    /// It may be out already.
    pub out: bool,
}

impl Turn {
    /// Whether it is, or will be, taken out: that needs leave.
    pub fn goes_out(&self) -> bool {
        self.entry <= Step::ForwardOff
    }
}

impl Standing {
    /// What is left to do, in groups that are out together.
    ///
    /// First all those that only come back: they need no leave and add capacity. Then those that may be out, so that no
    /// more go before they are back. Then the others, batch by batch.
    pub fn turns(&self) -> Vec<Vec<Turn>> {
        let size = self.spec.batch.size(self.hosts.len());
        let turn = |(at, host): (usize, &HostStanding)| {
            let (attempts, out) = (host.attempts, host.may_be_out());
            host.entry(self.spec.assign.is_some()).map(|entry| Turn { at, entry, attempts, out })
        };
        let left: Vec<Turn> = self.hosts.iter().enumerate().filter_map(turn).collect();
        let (going, coming): (Vec<Turn>, Vec<Turn>) = left.into_iter().partition(Turn::goes_out);
        let (out, waiting): (Vec<Turn>, Vec<Turn>) = going.into_iter().partition(|turn| turn.out);
        let batches = waiting.chunk_by(|one, other| one.at / size == other.at / size);
        let mut groups = vec![coming];
        groups.extend(out.chunks(size).chain(batches).map(<[Turn]>::to_vec));
        groups.retain(|group| !group.is_empty());
        groups
    }

    pub fn host(&self, name: &HostName) -> Option<&HostStanding> {
        self.hosts.iter().find(|host| &host.host == name)
    }

    pub fn is_finished(&self) -> bool {
        self.result.is_some()
    }

    /// How many hosts have failed and are not done since.
    pub fn failures(&self) -> u32 {
        let failed = |host: &&HostStanding| host.reached == Reached::Failed;
        u32::try_from(self.hosts.iter().filter(failed).count()).unwrap_or(u32::MAX)
    }

    /// Hosts where the command began, and that it ended well is not recorded.
    pub fn unended(&self) -> impl Iterator<Item = &HostName> {
        let unended = |host: &&HostStanding| {
            host.step == Some(Step::Command) && matches!(host.reached, Reached::Began | Reached::Failed)
        };
        self.hosts.iter().filter(unended).map(|host| &host.host)
    }

    pub fn done(&self) -> usize {
        self.hosts.iter().filter(|host| host.reached == Reached::Done).count()
    }
}

/// Rows of one roll, oldest first -> where it stands. `None` when its first row is missing.
pub fn standing(rows: &[Row]) -> Option<Standing> {
    let first = rows.first()?;
    let What::Began { spec, actor } = &first.what else { return None };
    let mut hosts: BTreeMap<HostName, HostStanding> =
        spec.hosts.iter().map(|host| (host.clone(), HostStanding::waiting(host.clone()))).collect();
    let mut standing = Standing {
        roll: first.roll.clone(),
        spec: spec.clone(),
        actor: actor.clone(),
        began_at: first.at,
        changed_at: first.at,
        hosts: vec![],
        stopped: None,
        aborting: false,
        result: None,
    };
    for row in rows {
        standing.changed_at = row.at;
        match &row.host {
            None => about_roll(&mut standing, &row.what),
            Some(name) => {
                if let Some(host) = hosts.get_mut(name) {
                    host.changed_at = Some(row.at);
                    host.began_at.get_or_insert(row.at);
                    if let What::StepDone { step, .. } = &row.what {
                        host.steps_done.insert(*step, row.at);
                    }
                    about_host(host, &row.what);
                }
            }
        }
    }
    standing.hosts = spec.hosts.iter().filter_map(|name| hosts.remove(name)).collect();
    Some(standing)
}

fn about_roll(standing: &mut Standing, what: &What) {
    match what {
        What::Resumed { .. } => standing.stopped = None,
        What::Aborting { .. } => {
            standing.aborting = true;
            standing.stopped = None;
        }
        What::Stopped { why } => standing.stopped = Some(why.clone()),
        What::Ended { result } => standing.result = Some(*result),
        _ => {}
    }
}

fn about_host(host: &mut HostStanding, what: &What) {
    match what {
        What::StepBegan { step } => {
            host.step = Some(*step);
            host.reached = Reached::Began;
            host.detail.clear();
            host.end = None;
            host.attempts += u32::from(*step == Step::Command);
        }
        What::StepDone { step, detail } => {
            host.step = Some(*step);
            host.reached = Reached::StepDone;
            host.detail.clone_from(detail);
        }
        What::StepFailed { step, why } => {
            host.step = Some(*step);
            host.reached = Reached::Failed;
            host.detail.clone_from(why);
        }
        What::Settled { end, detail } => {
            host.end = Some(*end);
            if !detail.is_empty() {
                host.detail.clone_from(detail);
            }
        }
        What::Done => host.reached = Reached::Done,
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

    fn row(host: Option<&str>, what: What) -> Row {
        let roll = RollId::new(jiff::Timestamp::UNIX_EPOCH, 1);
        Row { roll, at: jiff::Timestamp::UNIX_EPOCH, host: host.map(|name| name.parse().unwrap()), what }
    }

    fn began() -> Row {
        let actor = Actor { user: "ops".into(), pid: 1 };
        row(None, What::Began { spec: example::roll(&["web1", "web2"]), actor })
    }

    fn web1(rows: &[What]) -> HostStanding {
        let mut all = vec![began()];
        all.extend(rows.iter().map(|what| row(Some("web1"), what.clone())));
        standing(&all).unwrap().hosts.remove(0)
    }

    fn done(step: Step) -> What {
        What::StepDone { step, detail: String::new() }
    }

    #[test]
    fn a_killed_roll_goes_on_where_nothing_is_lost_or_done_twice() {
        let entry = |what: What| web1(&[what]).entry(false);
        assert_eq!(web1(&[]).entry(false), Some(BeforeHost));
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
            assert_eq!(entry(What::StepBegan { step }), Some(when_begun), "{step} began");
            assert_eq!(entry(done(step)), Some(when_done), "{step} done");
        }
        assert_eq!(web1(&[done(AfterHost), What::Done]).entry(false), None);
    }

    #[test]
    fn a_failed_command_is_run_again_and_a_good_one_is_not() {
        let failed = |step| web1(&[What::StepBegan { step }, What::StepFailed { step, why: "x".into() }]);
        assert_eq!(failed(Command).entry(false), Some(ForwardOff));
        assert_eq!(failed(Drained).entry(false), Some(ForwardOff));
        assert_eq!(failed(Healthy).entry(false), Some(Healthy));
        let settled = What::Settled { end: HostEnd::Returned, detail: String::new() };
        let returned = web1(&[What::StepBegan { step: Command }, settled]);
        assert_eq!((returned.entry(false), returned.attempts), (Some(ForwardOff), 1));
    }

    #[test]
    fn what_may_be_out_is_what_was_told_to_go_and_not_seen_back() {
        let out = |rows: &[What]| web1(rows).may_be_out();
        assert!(!out(&[]) && !out(&[done(BeforeHost)]));
        assert!(out(&[What::StepBegan { step: ForwardOff }]) && out(&[done(Command)]));
        assert!(out(&[What::StepBegan { step: Up }]) && !out(&[done(Up)]));
        let settled = |end| What::Settled { end, detail: String::new() };
        assert!(!out(&[done(Down), settled(HostEnd::Returned)]));
        assert!(out(&[done(Down), settled(HostEnd::LeftOut)]));
    }

    #[test]
    fn what_comes_back_goes_first_and_then_what_may_be_out() {
        let spec = RollSpec {
            batch: crate::model::roll::Batch::Hosts(2),
            ..example::roll(&["web1", "web2", "web3", "web4", "web5", "web6"])
        };
        let actor = Actor { user: "ops".into(), pid: 1 };
        let failed = |step| What::StepFailed { step, why: "x".into() };
        let settled = What::Settled { end: HostEnd::Returned, detail: String::new() };
        let rows = [
            row(None, What::Began { spec, actor }),
            row(Some("web1"), failed(Command)),
            row(Some("web1"), settled),
            row(Some("web2"), What::Done),
            row(Some("web3"), failed(Healthy)),
            row(Some("web4"), done(Drained)),
        ];
        let turns = standing(&rows).unwrap().turns();
        let places: Vec<Vec<usize>> =
            turns.iter().map(|group| group.iter().map(|turn| turn.at).collect()).collect();
        assert_eq!(places, [vec![2], vec![3], vec![0], vec![4, 5]]);
        assert_eq!(turns[1], [Turn { at: 3, entry: ForwardOff, attempts: 0, out: true }]);
        assert_eq!(standing(&rows[..1]).unwrap().turns().len(), 3, "a new roll goes batch by batch");
    }

    #[test]
    fn the_roll_as_a_whole() {
        let stopped = row(None, What::Stopped { why: "too many failures".into() });
        let failed = What::StepFailed { step: Command, why: "exit 1".into() };
        let rows = [
            began(),
            row(Some("web1"), done(AfterHost)),
            row(Some("web1"), What::Done),
            row(Some("web2"), failed),
            stopped,
        ];
        let standing = standing(&rows).unwrap();
        assert_eq!((standing.done(), standing.failures(), standing.is_finished()), (1, 1, false));
        assert_eq!(standing.stopped.as_deref(), Some("too many failures"));
        assert_eq!(standing.host(&"web2".parse().unwrap()).unwrap().detail, "exit 1");
        assert_eq!(super::standing(&rows[1..]), None, "without its first row nothing is known");
    }
}
