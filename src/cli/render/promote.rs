//! A roll-out: where it stands, step by step, and how it ended.

use std::fmt::Write as _;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::roll::{held, json_word};
use super::{Render, table};
use crate::error::Failure;
use crate::model::lock::{Life, LockView};
use crate::model::name::HostName;
use crate::model::promote::{RolloutResult, Sample, Verdict};
use crate::ops::fleet::promote::RolloutReport;
use crate::plan::compare::count;
use crate::plan::promote::{Standing, StepStanding, millis, share};

/// The last roll-out and the lock, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolloutView {
    pub standing: Option<Standing>,
    pub lock: Option<LockView>,
}

impl Render {
    pub fn rollout_status(&self, view: &RolloutView) {
        if self.json {
            return self.document("rollout-status", view);
        }
        self.text(&status(view));
    }

    pub fn promoted(&self, standing: &Standing) {
        if self.json {
            return self.document("rollout-promoted", standing);
        }
        let step = standing.waiting.and_then(|step| standing.steps.get(step));
        let share = step.map(|step| step.share.to_string()).unwrap_or_default();
        self.text(&format!("{} was told to go on after {share}\n", standing.rollout));
    }

    /// How it ended; anything but promoted is a failure.
    pub fn rolled_out(&self, report: &RolloutReport) -> Result<(), Failure> {
        self.rollout(report);
        match report.standing.result {
            Some(RolloutResult::Promoted) => Ok(()),
            _ => Err(not_promoted(&report.standing)),
        }
    }

    /// What came of an abort: a failure where not every host was told, or where it was main before.
    pub fn aborted(&self, report: &RolloutReport) -> Result<(), Failure> {
        self.rollout(report);
        let standing = &report.standing;
        let (service, version) = (&standing.spec.service, &standing.spec.version);
        match standing.result {
            Some(RolloutResult::Aborted | RolloutResult::Returned) => Ok(()),
            Some(RolloutResult::Promoted) => Err(Failure::Other {
                what: "abort the roll-out".to_owned(),
                why: format!(
                    "{service} {version} became main before it was heard; `switchman rollback {service}` goes back"
                ),
            }),
            None => Err(not_promoted(standing)),
        }
    }

    fn rollout(&self, report: &RolloutReport) {
        if self.json {
            return self.document("rollout", report);
        }
        self.text(&text(&report.standing));
    }
}

fn not_promoted(standing: &Standing) -> Failure {
    let stopped = standing.stopped.clone().unwrap_or_else(|| "not finished".to_owned());
    Failure::NotPromoted {
        service: standing.spec.service.clone(),
        version: standing.spec.version.clone(),
        why: if standing.is_finished() { standing.why.clone() } else { stopped },
        untold: standing.untold.iter().map(|(host, _)| host.clone()).collect(),
        finished: standing.is_finished(),
    }
}

fn status(view: &RolloutView) -> String {
    let Some(standing) = &view.standing else { return "no roll-out yet\n".to_owned() };
    let mut report = text(standing);
    if let Some(lock) = &view.lock {
        let _ = write!(report, "lock: {}", held(lock));
    }
    if !standing.is_finished() {
        let _ = writeln!(report, "next: {}", next(standing, view.lock.as_ref()));
    }
    report
}

/// The command to type.
fn next(standing: &Standing, lock: Option<&LockView>) -> String {
    let service = &standing.spec.service;
    let command = format!("switchman rollout {service}");
    if !standing.untold.is_empty() {
        let names: Vec<&str> = standing.untold.iter().map(|(host, _)| HostName::as_str(host)).collect();
        return format!("{} may have its canary still: `{command} --abort` tells it again", names.join(", "));
    }
    let runs = lock.is_some_and(|lock| lock.life != Life::Gone);
    match (&standing.stopped, runs, standing.waiting) {
        (Some(_), ..) => format!(
            "main answers everything: `{command} --resume` goes on at this step, `{command} --abort` ends it"
        ),
        (None, true, Some(_)) => format!("`{command} --promote` lets it go on, `{command} --abort` ends it"),
        (None, true, None) => format!("it is running; `{command} --abort` ends it"),
        (None, false, _) => format!(
            "it was cut off (killed, or power lost), and NOBODY JUDGES its canary: `{command} --resume` goes on, `{command} \
             --abort` leaves main to answer everything"
        ),
    }
}

fn text(standing: &Standing) -> String {
    let spec = &standing.spec;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} by {} at {:.0}: {} {} beside {}: {}",
        standing.rollout.bold(),
        standing.actor.user,
        standing.began_at,
        spec.service,
        spec.version,
        standing.target.main_version,
        state(standing),
    );
    if let Some((_, reason)) = &standing.compared {
        let _ = writeln!(text, "as a shadow: {reason}");
    }
    let header = ["STEP", "SHARE", "STATE", "SINCE", "REQUESTS", "FAILED", "MAIN", "P99", "MAIN", "VERDICT"];
    let rows = (1..).zip(&standing.steps).map(|(number, step)| row(number, step)).collect();
    text.push_str(&table::table(&header, rows));
    text
}

fn state(standing: &Standing) -> String {
    let because = |why: &str| if why.is_empty() { String::new() } else { format!(": {why}") };
    match (standing.result, &standing.returning, &standing.stopped) {
        (Some(result), ..) => format!("{}{}", json_word(&result), because(&standing.why)),
        (None, Some((_, why)), _) => format!("going back{}", because(why)),
        (None, None, Some(why)) => format!("stopped{}", because(why)),
        (None, None, None) if standing.promoting => "becoming main".to_owned(),
        (None, None, None) => match standing.steps.get(standing.step) {
            Some(step) => format!("{}, {}", step.share, json_word(&step.reached)),
            None => "all steps passed".to_owned(),
        },
    }
}

fn row(number: usize, step: &StepStanding) -> Vec<String> {
    let since = step.since.map(|at| format!("{at:.0}")).unwrap_or_default();
    let mut cells = vec![number.to_string(), step.share.to_string(), json_word(&step.reached), since];
    let Some(judged) = &step.judged else {
        cells.resize(10, String::new());
        return cells;
    };
    let p99 = |sample: &Sample| sample.p99_us.map_or_else(|| "-".to_owned(), millis);
    cells.extend([
        count(judged.canary.requests),
        share(judged.canary.failed, judged.canary.requests),
        share(judged.main.failed, judged.main.requests),
        p99(&judged.canary),
        p99(&judged.main),
        match &judged.verdict {
            Verdict::Advance | Verdict::Done => "no worse".to_owned(),
            Verdict::Hold { reason } => format!("holding: {reason}"),
            Verdict::Breach { reason } => format!("breach: {reason}"),
        },
    ]);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::model::history::Actor;
    use crate::model::promote::{Judged, RolloutId, RolloutRow, RolloutWhat};
    use crate::plan::promote::standing;

    fn rows(whats: Vec<RolloutWhat>) -> Vec<RolloutRow> {
        let actor = Actor { user: "ops".into(), pid: 7 };
        let (spec, target) = (Box::new(example::rollout(&["web1"])), example::rollout_target());
        let began = RolloutWhat::Began { spec, target, actor };
        let rollout = RolloutId::new(jiff::Timestamp::UNIX_EPOCH, 7);
        let row = |(number, what): (u64, RolloutWhat)| {
            let at = jiff::Timestamp::from_second(i64::try_from(number * 60).unwrap()).unwrap();
            RolloutRow { number, rollout: rollout.clone(), at, what }
        };
        (1..).zip(std::iter::once(began).chain(whats)).map(row).collect()
    }

    fn judged(step: usize, verdict: Verdict, canary: u64) -> RolloutWhat {
        let canary = Sample { requests: canary, failed: 1, p99_us: Some(21_300) };
        let main = Sample { requests: 11_880, failed: 2, p99_us: Some(20_100) };
        RolloutWhat::Judged { step, judged: Judged { verdict, canary, main } }
    }

    fn shown(whats: Vec<RolloutWhat>) -> String {
        let text = status(&RolloutView { standing: standing(&rows(whats)), lock: None });
        anstream::adapter::strip_str(&text).to_string()
    }

    const STATUS: &str = "\
o19700101-000000-0007 by ops at 1970-01-01T00:01:00Z: shop 2.0.0 beside 1.0.0: 5%, judging
STEP  SHARE  STATE    SINCE                 REQUESTS  FAILED  MAIN   P99     MAIN    VERDICT
1     1%     passed   1970-01-01T00:05:00Z  1,204     0.08%   0.02%  21.3ms  20.1ms  no worse
2     5%     judging  1970-01-01T00:07:00Z  5         20%     0.02%  21.3ms  20.1ms  holding: 5 requests to the canary in 1m, 100 are needed
3     25%    ahead
4     50%    ahead
5     100%   ahead
next: it was cut off (killed, or power lost), and NOBODY JUDGES its canary: `switchman rollout shop --resume` goes on, `switchman rollout shop --abort` leaves main to answer everything
";

    #[test]
    fn a_status_says_where_it_stands_and_what_to_type() {
        let reason = "5 requests to the canary in 1m, 100 are needed".to_owned();
        let so_far = || {
            vec![
                RolloutWhat::StepBegan { step: 0 },
                RolloutWhat::StepSet { step: 0 },
                judged(0, Verdict::Advance, 1_204),
                RolloutWhat::StepPassed { step: 0, main: None },
                RolloutWhat::StepBegan { step: 1 },
                RolloutWhat::StepSet { step: 1 },
                judged(1, Verdict::Hold { reason: reason.clone() }, 5),
            ]
        };
        assert_eq!(shown(so_far()), STATUS);
        let stopped = RolloutWhat::Stopped {
            why: "interrupted".into(),
            untold: vec![("web2".parse().unwrap(), "the link broke".into())],
        };
        let last = shown(so_far().into_iter().chain([stopped]).collect());
        let last = last.lines().last().unwrap().to_owned();
        assert_eq!(
            last,
            "next: web2 may have its canary still: `switchman rollout shop --abort` tells it again"
        );
        assert_eq!(status(&RolloutView { standing: None, lock: None }), "no roll-out yet\n");
    }
}
