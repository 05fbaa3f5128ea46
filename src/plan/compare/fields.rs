//! Which fields differ, and which only seem to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

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
    /// The fields that differ first, then the most frequent.
    pub findings: Vec<FieldFinding>,
}

impl FieldAssessment {
    pub fn judge(evidence: &Evidence, ignore: &[Field]) -> Self {
        let fields = &evidence.fields.entries;
        let noisy =
            |tally: &&FieldTally| tally.control_differing >= MIN_NOISE_DIFFERENCES && tally.differing > 0;
        let z = compute_z_for_many(fields.values().filter(noisy).count());
        let mut findings = Vec::new();
        let mut by_field = BTreeMap::new();
        for (field, tally) in fields.iter().filter(|(_, tally)| tally.differing > 0) {
            let finding =
                if is_ignored(ignore, field) { FieldVerdict::Ignored } else { judge_field(tally, z) };
            by_field.insert(field.clone(), finding);
            findings.push(build_finding(field.to_string(), finding, tally));
        }
        if let Some(rest) = evidence.fields.overflow.as_ref().filter(|rest| rest.differing > 0) {
            findings.push(build_finding("other".into(), FieldVerdict::Differs, rest));
        }
        findings.sort_by_key(|one| (one.verdict, std::cmp::Reverse(one.shadow.part)));
        Self { by_field, ignore: ignore.to_vec(), findings }
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
        counted + rest.min(patterns.overflow_count)
    }

    /// A field that is no longer counted by name is never noise.
    fn is_counted(&self, field: &Field) -> bool {
        match self.by_field.get(field) {
            Some(finding) => *finding == FieldVerdict::Differs,
            None => !is_ignored(&self.ignore, field),
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
