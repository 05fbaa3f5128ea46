//! A shadow's answers against main's: pairs -> [`Evidence`] -> [`Report`].

use std::collections::BTreeSet;

use crate::model::capped::Merge as _;
use crate::model::compare::{Answer, Pair, Rules};
use crate::model::evidence::Kind;
use crate::model::evidence::{Evidence, Example, Pattern, Tally};
use crate::model::field::Field;

use seen::{Difference, Seen};

mod body;
mod coverage;
mod fields;
mod headers;
mod json;
mod latency;
mod redact;
mod report;
mod seen;
mod stats;
#[cfg(test)]
mod tests;

pub use coverage::{Coverage, Harm};
pub use fields::{FieldFinding, Finding};
pub use latency::{LatencyFinding, Quantiles};
pub use report::{Compared, Demand, Report, StatusCount, Verdict, count, reasons, share};
pub use stats::Rate;
pub(in crate::plan) use stats::{Z95, exceeds_by, ratio, wilson};

/// Adds what one request shows.
pub fn record(evidence: &mut Evidence, pair: &Pair, rules: &Rules) {
    if pair.request.conditional {
        return skip(evidence, "conditional");
    }
    let at = pair.request.at;
    evidence.since = Some(evidence.since.map_or(at, |since| since.min(at)));
    evidence.until = Some(evidence.until.map_or(at, |until| until.max(at)));
    evidence.compared += 1;
    evidence.statuses.add(format!("{}/{}", pair.main.status, pair.shadow.status), 1);
    evidence.latency.record(pair.main.latency_us, pair.shadow.latency_us);
    let seen = answers(&pair.main, &pair.shadow, rules);
    evidence.bodies_unread += u64::from(seen.body_unread);
    let together: BTreeSet<Field> = seen.differing.keys().cloned().collect();
    if !together.is_empty() {
        evidence.patterns.add(Pattern::new(together), 1);
    }
    for (field, difference) in seen.fields() {
        evidence.fields.add(field, tally(pair, difference));
    }
    if let Some(control) = &pair.control {
        evidence.controls += 1;
        for (field, difference) in answers(&pair.main, control, rules).fields() {
            let control_differing = u64::from(difference.is_some());
            evidence.fields.add(field, Tally { control_compared: 1, control_differing, ..Tally::default() });
        }
    }
}

/// Counts a request that was answered and is not compared.
pub fn skip(evidence: &mut Evidence, reason: &str) {
    evidence.skipped.entry(reason.to_owned()).or_default().absorb(1);
}

/// Field by field. Where the statuses differ, the rest differs of itself, and is not counted.
fn answers(main: &Answer, shadow: &Answer, rules: &Rules) -> Seen {
    let mut seen = Seen::default();
    if main.status != shadow.status {
        let show = || (main.status.to_string(), shadow.status.to_string());
        seen.differ(Field::Status, Kind::Value, show);
        return seen;
    }
    seen.same(Field::Status);
    for rule in &rules.headers {
        headers::compare(rule, main, shadow, &mut seen);
    }
    body::compare(main, shadow, &mut seen);
    seen
}

fn tally(pair: &Pair, difference: Option<Difference>) -> Tally {
    let mut tally = Tally { compared: 1, ..Tally::default() };
    if let Some(Difference { kind, main, shadow }) = difference {
        tally.differing = 1;
        tally.kinds.insert(kind, 1);
        let request = redact::request(&pair.request.method, &pair.request.path_and_query);
        tally.examples.add(Example { at: pair.request.at, request, kind, main, shadow });
    }
    tally
}
