//! `rollback`, and the undo of an assign: the last good version becomes main again.

use std::time::Duration;

use super::each_host::{all_or_partial, for_each_host, report_progress, require_owned_hosts};
use super::error::FleetDeployError;
use super::idle_connections::flush_hosts;
use super::list::FleetDeployment;
use crate::model::api::deployments::{AssignResponse, RollbackRequest};
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::ops::fleet::owner::HostActors;
use crate::world::FleetWorld;

/// Undoes an assign on these hosts, where the target is still main, and reports each host.
pub(super) async fn roll_back_hosts(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    target: &FleetDeployment,
    actors: &HostActors,
    reason: &str,
) -> Result<Vec<(HostName, AssignResponse)>, FleetDeployError> {
    let from = Some(target.version.clone());
    let results = for_each_host(world, hosts, async |host, link| {
        let (actor, from) = (actors.find(&host.name), from.clone());
        let request = RollbackRequest { actor, reason: reason.to_owned(), from, dry_run: false };
        link.rollback(&target.service, &request).await
    })
    .await;
    for (host, result) in &results {
        let text = match result {
            Ok(assigned) => format!("{} is main again", assigned.deployment.version),
            Err(error) => format!("cannot bring back the last good main: {error}"),
        };
        report_progress(world, Some(host), text);
    }
    let restored = all_or_partial(results)?;
    flush_hosts(world, fleet, restored.clone(), Duration::ZERO).await;
    Ok(restored)
}

/// Makes the last good version main again, at once and without steps, on every host.
pub async fn rollback(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    service: &ServiceName,
    actor: &Actor,
) -> Result<Vec<(HostName, AssignResponse)>, FleetDeployError> {
    let actors = require_owned_hosts(world, fleet, service, hosts, actor).await?;
    let roll_back = async |dry_run| {
        for_each_host(world, hosts, async |host, link| {
            let actor = actors.find(&host.name);
            link.rollback(service, &RollbackRequest { actor, reason: String::new(), from: None, dry_run })
                .await
        })
        .await
    };
    // Every host is checked before any is changed.
    let refused = roll_back(true).await.into_iter().filter_map(|(host, result)| Some((host, result.err()?)));
    let refused: Vec<_> = refused.collect();
    if !refused.is_empty() {
        return Err(FleetDeployError::Hosts(refused));
    }
    let results = roll_back(false).await;
    let restored = all_or_partial(results)?;
    flush_hosts(world, fleet, restored.clone(), Duration::ZERO).await;
    Ok(restored)
}
