//! The evidence of the comparisons of a shadow's answers with main's so far, on one host or on several.
//!
//! Every size here is limited, and every order of merging gives the same result.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::capped::{CappedMap, Merge, absorb_fields};
use super::field::Field;
use super::proxy::Latencies;

/// Limit of the fields that are counted separately; the others share one sum.
pub const MAX_FIELDS: usize = 500;
/// Sets of fields that differed together in one request; of the others the counts per field are kept.
pub const MAX_PATTERNS: usize = 100;
/// Fields of such a set.
pub const MAX_PATTERN_FIELDS: usize = 32;
/// Pairs of statuses.
pub const MAX_STATUSES: usize = 100;
/// Examples of a field.
pub const MAX_EXAMPLES: usize = 3;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// When the first and the last of the compared requests began.
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
    /// Requests whose answers were compared.
    pub compared: u64,
    /// Among them those that main answered twice.
    pub controls: u64,
    /// Requests that were answered and not compared, by reason: `conditional`; `compare`: the judge was behind.
    pub skipped: BTreeMap<String, u64>,
    /// Compared answers whose bodies could not be compared: not read to their end, or coded in unlike ways.
    #[serde(default)]
    pub bodies_unread: u64,
    /// Main's and the shadow's: `"200/500"`.
    pub statuses: CappedMap<String, u64, MAX_STATUSES>,
    pub fields: CappedMap<Field, FieldTally, MAX_FIELDS>,
    /// Header fields that no rule compares. They decide nothing unless the operator chooses them.
    #[serde(default)]
    pub other_headers: CappedMap<Field, FieldTally, MAX_FIELDS>,
    /// Requests by what differed in them.
    pub patterns: Patterns,
    pub latency: PairedLatency,
}

/// How often a field was the same. Of a repeated one (`$.items[].price`) a request counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldTally {
    /// Requests in which main or the shadow has it.
    pub compared: u64,
    pub differing: u64,
    /// Requests in which one of main's own two answers has it: shows what main answers differently by itself.
    pub control_compared: u64,
    pub control_differing: u64,
    /// Number of requests whose first difference in the field was of this kind.
    pub kinds: BTreeMap<DifferenceKind, u64>,
    /// The newest ones, newest first.
    pub examples: Examples,
}

/// How the shadow's answer differs from main's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    Value,
    /// A number for a text, an object for an array, something else for JSON.
    Type,
    /// Main has it, the shadow has not.
    Missing,
    /// The shadow has it, main has not.
    Extra,
    /// Length of an array or a body.
    Length,
}

/// A difference as a person may see it: secrets are removed, long values are cut.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Example {
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// `GET /items?page=2`
    pub request: String,
    pub kind: DifferenceKind,
    pub main: String,
    pub shadow: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Examples(pub Vec<Example>);

/// Requests by the set of fields that differed in them, so that it can be decided later which fields are noise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "PatternList", into = "PatternList")]
#[schemars(with = "PatternList")]
pub struct Patterns {
    /// The smallest sets.
    #[serde(alias = "kept")]
    pub counts: BTreeMap<Pattern, u64>,
    /// Requests with other sets.
    #[serde(alias = "rest")]
    pub overflow_count: u64,
    /// In how many of those each field differed.
    #[serde(alias = "rest_fields")]
    pub overflow_fields: CappedMap<Field, u64, MAX_FIELDS>,
}

/// Fields that differed together; few before many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    /// Comes first so that the derived order sorts by it.
    len: usize,
    fields: BTreeSet<Field>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct PatternList {
    #[serde(alias = "kept")]
    counts: Vec<PatternCount>,
    #[serde(alias = "rest")]
    overflow_count: u64,
    #[serde(alias = "rest_fields")]
    overflow_fields: CappedMap<Field, u64, MAX_FIELDS>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct PatternCount {
    fields: BTreeSet<Field>,
    count: u64,
}

/// Both latencies of the compared requests, and how far apart they were in each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PairedLatency {
    pub main: Latencies,
    pub shadow: Latencies,
    /// Distribution of the time by which the shadow was slower, where it was.
    #[serde(alias = "slower")]
    pub slowdown: Latencies,
    /// Distribution of the time by which the shadow was faster, or the same, where it was.
    #[serde(alias = "faster")]
    pub speedup: Latencies,
}

impl Pattern {
    pub fn new(fields: BTreeSet<Field>) -> Self {
        Self { len: fields.len(), fields }
    }

    pub const fn fields(&self) -> &BTreeSet<Field> {
        &self.fields
    }
}

impl Patterns {
    /// Counts requests in which these fields differed; not for the empty set.
    pub fn add(&mut self, pattern: Pattern, count: u64) {
        if pattern.len > MAX_PATTERN_FIELDS {
            return self.add_rest(pattern, count);
        }
        self.counts.entry(pattern).or_default().absorb(count);
        while self.counts.len() > MAX_PATTERNS {
            if let Some((pattern, count)) = self.counts.pop_last() {
                self.add_rest(pattern, count);
            }
        }
    }

    fn add_rest(&mut self, pattern: Pattern, count: u64) {
        self.overflow_count.absorb(count);
        for field in pattern.fields {
            self.overflow_fields.add(field, count);
        }
    }
}

impl Examples {
    pub fn add(&mut self, example: Example) {
        let at = self.0.partition_point(|there| *there > example);
        self.0.insert(at, example);
        self.0.truncate(MAX_EXAMPLES);
    }
}

impl PairedLatency {
    pub fn record(&mut self, main_us: u64, shadow_us: u64) {
        self.main.record(main_us);
        self.shadow.record(shadow_us);
        if shadow_us > main_us {
            self.slowdown.record(shadow_us - main_us);
        } else {
            self.speedup.record(main_us - shadow_us);
        }
    }
}

impl Merge for Evidence {
    fn absorb(&mut self, other: Self) {
        self.since = self.since.into_iter().chain(other.since).min();
        self.until = self.until.into_iter().chain(other.until).max();
        absorb_fields!(self, other: compared, controls, bodies_unread, skipped);
        absorb_fields!(self, other: statuses, fields, other_headers, patterns, latency);
    }
}

impl Merge for FieldTally {
    fn absorb(&mut self, other: Self) {
        absorb_fields!(self, other: compared, differing, control_compared, control_differing);
        for (kind, count) in other.kinds {
            self.kinds.entry(kind).or_default().absorb(count);
        }
        for example in other.examples.0 {
            self.examples.add(example);
        }
    }
}

impl Merge for Patterns {
    fn absorb(&mut self, other: Self) {
        for (pattern, count) in other.counts {
            self.add(pattern, count);
        }
        self.overflow_count.absorb(other.overflow_count);
        self.overflow_fields.absorb(other.overflow_fields);
    }
}

impl Merge for PairedLatency {
    fn absorb(&mut self, other: Self) {
        absorb_fields!(self, other: main, shadow, slowdown, speedup);
    }
}

impl From<Patterns> for PatternList {
    fn from(patterns: Patterns) -> Self {
        let count = |(pattern, count): (Pattern, u64)| PatternCount { fields: pattern.fields, count };
        let counts = patterns.counts.into_iter().map(count).collect();
        Self { counts, overflow_count: patterns.overflow_count, overflow_fields: patterns.overflow_fields }
    }
}

impl From<PatternList> for Patterns {
    fn from(list: PatternList) -> Self {
        let mut patterns = Self {
            counts: BTreeMap::new(),
            overflow_count: list.overflow_count,
            overflow_fields: list.overflow_fields,
        };
        for one in list.counts {
            patterns.add(Pattern::new(one.fields), one.count);
        }
        patterns
    }
}
