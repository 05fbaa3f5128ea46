//! A shadow's answers against main's: pairs -> [`Evidence`] -> [`Report`].

use std::collections::BTreeSet;

use crate::model::capped::Merge as _;
use crate::model::compare::{CapturedResponse, ComparisonRules, ResponsePair};
use crate::model::evidence::DifferenceKind;
use crate::model::evidence::{Evidence, Example, FieldTally, Pattern};
use crate::model::field::Field;

use differences::{Difference, Differences};

mod body;
mod coverage;
mod differences;
mod fields;
mod header_choice;
mod headers;
mod json;
mod latency;
mod redact;
mod report;
mod stats;
#[cfg(test)]
mod tests;

pub use coverage::{Coverage, UserImpact};
pub use fields::{FieldFinding, FieldVerdict};
pub use header_choice::ComparedHeaders;
pub use latency::{LatencyFinding, Quantiles};
pub use report::{
    ComparedVersions, ComparisonReport, ComparisonVerdict, Criteria, StatusCount, count, format_reasons,
    format_share,
};
pub use stats::Rate;
pub(in crate::plan) use stats::{Z95, compute_excess_lower_bound, compute_ratio, compute_wilson_interval};

/// Adds what one request shows.
pub fn record_pair(evidence: &mut Evidence, pair: &ResponsePair, rules: &ComparisonRules) {
    if pair.request.conditional {
        return record_skipped(evidence, "conditional");
    }
    let at = pair.request.at;
    evidence.since = Some(evidence.since.map_or(at, |since| since.min(at)));
    evidence.until = Some(evidence.until.map_or(at, |until| until.max(at)));
    evidence.compared += 1;
    evidence.statuses.add(format!("{}/{}", pair.main.status, pair.shadow.status), 1);
    evidence.latency.record(pair.main.latency_us, pair.shadow.latency_us);
    let mut differences = compare_responses(&pair.main, &pair.shadow, rules);
    evidence.bodies_unread += u64::from(differences.body_unread);
    let together: BTreeSet<Field> = differences.differing.keys().cloned().collect();
    if !together.is_empty() {
        evidence.patterns.add(Pattern::new(together), 1);
    }
    for (field, difference) in std::mem::take(&mut differences.others) {
        evidence.other_headers.add(field, build_tally(pair, difference));
    }
    for (field, difference) in differences.into_fields() {
        evidence.fields.add(field, build_tally(pair, difference));
    }
    if let Some(control) = &pair.control {
        evidence.controls += 1;
        let tally = |difference: Option<Difference>| {
            let control_differing = u64::from(difference.is_some());
            FieldTally { control_compared: 1, control_differing, ..FieldTally::default() }
        };
        let mut differences = compare_responses(&pair.main, control, rules);
        for (field, difference) in std::mem::take(&mut differences.others) {
            evidence.other_headers.add(field, tally(difference));
        }
        for (field, difference) in differences.into_fields() {
            evidence.fields.add(field, tally(difference));
        }
    }
}

/// Counts a request that was answered and is not compared.
pub fn record_skipped(evidence: &mut Evidence, reason: &str) {
    evidence.skipped.entry(reason.to_owned()).or_default().absorb(1);
}

/// Field by field. Where the statuses differ, the rest differs of itself, and is not counted.
fn compare_responses(
    main: &CapturedResponse,
    shadow: &CapturedResponse,
    rules: &ComparisonRules,
) -> Differences {
    let mut differences = Differences::default();
    if main.status != shadow.status {
        let show = || (main.status.to_string(), shadow.status.to_string());
        differences.add_difference(Field::Status, DifferenceKind::Value, show);
        return differences;
    }
    differences.add_equal(Field::Status);
    for rule in &rules.headers {
        headers::compare(rule, main, shadow, &mut differences);
    }
    headers::compare_others(rules, main, shadow, &mut differences);
    body::compare(main, shadow, &mut differences);
    differences
}

fn build_tally(pair: &ResponsePair, difference: Option<Difference>) -> FieldTally {
    let mut tally = FieldTally { compared: 1, ..FieldTally::default() };
    if let Some(Difference { kind, main, shadow }) = difference {
        tally.differing = 1;
        tally.kinds.insert(kind, 1);
        let request = redact::redact_request(&pair.request.method, &pair.request.path_and_query);
        tally.examples.add(Example { at: pair.request.at, request, kind, main, shadow });
    }
    tally
}
