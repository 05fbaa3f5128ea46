//! The last roll-out. What its version and main answer is counted by the hosts.

use super::Journaled;
use crate::model::percent::Percent;
use crate::model::promote::{RolloutResult, Verdict};
use crate::plan::metrics::{Family, Page, gauge};
use crate::plan::promote::{Reached, Standing};

const IN_PROGRESS: Family = gauge(
    "switchman_rollout_in_progress",
    "Whether the last roll-out is not finished: it runs, waits, has stopped or was cut off.",
);
const STATE: Family =
    gauge("switchman_rollout_state", "How the last roll-out stands or ended: 1 for one of the states.");
const SHARE: Family = gauge(
    "switchman_rollout_share_ratio",
    "Share of the requests that the last roll-out has the version answer now, 0 to 1; 1 once it is main.",
);
const PASSED: Family = gauge(
    "switchman_rollout_steps_passed",
    "Steps of the last roll-out in which the version was no worse than main.",
);
const STEPS: Family = gauge("switchman_rollout_steps", "Steps of the last roll-out.");
const HOLDING: Family = gauge(
    "switchman_rollout_holding",
    "Whether the last verdict of an unfinished roll-out was that nothing is shown yet, such as for want of requests.",
);
const BEGAN: Family = gauge("switchman_rollout_began_timestamp_seconds", "When the last roll-out began.");
const CHANGED: Family = gauge(
    "switchman_rollout_changed_timestamp_seconds",
    "When the last roll-out was judged, took a step, or ended.",
);

pub const FAMILIES: &[&Family] = &[&IN_PROGRESS, &STATE, &SHARE, &PASSED, &STEPS, &HOLDING, &BEGAN, &CHANGED];

/// What a roll-out can be said to be.
pub(super) const STATES: [&str; 9] =
    ["running", "waiting", "promoting", "returning", "stopped", "cut-off", "promoted", "returned", "aborted"];

/// One roll-out of a service.
struct Last<'a> {
    service: &'a str,
    version: String,
    standing: &'a Standing,
    state: &'static str,
}

impl Last<'_> {
    fn named(&self) -> [(&str, &str); 2] {
        [("service", self.service), ("version", &self.version)]
    }
}

fn last<'a>(service: &'a str, journaled: &'a Journaled) -> Option<Last<'a>> {
    let standing = journaled.rollout.as_ref()?;
    let version = standing.spec.version.to_string();
    Some(Last { service, version, standing, state: state(standing, journaled.is_alive) })
}

pub(super) fn write(page: &mut Page, journals: &[(&str, &Journaled)]) {
    let mut in_progress = page.family(&IN_PROGRESS);
    for (service, journaled) in journals {
        let unfinished = journaled.rollout.as_ref().is_some_and(|rollout| !rollout.is_finished());
        in_progress.flag(&[("service", service)], unfinished);
    }
    let all: Vec<Last<'_>> =
        journals.iter().filter_map(|(service, journaled)| last(service, journaled)).collect();
    let mut states = page.family(&STATE);
    for last in &all {
        let [service, version] = last.named();
        for state in STATES {
            states.flag(&[service, version, ("state", state)], state == last.state);
        }
    }
    let mut shares = page.family(&SHARE);
    for last in &all {
        shares.add(&last.named(), share(last.standing).ratio());
    }
    for (family, value) in [
        (&PASSED, passed as fn(&Standing) -> i64),
        (&STEPS, |standing| count(standing.steps.len())),
        (&HOLDING, |standing| i64::from(holds(standing))),
        (&BEGAN, |standing| standing.began_at.as_second()),
        (&CHANGED, |standing| standing.changed_at.as_second()),
    ] {
        let mut samples = page.family(family);
        for last in &all {
            samples.add(&last.named(), value(last.standing));
        }
    }
}

fn state(standing: &Standing, is_alive: bool) -> &'static str {
    match standing.result {
        Some(RolloutResult::Promoted) => "promoted",
        Some(RolloutResult::Returned) => "returned",
        Some(RolloutResult::Aborted) => "aborted",
        None if standing.stopped.is_some() => "stopped",
        None if !is_alive => "cut-off",
        None if standing.returning.is_some() => "returning",
        None if standing.promoting => "promoting",
        None if standing.waiting.is_some() => "waiting",
        None => "running",
    }
}

/// As the journal knows it: of a roll-out that was cut off it is still set.
fn share(standing: &Standing) -> Percent {
    match standing.result {
        Some(RolloutResult::Promoted) => return Percent::ALL,
        Some(_) => return Percent::ZERO,
        None if standing.stopped.is_some() => return Percent::ZERO,
        None => {}
    }
    let reached = standing.steps.iter().rev().find(|step| step.reached != Reached::Ahead);
    reached.map_or(Percent::ZERO, |step| step.share)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn passed(standing: &Standing) -> i64 {
    count(standing.steps.iter().filter(|step| step.reached == Reached::Passed).count())
}

fn holds(standing: &Standing) -> bool {
    let judged = standing.steps.get(standing.step).and_then(|step| step.judged.as_ref());
    !standing.is_finished() && judged.is_some_and(|judged| matches!(judged.verdict, Verdict::Hold { .. }))
}
