//! The counts of the canary and main over the same minutes, and the verdict on them.

use serde::{Deserialize, Serialize};

use crate::model::capped::{Merge, absorb_fields};
use crate::model::proxy::{Latencies, UpstreamStats};

/// Requests to one version, over some time and some hosts.
///
/// A request fails when it is answered with 5xx, when it gets no answer (`connect`, `reset`), and when a canary did not take it,
/// so that main answered instead. A client that goes away is not counted at all: that is not the version's doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    pub requests: u64,
    pub failed: u64,
    /// Among the failed ones those that a canary did not take.
    #[serde(alias = "not_taken")]
    pub fallbacks: u64,
    /// Latencies of the requests with an answer.
    #[serde(with = "latency_pairs")]
    pub latency: Latencies,
}

/// Within a tagged enum a map's keys stay texts (serde-rs/serde#1183), so that buckets would not be read back as numbers.
mod latency_pairs {
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

impl RequestCounts {
    pub fn from_stats(leg: &UpstreamStats) -> Self {
        let error = |reason: &str| leg.errors.get(reason).copied().unwrap_or(0);
        let unanswered = error("connect") + error("reset") + leg.fallbacks;
        Self {
            requests: leg.answers.values().sum::<u64>() + unanswered,
            failed: leg.answers.get("5").copied().unwrap_or(0) + unanswered,
            fallbacks: leg.fallbacks,
            latency: leg.latency.clone(),
        }
    }

    /// Returns the counts since an earlier sample; `None`: some count was higher in it, so the counters were reset in between.
    pub fn difference_since(&self, before: &Self) -> Option<Self> {
        let mut latency = self.latency.clone();
        for (bucket, count) in &before.latency.0 {
            let left = latency.0.get_mut(bucket)?;
            *left = left.checked_sub(*count)?;
        }
        latency.0.retain(|_, count| *count > 0);
        Some(Self {
            requests: self.requests.checked_sub(before.requests)?,
            failed: self.failed.checked_sub(before.failed)?,
            fallbacks: self.fallbacks.checked_sub(before.fallbacks)?,
            latency,
        })
    }

    pub fn to_sample(&self) -> RequestSample {
        RequestSample { requests: self.requests, failed: self.failed, p99_us: self.latency.quantile(99, 100) }
    }
}

impl Merge for RequestCounts {
    fn absorb(&mut self, other: Self) {
        absorb_fields!(self, other: requests, failed, fallbacks, latency);
    }
}

/// [`Counts`] in short, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSample {
    pub requests: u64,
    pub failed: u64,
    /// Absent of nothing.
    pub p99_us: Option<u64>,
}

/// The verdict on an interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum StepVerdict {
    /// No worse than main: the next share may come.
    Advance,
    /// Passed at the last share: the version may become main.
    Done,
    /// Neither good nor bad is shown.
    Hold { reason: String },
    /// The version is worse than main.
    Breach { reason: String },
}

impl StepVerdict {
    pub const fn is_passed(&self) -> bool {
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
pub struct Judgement {
    #[serde(flatten)]
    pub verdict: StepVerdict,
    pub canary: RequestSample,
    /// The sample of main that it was compared with.
    pub main: RequestSample,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn make_counts(latencies: &[u64], failed: u64) -> RequestCounts {
        let latency: Latencies = latencies.iter().copied().collect();
        RequestCounts { requests: latency.count() + failed, failed, fallbacks: 0, latency }
    }

    proptest! {
        #[test]
        fn difference_since_returns_added_counts(
            before in prop::collection::vec(0u64..5_000, 0..50),
            more in prop::collection::vec(0u64..5_000, 0..50),
            failed in 0u64..9,
            more_failed in 0u64..9,
        ) {
            let (before, more) = (make_counts(&before, failed), make_counts(&more, more_failed));
            let after = before.clone().merge(more.clone());
            prop_assert_eq!(after.difference_since(&before), Some(more.clone()));
            prop_assert_eq!(before.difference_since(&after).is_none(), more.requests > 0);
        }
    }

    #[test]
    fn client_abort_is_not_a_failure() {
        let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect();
        let leg = UpstreamStats {
            deployment: "dp_0123456789".parse().unwrap(),
            version: "2.0.0".parse().unwrap(),
            answers: map(&[("2", 90), ("4", 5), ("5", 3)]),
            errors: map(&[("client", 7), ("connect", 1), ("reset", 2)]),
            latency: Latencies::default(),
            fallbacks: 4,
        };
        let counts = RequestCounts::from_stats(&leg);
        assert_eq!((counts.requests, counts.failed, counts.fallbacks), (105, 10, 4));
    }
}
