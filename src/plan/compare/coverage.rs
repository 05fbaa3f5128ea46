//! How much of a shadow's traffic the evidence rests on.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::capped::Merge as _;
use crate::model::evidence::Evidence;
use crate::model::proxy::{ShadowStats, UpstreamStats};

/// Sums over all hosts. `selected` = answered + failed + aborted + in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Coverage {
    /// Copies that were begun.
    pub selected: u64,
    pub answered: u64,
    pub in_flight: u64,
    /// Answered and compared.
    pub compared: u64,
    /// Answered and not compared, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Not begun, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Begun and given up by the proxy or the client, by reason.
    pub aborted: BTreeMap<String, u64>,
    /// Begun and not answered, by reason.
    pub failed: BTreeMap<String, u64>,
}

impl Coverage {
    /// `shadows`: one a host. Their counts should begin when the evidence does: what failed counts against the shadow.
    pub fn from_evidence(evidence: &Evidence, shadows: &[ShadowStats]) -> Self {
        let mut coverage =
            Self { compared: evidence.compared, skipped: evidence.skipped.clone(), ..Self::default() };
        for shadow in shadows {
            coverage.selected.absorb(shadow.selected);
            coverage.answered.absorb(shadow.answered);
            coverage.in_flight.absorb(shadow.in_flight);
            coverage.dropped.absorb(shadow.dropped.clone());
            coverage.aborted.absorb(shadow.aborted.clone());
            coverage.failed.absorb(shadow.failed.clone());
        }
        coverage
    }

    /// Copies that the shadow did not answer.
    pub fn count_failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Copies that were wanted, and could not be made or finished because the shadow was slow, failing, or too much for the
    /// proxy.
    pub fn count_lost(&self) -> u64 {
        let of = |map: &BTreeMap<String, u64>, reasons: &[&str]| -> u64 {
            reasons.iter().filter_map(|reason| map.get(*reason)).sum()
        };
        of(&self.dropped, &["inflight", "memory", "breaker", "slow"])
            + of(&self.aborted, &["backlog"])
            + of(&self.skipped, &["compare"])
    }
}

/// The answers that users of main got in the same time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UserImpact {
    pub answers: u64,
    /// Answers of main that begin with 5.
    pub server_errors: u64,
    /// Requests to main that ended without an answer, by reason.
    pub errors: BTreeMap<String, u64>,
}

impl UserImpact {
    /// `upstreams`: main's, one a host.
    pub fn from_stats(upstreams: &[UpstreamStats]) -> Self {
        let mut impact = Self::default();
        for upstream in upstreams {
            impact.answers.absorb(upstream.answers.values().sum());
            impact.server_errors.absorb(upstream.answers.get("5").copied().unwrap_or(0));
            impact.errors.absorb(upstream.errors.clone());
        }
        impact
    }
}
