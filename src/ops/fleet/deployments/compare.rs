//! `compare`: merges every host's evidence of a shadow's answers and judges it; `assign` requires a match through it.

use super::each_host::{all_or_partial, for_each_host};
use super::error::FleetDeployError;
use super::list::{FleetDeployment, Listing};
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
    pub criteria: Criteria,
}

/// Judges all of the listed hosts together. A host that cannot be read is an error: it may be the one where answers differ.
pub async fn compare(
    world: &FleetWorld,
    hosts: &[Host],
    listing: &Listing,
    options: &CompareOptions,
) -> Result<ComparisonReport, FleetDeployError> {
    let CompareOptions { service, version, criteria } = options;
    listing.require_complete()?;
    let main = listing.find_main(service).ok_or_else(|| FleetDeployError::NoMain(service.clone()))?;
    listing.require_merged(main)?;
    let not_found = || FleetDeployError::NoVersion { service: service.clone(), version: version.clone() };
    let shadow = listing.find(service, version).ok_or_else(not_found)?;
    let readings = all_or_partial(
        for_each_host(world, &filter_shadow_hosts(shadow, hosts), async |_, link| {
            Ok((link.read_evidence(service, &shadow.id).await?, link.read_proxy_stats().await?))
        })
        .await,
    )?;
    let mut evidence = Evidence::default();
    let (mut shadows, mut upstreams) = (Vec::new(), Vec::new());
    for (_, (host_evidence, stats)) in readings {
        evidence.absorb(host_evidence.unwrap_or_default());
        let (host_shadows, host_upstreams) = select_stats(stats, service, shadow, main);
        shadows.extend(host_shadows);
        upstreams.extend(host_upstreams);
    }
    let coverage = Coverage::from_evidence(&evidence, &shadows);
    let versions =
        ComparedVersions { service: service.clone(), main: main.version.clone(), shadow: version.clone() };
    Ok(ComparisonReport::build(
        versions,
        &evidence,
        coverage,
        UserImpact::from_stats(&upstreams),
        criteria.clone(),
    ))
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
    let of_service =
        stats.into_iter().flat_map(|stats| stats.services).find(|stats| stats.service == *service);
    let Some(ServiceStats { mut shadows, mut upstreams, .. }) = of_service else {
        return (vec![], vec![]);
    };
    shadows.retain(|stats| stats.deployment == shadow.id);
    upstreams.retain(|stats| stats.deployment == main.id);
    (shadows, upstreams)
}

#[cfg(test)]
mod tests;
