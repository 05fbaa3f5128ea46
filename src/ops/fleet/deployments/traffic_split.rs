//! `mirror` and `canary` over a fleet: every host's proxy copies or shares in the same way.

use std::time::Duration;

use serde::Serialize;

use super::each_host::{
    all_or_partial, claim_service_hosts, for_each_host, report_progress, require_owned_hosts,
};
use super::error::FleetDeployError;
use super::idle_connections::{FLUSH_TIMEOUT, flush, flush_until_none_remain, format_open_connections};
use crate::model::api::deployments::{DeploymentView, DeploymentsView};
use crate::model::deployment::Role;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::proxy::TrafficSplit;
use crate::model::socket::SocketCount;
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest, TrafficSplitResponse};
use crate::ops::fleet::lock::run_under_lock;
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
    #[serde(rename = "splits")]
    pub traffic_split: TrafficSplit,
    /// Whether the proxy is in the data path before main.
    #[serde(rename = "inserted")]
    pub is_inserted: bool,
    /// Whether the host had this split already.
    #[serde(rename = "known")]
    pub is_unchanged: bool,
    /// Open connections that bypass the proxy; absent where the host cannot count them.
    #[serde(rename = "past")]
    pub bypassing_connections: Option<u64>,
}

/// Applies the change on every one of the hosts, under the fleet lock.
pub async fn split(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &SplitOptions,
) -> Result<Vec<HostSplit>, FleetDeployError> {
    let change = async {
        if is_addition(&options.change) {
            check_split(world, fleet, hosts, options).await?;
        }
        apply_split_under_lock(world, fleet, hosts, options).await
    };
    let responses = run_under_lock(world, &options.actor.user, "split", change).await?;
    let timeout = if options.wait { FLUSH_TIMEOUT } else { Duration::ZERO };
    Ok(wait_until_inserted(world, fleet, &options.service, responses, timeout).await)
}

/// Waits until requests on connections that balancers keep pass through the proxy too, and reports the hosts where they may not.
pub(crate) async fn wait_until_inserted(
    world: &FleetWorld,
    fleet: &Fleet,
    service: &ServiceName,
    responses: Vec<(HostName, TrafficSplitResponse)>,
    timeout: Duration,
) -> Vec<HostSplit> {
    let hosts = responses
        .into_iter()
        .map(async |(host, response)| flush_split_host(world, fleet, service, host, response, timeout).await);
    let hosts = futures_util::future::join_all(hosts).await;
    let inserted = hosts.iter().filter(|host| host.is_inserted);
    let counts = inserted.map(|host| (&host.host, host.bypassing_connections));
    if let Some(bypassing) = format_open_connections(counts) {
        let text = format!(
            "connections that bypass the proxy may still be open ({bypassing}): their requests are neither copied nor shared. switchman \
             can close those that HAProxy keeps through a stats socket of level admin; the others end by themselves"
        );
        report_progress(world, None, text);
    }
    hosts
}

/// Checks that no host refuses the change, before it is made on any.
async fn check_split(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &SplitOptions,
) -> Result<(), FleetDeployError> {
    let checked = for_each_host(world, hosts, async |_, link| {
        let request = build_request(fleet, options, options.actor.clone(), true);
        link.change_traffic_split(&options.service, &request).await
    })
    .await;
    let refused: Vec<_> =
        checked.into_iter().filter_map(|(host, checked)| Some((host, checked.err()?))).collect();
    if refused.is_empty() { Ok(()) } else { Err(FleetDeployError::Hosts(refused)) }
}

/// Whether the change adds a shadow or a canary.
const fn is_addition(change: &TrafficSplitChange) -> bool {
    matches!(change, TrafficSplitChange::SetMirror(_) | TrafficSplitChange::SetCanary(_))
}

fn build_request(fleet: &Fleet, options: &SplitOptions, actor: Actor, dry_run: bool) -> TrafficSplitRequest {
    TrafficSplitRequest {
        change: options.change.clone(),
        forwarded: options.forwarded,
        port_range: fleet.versions.port_range,
        actor,
        detail: options.detail.clone(),
        dry_run,
    }
}

/// Applies the change on every host; the caller holds the fleet lock.
pub(crate) async fn apply_split_under_lock(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &SplitOptions,
) -> Result<Vec<(HostName, TrafficSplitResponse)>, FleetDeployError> {
    let actors = if is_addition(&options.change) {
        require_owned_hosts(world, fleet, &options.service, hosts, &options.actor).await?
    } else {
        // What is taken away is taken away wherever a host allows it: a bad canary stays on no other host.
        claim_service_hosts(world, fleet, &options.service, hosts, &options.actor).await
    };
    let request = |host: &Host| build_request(fleet, options, actors.find(&host.name), false);
    all_or_partial(
        for_each_host(world, hosts, async |host, link| {
            link.change_traffic_split(&options.service, &request(host)).await
        })
        .await,
    )
}

/// Connections that HAProxy keeps stay on their old route: they are closed, so that the next request opens a new one.
async fn flush_split_host(
    world: &FleetWorld,
    fleet: &Fleet,
    service: &ServiceName,
    host: HostName,
    response: TrafficSplitResponse,
    timeout: Duration,
) -> HostSplit {
    let TrafficSplitResponse { traffic_split, inserted: is_inserted, known: is_unchanged } = response;
    let bypassing_connections = if is_unchanged {
        Some(0)
    } else if is_inserted {
        let count = |view: &DeploymentsView| count_main_connections(view, service);
        flush_until_none_remain(world, fleet, &host, timeout, count).await.remaining
    } else {
        // What is kept in the proxy ends with its next answer; there is less to wait for without it.
        flush(world, fleet, &host).await;
        Some(0)
    };
    HostSplit { host, traffic_split, is_inserted, is_unchanged, bypassing_connections }
}

/// Counts the connections that main itself holds through its data port: they bypass the proxy.
fn count_main_connections(view: &DeploymentsView, service: &ServiceName) -> Option<u64> {
    let is_main = |view: &&DeploymentView| view.role == Role::Main && view.deployment.service == *service;
    view.deployments.iter().find(is_main)?.via_main_port.as_ref().ok().map(SocketCount::total)
}
