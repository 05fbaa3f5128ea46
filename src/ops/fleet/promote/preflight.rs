//! Whether a promotion may begin.

use super::error::{NotReadyError, PromotionError};
use crate::model::api::deployments::DeploymentsView;
use crate::model::api::{ProbeRequest, ProbeResult};
use crate::model::deployment::DeploymentId;
use crate::model::host::Host;
use crate::model::promote::{PromotionSpec, PromotionTarget};
use crate::ops::fleet::deployments::for_each_host;
use crate::plan::promote::{PreflightError, find_target};
use crate::world::FleetWorld;
use crate::world::link::{HostLink, LinkError};

/// The version is on every host, runs there and answers its health check; it is not main, and nothing else has a share.
pub async fn check_ready(
    world: &FleetWorld,
    hosts: &[Host],
    spec: &PromotionSpec,
) -> Result<PromotionTarget, PromotionError> {
    let per_host = for_each_host(world, hosts, async |_, link| {
        let view = link.list_deployments().await?;
        let found = find_target(&view, spec).map_err(NotReadyError::from);
        let Ok(target) = &found else { return Ok(found) };
        let health = probe_health(link, &view, &target.deployment).await?;
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

async fn probe_health(
    link: &dyn HostLink,
    view: &DeploymentsView,
    deployment: &DeploymentId,
) -> Result<Result<(), NotReadyError>, LinkError> {
    let Some(one) = view.deployments.iter().find(|one| one.deployment.id == *deployment) else {
        return Ok(Ok(()));
    };
    let one = &one.deployment;
    let request = ProbeRequest { address: one.endpoint(&one.instance), health: one.health.clone() };
    Ok(match link.probe(&request).await? {
        ProbeResult::Healthy => Ok(()),
        ProbeResult::Unhealthy { reason } => {
            let (service, version) = (one.service.clone(), one.version.clone());
            Err(NotReadyError::Unhealthy { service, version, reason })
        }
    })
}
