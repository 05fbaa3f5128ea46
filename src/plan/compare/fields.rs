//! Which fields differ, and which only seem to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::stats::{Rate, exceeds_by, z_of_many};
use crate::model::evidence::{Evidence, Example, Kind, Tally};
use crate::model::field::Field;

/// From so many differences of main against itself on a field can be noise: one may be an accident.
const NOISE: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// More often than main differs from itself.
    Differs,
    /// Main differs from itself as often.
    Noise,
    /// It was asked not to be counted.
    Ignored,
}

/// A field that differed at least once.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FieldFinding {
    /// `other`: all fields beyond those that are told apart.
    pub field: String,
    pub finding: Finding,
    /// Requests in which the shadow's differs from main's, of those that have the field.
    pub shadow: Rate,
    /// The same of main's two answers.
    pub control: Rate,
    pub kinds: BTreeMap<Kind, u64>,
    pub examples: Vec<Example>,
}

/// The verdict on every field that differed.
pub(super) struct Fields {
    by_field: BTreeMap<Field, Finding>,
    ignore: Vec<Field>,
    /// What counts first, then the most frequent.
    pub findings: Vec<FieldFinding>,
}

impl Fields {
    pub fn judge(evidence: &Evidence, ignore: &[Field]) -> Self {
        let fields = &evidence.fields.kept;
        let noisy = |tally: &&Tally| tally.control_differing >= NOISE && tally.differing > 0;
        let z = z_of_many(fields.values().filter(noisy).count());
        let mut findings = Vec::new();
        let mut by_field = BTreeMap::new();
        for (field, tally) in fields.iter().filter(|(_, tally)| tally.differing > 0) {
            let finding = if is_ignored(ignore, field) { Finding::Ignored } else { judge(tally, z) };
            by_field.insert(field.clone(), finding);
            findings.push(found(field.to_string(), finding, tally));
        }
        if let Some(rest) = evidence.fields.rest.as_ref().filter(|rest| rest.differing > 0) {
            findings.push(found("other".into(), Finding::Differs, rest));
        }
        findings.sort_by_key(|one| (one.finding, std::cmp::Reverse(one.shadow.part)));
        Self { by_field, ignore: ignore.to_vec(), findings }
    }

    /// Requests in which a field differs that counts; where that is not known exactly, rather too many.
    pub fn differing_requests(&self, evidence: &Evidence) -> u64 {
        let patterns = &evidence.patterns;
        let kept = patterns
            .kept
            .iter()
            .filter(|(pattern, _)| pattern.fields().iter().any(|field| self.counts(field)));
        let kept: u64 = kept.map(|(_, count)| count).sum();
        // Of the others only the fields are known: each could have been in a request of its own.
        let rest = patterns.rest_fields.kept.iter().filter(|(field, _)| self.counts(field));
        let rest = rest.map(|(_, count)| count).sum::<u64>() + patterns.rest_fields.rest.unwrap_or(0);
        kept + rest.min(patterns.rest)
    }

    /// A field that is not told apart any more is never noise.
    fn counts(&self, field: &Field) -> bool {
        match self.by_field.get(field) {
            Some(finding) => *finding == Finding::Differs,
            None => !is_ignored(&self.ignore, field),
        }
    }
}

fn is_ignored(ignore: &[Field], field: &Field) -> bool {
    ignore.iter().any(|outer| outer.covers(field))
}

fn judge(tally: &Tally, z: f64) -> Finding {
    if tally.control_differing < NOISE {
        return Finding::Differs;
    }
    let beyond =
        exceeds_by(tally.differing, tally.compared, tally.control_differing, tally.control_compared, z);
    if beyond > 0.0 { Finding::Differs } else { Finding::Noise }
}

fn found(field: String, finding: Finding, tally: &Tally) -> FieldFinding {
    FieldFinding {
        field,
        finding,
        shadow: Rate::new(tally.differing, tally.compared),
        control: Rate::new(tally.control_differing, tally.control_compared),
        kinds: tally.kinds.clone(),
        examples: tally.examples.0.clone(),
    }
}
