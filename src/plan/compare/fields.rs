//! Which fields differ, and which only seem to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::header_choice::ComparedHeaders;
use super::stats::{Rate, compute_excess_lower_bound, compute_z_for_many};
use crate::model::evidence::{DifferenceKind, Evidence, Example, FieldTally};
use crate::model::field::Field;

/// The number of differences of main against itself from which a field can be noise: a single one may be an accident.
const MIN_NOISE_DIFFERENCES: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FieldVerdict {
    /// More often than main differs from itself.
    Differs,
    /// Main differs from itself as often.
    Noise,
    /// The field is on the list of fields to ignore.
    Ignored,
    /// The header is none of those that are compared.
    LeftOut,
}

/// A field that differed at least once.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FieldFinding {
    /// `other`: all fields beyond those that are counted by name.
    pub field: String,
    pub verdict: FieldVerdict,
    /// Requests in which the shadow's differs from main's, of those that have the field.
    pub shadow: Rate,
    /// Requests in which main's two answers differ, of those that have the field.
    pub control: Rate,
    pub kinds: BTreeMap<DifferenceKind, u64>,
    pub examples: Vec<Example>,
}

/// The verdict on every field that differed.
pub(super) struct FieldAssessment {
    by_field: BTreeMap<Field, FieldVerdict>,
    ignore: Vec<Field>,
    headers: ComparedHeaders,
    /// The fields that differ first, then the most frequent.
    pub findings: Vec<FieldFinding>,
}

impl FieldAssessment {
    pub fn judge(evidence: &Evidence, ignore: &[Field], headers: &ComparedHeaders) -> Self {
        let fields = || evidence.fields.entries.iter().chain(&evidence.other_headers.entries);
        let noisy =
            |tally: &&FieldTally| tally.control_differing >= MIN_NOISE_DIFFERENCES && tally.differing > 0;
        let z = compute_z_for_many(fields().map(|(_, tally)| tally).filter(noisy).count());
        let mut findings = Vec::new();
        let mut by_field = BTreeMap::new();
        for (field, tally) in fields().filter(|(_, tally)| tally.differing > 0) {
            let finding = if !headers.includes(field) {
                FieldVerdict::LeftOut
            } else if is_ignored(ignore, field) {
                FieldVerdict::Ignored
            } else {
                judge_field(tally, z)
            };
            by_field.insert(field.clone(), finding);
            findings.push(build_finding(field.to_string(), finding, tally));
        }
        if let Some(rest) = evidence.fields.overflow.as_ref().filter(|rest| rest.differing > 0) {
            findings.push(build_finding("other".into(), FieldVerdict::Differs, rest));
        }
        let unnamed = evidence.other_headers.overflow.as_ref().filter(|rest| rest.differing > 0);
        if let Some(rest) = unnamed {
            let is_chosen = *headers == ComparedHeaders::All;
            let verdict = if is_chosen { FieldVerdict::Differs } else { FieldVerdict::LeftOut };
            findings.push(build_finding("other headers".into(), verdict, rest));
        }
        findings.sort_by_key(|one| (one.verdict, std::cmp::Reverse(one.shadow.part)));
        Self { by_field, ignore: ignore.to_vec(), headers: headers.clone(), findings }
    }

    /// Requests in which a field differs that counts; where that is not known exactly, rather too many.
    pub fn differing_requests(&self, evidence: &Evidence) -> u64 {
        let patterns = &evidence.patterns;
        let counted = patterns
            .counts
            .iter()
            .filter(|(pattern, _)| pattern.fields().iter().any(|field| self.is_counted(field)));
        let counted: u64 = counted.map(|(_, count)| count).sum();
        // Of the others only the fields are known: each could have been in a request of its own.
        let rest = patterns.overflow_fields.entries.iter().filter(|(field, _)| self.is_counted(field));
        let rest = rest.map(|(_, count)| count).sum::<u64>() + patterns.overflow_fields.overflow.unwrap_or(0);
        // Headers without a rule are in no pattern: each could have differed in requests of its own.
        let is_chosen = |field: &Field| self.is_counted(field);
        let chosen = evidence.other_headers.entries.iter().filter(|(field, _)| is_chosen(field));
        let chosen: u64 = chosen.map(|(_, tally)| tally.differing).sum();
        let unnamed =
            evidence.other_headers.overflow.as_ref().filter(|_| self.headers == ComparedHeaders::All);
        let chosen = chosen + unnamed.map_or(0, |rest| rest.differing);
        (counted + rest.min(patterns.overflow_count) + chosen).min(evidence.compared)
    }

    /// A field that is no longer counted by name is never noise.
    fn is_counted(&self, field: &Field) -> bool {
        match self.by_field.get(field) {
            Some(finding) => *finding == FieldVerdict::Differs,
            None => self.headers.includes(field) && !is_ignored(&self.ignore, field),
        }
    }
}

fn is_ignored(ignore: &[Field], field: &Field) -> bool {
    ignore.iter().any(|outer| outer.covers(field))
}

fn judge_field(tally: &FieldTally, z: f64) -> FieldVerdict {
    if tally.control_differing < MIN_NOISE_DIFFERENCES {
        return FieldVerdict::Differs;
    }
    let beyond = compute_excess_lower_bound(
        tally.differing,
        tally.compared,
        tally.control_differing,
        tally.control_compared,
        z,
    );
    if beyond > 0.0 { FieldVerdict::Differs } else { FieldVerdict::Noise }
}

fn build_finding(field: String, finding: FieldVerdict, tally: &FieldTally) -> FieldFinding {
    FieldFinding {
        field,
        verdict: finding,
        shadow: Rate::new(tally.differing, tally.compared),
        control: Rate::new(tally.control_differing, tally.control_compared),
        kinds: tally.kinds.clone(),
        examples: tally.examples.0.clone(),
    }
}
