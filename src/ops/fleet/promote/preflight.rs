//! Whether a promotion may begin.

use super::error::{NotReadyError, PromotionError};
use crate::model::api::deployments::DeploymentsView;
use crate::model::api::{ProbeRequest, ProbeResult};
use crate::model::deployment::DeploymentId;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::promote::{PromotionSpec, PromotionTarget};
use crate::model::proxy::Canary;
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest};
use crate::ops::fleet::deployments::for_each_host;
use crate::plan::promote::{PreflightError, find_target};
use crate::world::FleetWorld;
use crate::world::link::{HostLink, LinkError};

/// The version is on every host, runs there and answers its health check; it is not main, nothing else has a share, and every
/// host would take the first share: without an agent it does not.
pub async fn check_ready(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    spec: &PromotionSpec,
    actor: &Actor,
) -> Result<PromotionTarget, PromotionError> {
    let per_host = for_each_host(world, hosts, async |_, link| {
        let view = link.list_deployments().await?;
        let found = find_target(&view, spec).map_err(NotReadyError::from);
        let Ok(target) = &found else { return Ok(found) };
        let health = probe_health(link, &view, &target.deployment).await?;
        if health.is_ok() && spec.require_match.is_none() {
            preview_share(link, fleet, spec, target, actor).await?;
        }
        Ok(health.and(found))
    });
    let mut first: Option<PromotionTarget> = None;
    let mut not_ready = vec![];
    for (host, found) in per_host.await {
        let found = found.unwrap_or_else(|error| Err(error.into()));
        match (found, &first) {
            (Ok(target), None) => first = Some(target),
            (Ok(target), Some(first)) if target != *first => {
                not_ready.push((host, PreflightError::OtherMain(target.main_version).into()));
            }
            (Ok(_), Some(_)) => {}
            (Err(error), _) => not_ready.push((host, error)),
        }
    }
    match first.filter(|_| not_ready.is_empty()) {
        Some(target) => Ok(target),
        None => Err(PromotionError::NotReady { hosts: not_ready }),
    }
}

/// Requests the first share as a dry run. A version that gets copies until then takes none yet.
async fn preview_share(
    link: &dyn HostLink,
    fleet: &Fleet,
    spec: &PromotionSpec,
    target: &PromotionTarget,
    actor: &Actor,
) -> Result<(), LinkError> {
    let canary = Canary {
        deployment: target.deployment.clone(),
        percent: spec.steps.share_at(0),
        sticky: spec.sticky.clone(),
        header: None,
        cookie: None,
    };
    let request = TrafficSplitRequest {
        change: TrafficSplitChange::SetCanary(canary),
        port_range: fleet.versions.port_range,
        forwarded: None,
        actor: actor.clone(),
        detail: String::new(),
        dry_run: true,
    };
    link.change_traffic_split(&spec.service, &request).await.map(drop)
}

async fn probe_health(
    link: &dyn HostLink,
    view: &DeploymentsView,
    deployment: &DeploymentId,
) -> Result<Result<(), NotReadyError>, LinkError> {
    let Some(one) = view.deployments.iter().find(|one| one.deployment.id == *deployment) else {
        return Ok(Ok(()));
    };
    let one = &one.deployment;
    for instance in one.active_instances() {
        let request = ProbeRequest { address: one.endpoint(instance), health: one.health.clone() };
        if let ProbeResult::Unhealthy { reason } = link.probe(&request).await? {
            let (service, version) = (one.service.clone(), one.version.clone());
            return Ok(Err(NotReadyError::Unhealthy { service, version, reason }));
        }
    }
    Ok(Ok(()))
}
