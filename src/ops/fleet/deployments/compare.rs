//! `compare`: what every host has seen of a shadow's answers, put together and judged; and what `assign` asks of it.

use super::list;
use super::{Row, VersionsError, each, whole};
use crate::model::capped::Merge as _;
use crate::model::deployment::Role;
use crate::model::evidence::Evidence;
use crate::model::host::Host;
use crate::model::name::ServiceName;
use crate::model::proxy::{LegStats, ProxyStats, ServiceStats, ShadowStats};
use crate::model::version::Version;
use crate::plan::compare::{Compared, Coverage, Demand, Harm, Report, Verdict};
use crate::world::FleetWorld;

#[derive(Debug, Clone)]
pub struct CompareOptions {
    pub service: ServiceName,
    /// The shadow.
    pub version: Version,
    pub demand: Demand,
}

/// Judged over all of these hosts together. One that cannot be asked is an error: it may be the one where answers differ.
pub async fn compare(
    world: &FleetWorld,
    hosts: &[Host],
    options: &CompareOptions,
) -> Result<Report, VersionsError> {
    let CompareOptions { service, version, demand } = options;
    let listing = list(world, hosts).await;
    if !listing.unread.is_empty() {
        return Err(VersionsError::Unread(listing.unread));
    }
    let main = listing.main(service).ok_or_else(|| VersionsError::NoMain(service.clone()))?;
    let named = || VersionsError::NoVersion { service: service.clone(), version: version.clone() };
    let shadow = listing.find(service, version).ok_or_else(named)?;
    let heard = whole(
        each(world, &beside_main(shadow, hosts), async |_, link| {
            Ok((link.evidence(service, &shadow.id).await?, link.proxy().await?))
        })
        .await,
    )?;
    let mut evidence = Evidence::default();
    let (mut shadows, mut legs) = (Vec::new(), Vec::new());
    for (_, (seen, stats)) in heard {
        evidence.absorb(seen.unwrap_or_default());
        let (copies, answers) = counted(stats, service, shadow, main);
        shadows.extend(copies);
        legs.extend(answers);
    }
    let coverage = Coverage::of(&evidence, &shadows);
    let of = Compared { service: service.clone(), main: main.version.clone(), shadow: version.clone() };
    Ok(Report::of(of, &evidence, coverage, Harm::of(&legs), demand.clone()))
}

/// An error unless the shadow is as much like main as is demanded.
pub async fn require(
    world: &FleetWorld,
    hosts: &[Host],
    options: &CompareOptions,
) -> Result<Report, VersionsError> {
    let report = compare(world, hosts, options).await?;
    if report.verdict == Verdict::Same {
        return Ok(report);
    }
    let CompareOptions { service, version, .. } = options.clone();
    Err(VersionsError::NotAlike { service, version, verdict: report.verdict, reason: report.reason })
}

/// Where it is main already, what was seen of it before says nothing.
fn beside_main(shadow: &Row, hosts: &[Host]) -> Vec<Host> {
    let main =
        |host: &Host| shadow.hosts.iter().any(|(name, view)| *name == host.name && view.role == Role::Main);
    shadow.among(hosts).into_iter().filter(|host| !main(host)).collect()
}

/// What a host's proxy counted of this shadow, and of main.
fn counted(
    stats: Option<ProxyStats>,
    service: &ServiceName,
    shadow: &Row,
    main: &Row,
) -> (Vec<ShadowStats>, Vec<LegStats>) {
    let of_service = stats.into_iter().flat_map(|stats| stats.services).find(|one| one.service == *service);
    let Some(ServiceStats { mut shadows, mut legs, .. }) = of_service else { return (vec![], vec![]) };
    shadows.retain(|one| one.deployment == shadow.id);
    legs.retain(|one| one.deployment == main.id);
    (shadows, legs)
}

#[cfg(test)]
mod tests;
