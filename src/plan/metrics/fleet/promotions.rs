//! The last promotion. What its version and main answer is counted by the hosts.

use super::snapshot::JournalSnapshot;
use crate::model::percent::Percent;
use crate::model::promote::{PromotionResult, StepVerdict};
use crate::plan::metrics::family::{MetricFamily, families, new_gauge};
use crate::plan::metrics::page::MetricsPage;
use crate::plan::promote::{PromotionProgress, PromotionStepState};

families! {
    IN_PROGRESS = new_gauge(
        "switchman_promotion_in_progress",
        "Whether the last promotion is not finished: it runs, waits, has stopped or was cut off."
    );
    STATE = new_gauge("switchman_promotion_state", "State of the last promotion: 1 for one of the states.");
    SHARE = new_gauge(
        "switchman_promotion_share_ratio",
        "Share of the requests that the last promotion has the version answer now, 0 to 1; 1 once it is main."
    );
    STEPS_PASSED = new_gauge(
        "switchman_promotion_steps_passed",
        "Steps of the last promotion in which the version was no worse than main."
    );
    STEPS = new_gauge("switchman_promotion_steps", "Steps of the last promotion.");
    HOLDING = new_gauge(
        "switchman_promotion_holding",
        "Whether the last verdict of an unfinished promotion was that nothing is shown yet, such as for want of requests."
    );
    BEGAN_AT = new_gauge("switchman_promotion_began_timestamp_seconds", "When the last promotion began.");
    CHANGED_AT = new_gauge(
        "switchman_promotion_changed_timestamp_seconds",
        "When the last promotion was judged, took a step, or ended."
    );
}

/// The values of the label `state` of a promotion.
pub(super) const STATES: [&str; 9] =
    ["running", "waiting", "promoting", "returning", "stopped", "cut-off", "promoted", "returned", "aborted"];

/// A promotion of a service.
struct LastPromotion<'a> {
    service: &'a str,
    version: String,
    progress: &'a PromotionProgress,
    state: &'static str,
}

impl LastPromotion<'_> {
    fn to_labels(&self) -> [(&'static str, &str); 2] {
        [("service", self.service), ("version", &self.version)]
    }
}

fn find_last<'a>(service: &'a str, journaled: &'a JournalSnapshot) -> Option<LastPromotion<'a>> {
    let progress = journaled.promotion.as_ref()?;
    let version = progress.spec.version.to_string();
    Some(LastPromotion {
        service,
        version,
        progress,
        state: derive_state(progress, journaled.is_holder_alive),
    })
}

pub(super) fn write(page: &mut MetricsPage, journals: &[(&str, &JournalSnapshot)]) {
    page.add_each(&IN_PROGRESS, journals, |in_progress, (service, journaled)| {
        let unfinished = journaled.promotion.as_ref().is_some_and(|promotion| !promotion.is_finished());
        in_progress.add_flag(&[("service", service)], unfinished);
    });
    let all: Vec<LastPromotion<'_>> =
        journals.iter().filter_map(|(service, journaled)| find_last(service, journaled)).collect();
    page.add_each(&STATE, &all, |states, last| {
        let [service, version] = last.to_labels();
        for state in STATES {
            states.add_flag(&[service, version, ("state", state)], state == last.state);
        }
    });
    page.add_each(&SHARE, &all, |shares, last| {
        shares.add_gauge(&last.to_labels(), compute_share(last.progress).ratio());
    });
    for (family, value) in [
        (&STEPS_PASSED, count_passed as fn(&PromotionProgress) -> i64),
        (&STEPS, |progress| to_i64(progress.steps.len())),
        (&HOLDING, |progress| i64::from(is_holding(progress))),
        (&BEGAN_AT, |progress| progress.began_at.as_second()),
        (&CHANGED_AT, |progress| progress.changed_at.as_second()),
    ] {
        page.add_each(family, &all, |samples, last| {
            samples.add_gauge(&last.to_labels(), value(last.progress));
        });
    }
}

fn derive_state(progress: &PromotionProgress, is_alive: bool) -> &'static str {
    match progress.result {
        Some(PromotionResult::Promoted) => "promoted",
        Some(PromotionResult::RolledBack) => "returned",
        Some(PromotionResult::Aborted) => "aborted",
        None if progress.stop_reason.is_some() => "stopped",
        None if !is_alive => "cut-off",
        None if progress.rolling_back.is_some() => "returning",
        None if progress.is_promoting => "promoting",
        None if progress.awaiting_approval.is_some() => "waiting",
        None => "running",
    }
}

/// As the journal knows it: of a promotion that was cut off it is still set.
fn compute_share(progress: &PromotionProgress) -> Percent {
    match progress.result {
        Some(PromotionResult::Promoted) => return Percent::FULL,
        Some(_) => return Percent::ZERO,
        None if progress.stop_reason.is_some() => return Percent::ZERO,
        None => {}
    }
    let reached = progress.steps.iter().rev().find(|step| step.state != PromotionStepState::Pending);
    reached.map_or(Percent::ZERO, |step| step.share)
}

fn to_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count_passed(progress: &PromotionProgress) -> i64 {
    to_i64(progress.steps.iter().filter(|step| step.state == PromotionStepState::Passed).count())
}

fn is_holding(progress: &PromotionProgress) -> bool {
    let judged = progress.steps.get(progress.step).and_then(|step| step.judgement.as_ref());
    !progress.is_finished() && judged.is_some_and(|judged| matches!(judged.verdict, StepVerdict::Hold { .. }))
}
