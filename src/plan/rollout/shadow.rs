//! What the version's answers were like while it was a shadow: judged before it answers anybody.

use crate::model::capped::Merge as _;
use crate::model::evidence::Evidence;
use crate::model::proxy::{ProxyStats, ServiceStats, ShadowStats};
use crate::model::rollout::{RolloutSpec, Target, Verdict};
use crate::plan::compare::{self, Compared, Coverage, Demand, Harm, Report};

/// What one host knows of the shadow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Absent: nothing was compared.
    pub evidence: Option<Evidence>,
    /// Absent: it has no proxy.
    pub stats: Option<ProxyStats>,
}

/// All hosts together, against what is required. Never `Done`; no data is never enough.
pub fn shown(spec: &RolloutSpec, target: &Target, hosts: &[Shown]) -> (Verdict, String) {
    let mut evidence = Evidence::default();
    for shown in hosts.iter().filter_map(|host| host.evidence.clone()) {
        evidence.absorb(shown);
    }
    let services = || {
        let stats = hosts.iter().filter_map(|host| host.stats.as_ref());
        stats.flat_map(|stats| &stats.services).filter(|one| one.service == spec.service)
    };
    let shadows: Vec<ShadowStats> = services().flat_map(|one| shadow(one, target)).cloned().collect();
    let legs: Vec<_> = services()
        .flat_map(|one| one.legs.iter().filter(|leg| leg.deployment == target.main).cloned())
        .collect();
    let of = Compared {
        service: spec.service.clone(),
        main: target.main_version.clone(),
        shadow: spec.version.clone(),
    };
    let asked = Demand { require_match: spec.require_match, min_samples: spec.min_samples, ignore: vec![] };
    let coverage = Coverage::of(&evidence, &shadows);
    let report = Report::of(of, &evidence, coverage, Harm::of(&legs), asked);
    let reason = report.reason.clone();
    let verdict = match report.verdict {
        compare::Verdict::Same => Verdict::Advance,
        compare::Verdict::Differs => Verdict::Breach { reason: reason.clone() },
        compare::Verdict::Insufficient => Verdict::Hold { reason: reason.clone() },
    };
    (verdict, reason)
}

fn shadow<'a>(service: &'a ServiceStats, target: &'a Target) -> impl Iterator<Item = &'a ShadowStats> {
    service.shadows.iter().filter(|shadow| shadow.deployment == target.deployment)
}
