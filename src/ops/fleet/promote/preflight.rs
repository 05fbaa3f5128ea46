//! Whether a promotion may begin.

use super::error::PromotionError;
use crate::model::api::deployments::DeploymentsView;
use crate::model::api::{ProbeRequest, ProbeResult};
use crate::model::deployment::DeploymentId;
use crate::model::host::Host;
use crate::model::promote::{PromotionSpec, PromotionTarget};
use crate::ops::fleet::deployments::for_each_host;
use crate::plan::promote::{PreflightError, find_target};
use crate::world::FleetWorld;
use crate::world::link::HostLink;

/// The version is on every host, runs there and answers its health check; it is not main, and nothing else has a share.
pub async fn check_ready(
    world: &FleetWorld,
    hosts: &[Host],
    spec: &PromotionSpec,
) -> Result<PromotionTarget, PromotionError> {
    let asked = for_each_host(world, hosts, async |_, link| {
        let view = link.list_deployments().await?;
        let found = find_target(&view, spec).map_err(|why| why.to_string());
        let Ok(target) = &found else { return Ok(found) };
        let health = probe_health(link, &view, &target.deployment).await?;
        Ok(health.and(found))
    });
    let mut first: Option<PromotionTarget> = None;
    let mut not_ready = vec![];
    for (host, found) in asked.await {
        let found = found.unwrap_or_else(|error| Err(error.to_string()));
        match (found, &first) {
            (Ok(target), None) => first = Some(target),
            (Ok(target), Some(first)) if target != *first => {
                not_ready.push((host, PreflightError::OtherMain(target.main_version).to_string()));
            }
            (Ok(_), Some(_)) => {}
            (Err(why), _) => not_ready.push((host, why)),
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
) -> Result<Result<(), String>, crate::world::link::LinkError> {
    let Some(one) = view.deployments.iter().find(|one| one.deployment.id == *deployment) else {
        return Ok(Ok(()));
    };
    let one = &one.deployment;
    let request = ProbeRequest { address: one.endpoint(&one.instance), health: one.health.clone() };
    Ok(match link.probe(&request).await? {
        ProbeResult::Healthy => Ok(()),
        ProbeResult::Unhealthy { why } => {
            Err(format!("{} {} does not answer its health check: {why}", one.service, one.version))
        }
    })
}
