//! Is the shadow the same? Evidence and the requirements on it -> a verdict with its reason.
//!
//! - A field is noise where main answers it differently by itself (twice at least), unless the shadow differs more often than
//!   that: then the difference of the two shares is surely above 0, at 95 % for all noisy fields together. Without a second
//!   answer of main every difference counts.
//! - A request matches where nothing but noise and ignored fields differs in it. Copies that the shadow did not answer do not
//!   match.
//! - A wanted rate is compared with the share that was seen, not with the lower end of its interval: that 999 of 1,000 match is
//!   enough for 99.9 %. How sure it is follows from the samples that are required.
//! - Fewer samples than required, or none, are never enough.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::coverage::{Coverage, UserImpact};
use super::fields::{FieldAssessment, FieldFinding, FieldVerdict};
use super::header_choice::ComparedHeaders;
use super::latency::LatencyFinding;
use super::stats::Rate;
use crate::model::evidence::Evidence;
use crate::model::field::Field;
use crate::model::name::ServiceName;
use crate::model::percent::Percent;
use crate::model::plural::Count;
use crate::model::version::Version;

/// The requirements on the shadow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Criteria {
    /// Absent: every one.
    pub require_match: Option<Percent>,
    pub min_samples: u64,
    /// With everything below them.
    pub ignore: Vec<Field>,
    pub headers: ComparedHeaders,
}

/// The two deployments that were compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComparedVersions {
    pub service: ServiceName,
    pub main: Version,
    pub shadow: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ComparisonVerdict {
    /// The shadow is the same, within the requirements.
    Same,
    Differs,
    /// Too little was compared to decide.
    Insufficient,
}

impl fmt::Display for ComparisonVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Same => "same",
            Self::Differs => "differs",
            Self::Insufficient => "insufficient",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ComparisonReport {
    #[serde(flatten)]
    pub of: ComparedVersions,
    pub verdict: ComparisonVerdict,
    /// The reason as one sentence, without a full stop.
    pub reason: String,
    pub asked: Criteria,
    /// The names of the header fields that decide, for people.
    pub headers_compared: String,
    /// When the first and the last of the compared requests began.
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
    /// Requests without a difference beyond noise, of those compared and those the shadow did not answer.
    pub matching: Rate,
    /// Requests that main answered twice.
    pub controls: u64,
    /// The fields that differed at least once: those that count first, then the most frequent.
    pub fields: Vec<FieldFinding>,
    /// How many fields were looked at.
    pub fields_compared: usize,
    pub statuses: Vec<StatusCount>,
    pub latency: Option<LatencyFinding>,
    pub coverage: Coverage,
    pub harm: UserImpact,
    /// Remarks that a reader should know before trusting the verdict; full sentences.
    pub remarks: Vec<String>,
}

/// The number of requests that main answered with one status and the shadow with another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StatusCount {
    /// `other` for those beyond the number that is counted by name.
    pub main: String,
    pub shadow: String,
    pub count: u64,
}

impl ComparisonReport {
    /// Decides.
    pub fn build(
        of: ComparedVersions,
        evidence: &Evidence,
        coverage: Coverage,
        harm: UserImpact,
        criteria: Criteria,
    ) -> Self {
        let fields = FieldAssessment::judge(evidence, &criteria.ignore, &criteria.headers);
        let differing = fields.differing_requests(evidence);
        let samples = evidence.compared + coverage.count_failures();
        let matching = Rate::new(evidence.compared.saturating_sub(differing), samples);
        let (verdict, mut reason) = decide(evidence, &coverage, &fields.findings, &matching, &criteria);
        reason.push_str(&describe_left_out(&fields.findings));
        Self {
            of,
            verdict,
            reason,
            headers_compared: criteria.headers.describe(),
            asked: criteria,
            since: evidence.since,
            until: evidence.until,
            matching,
            controls: evidence.controls,
            statuses: count_statuses(evidence),
            latency: LatencyFinding::from_latency(&evidence.latency),
            remarks: build_remarks(evidence, &coverage, &fields.findings),
            fields: fields.findings,
            fields_compared: evidence.fields.entries.len(),
            coverage,
            harm,
        }
    }
}

fn decide(
    evidence: &Evidence,
    coverage: &Coverage,
    fields: &[FieldFinding],
    matching: &Rate,
    criteria: &Criteria,
) -> (ComparisonVerdict, String) {
    let unlike = matching.of - matching.part;
    if evidence.compared == 0 {
        let begun = if coverage.selected == 0 {
            "no request was copied to it yet"
        } else {
            "no answer was compared yet"
        };
        return (ComparisonVerdict::Insufficient, begun.to_owned());
    }
    if evidence.compared < criteria.min_samples {
        let so_far = if unlike > 0 {
            format!("; so far {} of them match", format_share(matching))
        } else {
            String::new()
        };
        let (got, of) = (count(evidence.compared), count(criteria.min_samples));
        return (
            ComparisonVerdict::Insufficient,
            format!("only {got} of {} compared{so_far}", Count(of, "answer")),
        );
    }
    let most = describe_top_fields(coverage, fields);
    match criteria.require_match {
        None if unlike == 0 => {
            (ComparisonVerdict::Same, format!("all of {} match", Count(count(matching.of), "answer")))
        }
        None => (
            ComparisonVerdict::Differs,
            format!("{} of {} do not match{most}", count(unlike), Count(count(matching.of), "answer")),
        ),
        Some(wanted) => {
            let whole = u128::from(matching.of) * u128::from(wanted.parts());
            let enough = u128::from(matching.part) * u128::from(Percent::WHOLE) >= whole;
            let found = format!(
                "{} of {} match, {wanted} are wanted",
                format_share(matching),
                Count(count(matching.of), "answer")
            );
            if enough {
                (ComparisonVerdict::Same, found)
            } else {
                (ComparisonVerdict::Differs, format!("{found}{most}"))
            }
        }
    }
}

/// `; most differ in $.price (14)`
fn describe_top_fields(coverage: &Coverage, fields: &[FieldFinding]) -> String {
    let failures = coverage.count_failures();
    let first = fields.first().filter(|field| field.verdict == FieldVerdict::Differs);
    match first {
        Some(field) if field.shadow.part >= failures => {
            format!("; most differ in {} ({})", field.field, count(field.shadow.part))
        }
        _ if failures > 0 => {
            format!("; {} were not answered ({})", count(failures), format_reasons(&coverage.failed))
        }
        _ => String::new(),
    }
}

/// `; not compared, and differing: x-build (14,076), age (3)`
fn describe_left_out(fields: &[FieldFinding]) -> String {
    let left_out = || fields.iter().filter(|field| field.verdict == FieldVerdict::LeftOut);
    let name = |field: &FieldFinding| {
        let header = field.field.strip_prefix("header ").unwrap_or(&field.field);
        format!("{header} ({})", count(field.shadow.part))
    };
    let names: Vec<String> = left_out().take(MAX_LEFT_OUT_NAMED).map(name).collect();
    match left_out().count().saturating_sub(names.len()) {
        _ if names.is_empty() => String::new(),
        0 => format!("; headers that differ and are not compared: {}", names.join(", ")),
        more => format!("; headers that differ and are not compared: {} and {more} more", names.join(", ")),
    }
}

/// Limit of the headers that the reason names; a list of all is in the findings.
const MAX_LEFT_OUT_NAMED: usize = 5;

fn count_statuses(evidence: &Evidence) -> Vec<StatusCount> {
    let one = |(pair, count): (&String, &u64)| {
        let (main, shadow) = pair.split_once('/').unwrap_or((pair, ""));
        StatusCount { main: main.to_owned(), shadow: shadow.to_owned(), count: *count }
    };
    let rest = evidence.statuses.overflow.map(|count| StatusCount {
        main: "other".into(),
        shadow: "other".into(),
        count,
    });
    evidence.statuses.entries.iter().map(one).chain(rest).collect()
}

fn build_remarks(evidence: &Evidence, coverage: &Coverage, fields: &[FieldFinding]) -> Vec<String> {
    let mut remarks = Vec::new();
    let noisy = fields.iter().filter(|field| field.verdict == FieldVerdict::Noise).count();
    if evidence.controls == 0 && fields.iter().any(|field| field.verdict == FieldVerdict::Differs) {
        remarks.push(
            "No request was sent to main twice: what main answers differently by itself, such as a time, counts as a difference."
                .into(),
        );
    }
    if noisy > 0 {
        let are = if noisy == 1 {
            "field is noise: main answers it"
        } else {
            "fields are noise: main answers them"
        };
        remarks.push(format!("{noisy} {are} differently by itself, so the shadow's cannot be judged."));
    }
    if evidence.bodies_unread > 0 {
        remarks.push(format!(
            "The bodies of {} were not compared: not read to their end, or coded in unlike ways.",
            Count(count(evidence.bodies_unread), "answer")
        ));
    }
    if evidence.fields.overflow.is_some() {
        remarks.push(format!(
            "There are more than {} fields; the others are counted as one, and none of them is taken for noise.",
            evidence.fields.entries.len()
        ));
    }
    let lost = coverage.count_lost();
    if lost * 10 > evidence.compared {
        remarks.push(format!(
            "{} more copies were wanted and were not made or not compared: what is left may not be typical.",
            count(lost)
        ));
    }
    remarks
}

/// Rounded down to the hundredth, so that less than what is wanted never looks like it.
pub fn format_share(rate: &Rate) -> String {
    let parts = u128::from(rate.part) * u128::from(Percent::WHOLE) / u128::from(rate.of.max(1));
    Percent::from_parts(u16::try_from(parts).unwrap_or(Percent::WHOLE)).to_string()
}

/// `1,204`
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `timeout 12, reset 2`, the most frequent first.
pub fn format_reasons(counts: &std::collections::BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    counts
        .iter()
        .map(|(reason, number)| format!("{reason} {}", count(**number)))
        .collect::<Vec<_>>()
        .join(", ")
}
