//! `compare`: merges every host's evidence of a shadow's answers and judges it; `assign` requires a match through it.

use super::list::Listing;
use super::{FleetDeployError, FleetDeployment, all_or_partial, each};
use crate::model::capped::Merge as _;
use crate::model::evidence::Evidence;
use crate::model::host::Host;
use crate::model::name::ServiceName;
use crate::model::proxy::{ProxyStats, ServiceStats, ShadowStats, UpstreamStats};
use crate::model::version::Version;
use crate::plan::compare::{
    ComparedVersions, ComparisonReport, ComparisonVerdict, Coverage, Criteria, UserImpact,
};
use crate::world::FleetWorld;

#[derive(Debug, Clone)]
pub struct CompareOptions {
    pub service: ServiceName,
    /// The shadow.
    pub version: Version,
    pub demand: Criteria,
}

/// Judges all of the listed hosts together. A host that cannot be read is an error: it may be the one where answers differ.
pub async fn compare(
    world: &FleetWorld,
    hosts: &[Host],
    listing: &Listing,
    options: &CompareOptions,
) -> Result<ComparisonReport, FleetDeployError> {
    let CompareOptions { service, version, demand } = options;
    listing.require_complete()?;
    let main = listing.main(service).ok_or_else(|| FleetDeployError::NoMain(service.clone()))?;
    let named = || FleetDeployError::NoVersion { service: service.clone(), version: version.clone() };
    let shadow = listing.find(service, version).ok_or_else(named)?;
    let heard = all_or_partial(
        each(world, &filter_shadow_hosts(shadow, hosts), async |_, link| {
            Ok((link.read_evidence(service, &shadow.id).await?, link.read_proxy_stats().await?))
        })
        .await,
    )?;
    let mut evidence = Evidence::default();
    let (mut shadows, mut legs) = (Vec::new(), Vec::new());
    for (_, (seen, stats)) in heard {
        evidence.absorb(seen.unwrap_or_default());
        let (copies, answers) = select_stats(stats, service, shadow, main);
        shadows.extend(copies);
        legs.extend(answers);
    }
    let coverage = Coverage::from_evidence(&evidence, &shadows);
    let of =
        ComparedVersions { service: service.clone(), main: main.version.clone(), shadow: version.clone() };
    Ok(ComparisonReport::build(of, &evidence, coverage, UserImpact::from_stats(&legs), demand.clone()))
}

/// Returns an error unless the shadow's answers match main's as much as is demanded.
pub async fn require_match(
    world: &FleetWorld,
    hosts: &[Host],
    listing: &Listing,
    options: &CompareOptions,
) -> Result<ComparisonReport, FleetDeployError> {
    let report = compare(world, hosts, listing, options).await?;
    if report.verdict == ComparisonVerdict::Same {
        return Ok(report);
    }
    let CompareOptions { service, version, .. } = options.clone();
    Err(FleetDeployError::MatchNotProven { service, version, verdict: report.verdict, reason: report.reason })
}

/// The hosts where the version is a shadow: where it is main already, its earlier evidence is meaningless.
fn filter_shadow_hosts(shadow: &FleetDeployment, hosts: &[Host]) -> Vec<Host> {
    shadow.filter_hosts(hosts).into_iter().filter(|host| !shadow.is_main_on(&host.name)).collect()
}

/// The counters of a host's proxy for this shadow, and for main.
fn select_stats(
    stats: Option<ProxyStats>,
    service: &ServiceName,
    shadow: &FleetDeployment,
    main: &FleetDeployment,
) -> (Vec<ShadowStats>, Vec<UpstreamStats>) {
    let of_service = stats.into_iter().flat_map(|stats| stats.services).find(|one| one.service == *service);
    let Some(ServiceStats { mut shadows, upstreams: mut legs, .. }) = of_service else {
        return (vec![], vec![]);
    };
    shadows.retain(|one| one.deployment == shadow.id);
    legs.retain(|one| one.deployment == main.id);
    (shadows, legs)
}

#[cfg(test)]
mod tests;
