//! `mirror` and `canary` over a fleet: every host's proxy copies or shares in the same way.

use std::time::Duration;

use serde::Serialize;

use super::assign;
use super::idle_connections::flush;
use super::{FleetDeployError, all_or_partial, each, say, with_fleet_lock};
use crate::model::api::deployments::DeploymentView;
use crate::model::deployment::{Deployment, Role};
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::proxy::TrafficSplit;
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest, TrafficSplitResponse};
use crate::world::FleetWorld;

#[derive(Debug, Clone)]
pub struct SplitOptions {
    pub service: ServiceName,
    pub change: TrafficSplitChange,
    /// Whether main receives the client's address; `None`: unchanged.
    pub forwarded: Option<bool>,
    /// Wait until requests on connections that balancers keep pass through the proxy too.
    pub wait: bool,
    pub actor: Actor,
    /// The detail for the history, such as the promotion that the change belongs to.
    pub detail: String,
}

/// The traffic split in force on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostSplit {
    pub host: HostName,
    pub splits: TrafficSplit,
    /// Whether the proxy is in the data path before main.
    pub inserted: bool,
    /// Whether the host had this split already.
    pub known: bool,
    /// Open connections that bypass the proxy; absent where the host cannot count them.
    pub past: Option<u64>,
}

/// Applies the change on every one of the hosts, under the fleet lock.
pub async fn split(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &SplitOptions,
) -> Result<Vec<HostSplit>, FleetDeployError> {
    let done =
        with_fleet_lock(world, &options.actor, "split", apply_split_under_lock(world, fleet, hosts, options))
            .await?;
    let leaves = if options.wait { assign::FLUSH_TIMEOUT } else { Duration::ZERO };
    Ok(wait_until_inserted(world, fleet, &options.service, done, leaves).await)
}

/// Waits until requests on connections that balancers keep pass through the proxy too, and reports the hosts where they may not.
pub(crate) async fn wait_until_inserted(
    world: &FleetWorld,
    fleet: &Fleet,
    service: &ServiceName,
    done: Vec<(HostName, TrafficSplitResponse)>,
    leaves: Duration,
) -> Vec<HostSplit> {
    let hosts =
        done.into_iter().map(async |(host, split)| led(world, fleet, service, host, split, leaves).await);
    let hosts = futures_util::future::join_all(hosts).await;
    let past: Vec<String> = hosts
        .iter()
        .filter(|host| host.inserted && host.past != Some(0))
        .map(|host| {
            let past = host.past.map_or_else(|| "not known".to_owned(), |past| past.to_string());
            format!("{}: {past}", host.host)
        })
        .collect();
    if !past.is_empty() {
        let past = past.join(", ");
        say(
            world,
            None,
            format!(
                "connections that bypass the proxy may still be open ({past}): their requests are neither copied nor shared. switchman \
                 can close those that HAProxy keeps through a stats socket of level admin; the others end by themselves"
            ),
        );
    }
    hosts
}

/// Applies the change on every host; the caller holds the fleet lock.
pub(crate) async fn apply_split_under_lock(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &SplitOptions,
) -> Result<Vec<(HostName, TrafficSplitResponse)>, FleetDeployError> {
    let request = TrafficSplitRequest {
        change: options.change.clone(),
        forwarded: options.forwarded,
        port_range: fleet.versions.port_range,
        actor: options.actor.clone(),
        detail: options.detail.clone(),
    };
    all_or_partial(
        each(world, hosts, async |_, link| link.change_traffic_split(&options.service, &request).await).await,
    )
}

/// Connections that HAProxy keeps stay on their old route: they are closed, so that the next request opens a new one.
async fn led(
    world: &FleetWorld,
    fleet: &Fleet,
    service: &ServiceName,
    host: HostName,
    split: TrafficSplitResponse,
    leaves: Duration,
) -> HostSplit {
    let TrafficSplitResponse { traffic_split: splits, inserted, known } = split;
    let past = if known {
        Some(0)
    } else if inserted {
        match find_main(world, service, &host).await {
            Some(main) => assign::leave(world, fleet, host.clone(), &main, leaves).await.left,
            None => None,
        }
    } else {
        // What is kept in the proxy ends with its next answer; there is less to wait for without it.
        flush(world, &host).await;
        Some(0)
    };
    HostSplit { host, splits, inserted, known, past }
}

async fn find_main(world: &FleetWorld, service: &ServiceName, host: &HostName) -> Option<Deployment> {
    let view = world.links.get(host)?.list_deployments().await.ok()?;
    let is_main = |one: &DeploymentView| one.role == Role::Main && one.deployment.service == *service;
    view.deployments.into_iter().find(is_main).map(|one| one.deployment)
}
