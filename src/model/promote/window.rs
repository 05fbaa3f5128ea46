//! What the canary and main did over the same minutes, and what was made of it.

use serde::{Deserialize, Serialize};

use crate::model::capped::Merge;
use crate::model::proxy::{Latencies, LegStats};

/// Requests to one version, over some time and some hosts.
///
/// A request fails when it is answered with 5xx, when it gets no answer (`connect`, `reset`), and when a canary did not take it,
/// so that main answered instead. A client that goes away is not counted at all: that is not the version's doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub requests: u64,
    pub failed: u64,
    /// Among the failed ones those that a canary did not take.
    pub not_taken: u64,
    /// Of those with an answer.
    #[serde(with = "pairs")]
    pub latency: Latencies,
}

/// Within a tagged enum a map's keys stay texts (serde-rs/serde#1183), so that buckets would not be read back as numbers.
mod pairs {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Latencies;

    pub fn serialize<S: Serializer>(latency: &Latencies, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(&latency.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Latencies, D::Error> {
        let pairs = Vec::<(u64, u64)>::deserialize(from)?;
        Ok(Latencies(pairs.into_iter().collect()))
    }
}

impl Counts {
    pub fn of(leg: &LegStats) -> Self {
        let error = |reason: &str| leg.errors.get(reason).copied().unwrap_or(0);
        let unanswered = error("connect") + error("reset") + leg.fallbacks;
        Self {
            requests: leg.answers.values().sum::<u64>() + unanswered,
            failed: leg.answers.get("5").copied().unwrap_or(0) + unanswered,
            not_taken: leg.fallbacks,
            latency: leg.latency.clone(),
        }
    }

    /// What came since an earlier look; `None`: something was more then, so the counting began anew meanwhile.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let mut latency = self.latency.clone();
        for (bucket, count) in &before.latency.0 {
            let left = latency.0.get_mut(bucket)?;
            *left = left.checked_sub(*count)?;
        }
        latency.0.retain(|_, count| *count > 0);
        Some(Self {
            requests: self.requests.checked_sub(before.requests)?,
            failed: self.failed.checked_sub(before.failed)?,
            not_taken: self.not_taken.checked_sub(before.not_taken)?,
            latency,
        })
    }

    pub fn sample(&self) -> Sample {
        Sample { requests: self.requests, failed: self.failed, p99_us: self.latency.at(99, 100) }
    }
}

impl Merge for Counts {
    fn absorb(&mut self, other: Self) {
        self.requests.absorb(other.requests);
        self.failed.absorb(other.failed);
        self.not_taken.absorb(other.not_taken);
        self.latency.absorb(other.latency);
    }
}

/// [`Counts`] in short, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub requests: u64,
    pub failed: u64,
    /// Absent of nothing.
    pub p99_us: Option<u64>,
}

/// What follows from an interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// No worse than main: the next share may come.
    Advance,
    /// The same at the last share: the version may become main.
    Done,
    /// Neither good nor bad is shown.
    Hold { reason: String },
    /// It is worse than main.
    Breach { reason: String },
}

impl Verdict {
    pub const fn passes(&self) -> bool {
        matches!(self, Self::Advance | Self::Done)
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Advance | Self::Done => "",
            Self::Hold { reason } | Self::Breach { reason } => reason,
        }
    }
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    #[serde(flatten)]
    pub verdict: Verdict,
    pub canary: Sample,
    /// What it was compared with.
    pub main: Sample,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(latencies: &[u64], failed: u64) -> Counts {
        let latency: Latencies = latencies.iter().copied().collect();
        Counts { requests: latency.count() + failed, failed, not_taken: 0, latency }
    }

    proptest! {
        #[test]
        fn what_was_added_is_what_came_since(
            before in prop::collection::vec(0u64..5_000, 0..50),
            more in prop::collection::vec(0u64..5_000, 0..50),
            failed in 0u64..9,
            more_failed in 0u64..9,
        ) {
            let (before, more) = (counts(&before, failed), counts(&more, more_failed));
            let after = before.clone().merged(more.clone());
            prop_assert_eq!(after.since(&before), Some(more.clone()));
            prop_assert_eq!(before.since(&after).is_none(), more.requests > 0);
        }
    }

    #[test]
    fn a_client_that_goes_away_is_nobodys_failure() {
        let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect();
        let leg = LegStats {
            deployment: "dp_0123456789".parse().unwrap(),
            version: "2.0.0".parse().unwrap(),
            answers: map(&[("2", 90), ("4", 5), ("5", 3)]),
            errors: map(&[("client", 7), ("connect", 1), ("reset", 2)]),
            latency: Latencies::default(),
            fallbacks: 4,
        };
        let counts = Counts::of(&leg);
        assert_eq!((counts.requests, counts.failed, counts.not_taken), (105, 10, 4));
    }
}
