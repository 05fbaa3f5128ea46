//! HAProxy keeps idle connections and reuses them: switchman has it close those to an instance that does not answer any more.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::assign_options::HostAssigned;
use super::each_host::report_progress;
use crate::model::api::deployments::{AssignResponse, DeploymentsView};
use crate::model::deployment::{Deployment, DeploymentId, Stage};
use crate::model::fleet::Fleet;
use crate::model::forward::Route;
use crate::model::name::{BalancerName, HostName};
use crate::model::ports::Port;
use crate::model::socket::SocketCount;
use crate::ops::fleet::reach::read_server_names;
use crate::world::FleetWorld;
use crate::world::balancer::{Balancer, BalancerError, FlushResult};

/// Each balancer's response to a request to close idle connections.
pub(super) type Flushes = Vec<(BalancerName, Result<FlushResult, BalancerError>)>;

/// The outcome of [`flush_until_none_remain`].
pub(super) struct FlushedHost {
    pub(super) flushes: Flushes,
    /// The connections that remain; absent where the host could not count them.
    pub(super) remaining: Option<u64>,
}

/// How long connections that carry a request at the moment of a flip are waited for: they are kept by HAProxy when the request
/// is answered, and end at the old version for as long as they live.
pub(in crate::ops::fleet) const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
const FLUSH_INTERVAL: Duration = Duration::from_millis(150);

/// Returns the former main, where the assign replaced it.
pub(super) fn find_replaced(assigned: &AssignResponse) -> Option<&Deployment> {
    assigned.previous.as_ref().filter(|previous| previous.id != assigned.deployment.id)
}

/// Closes the connections that HAProxy keeps to the old version on every host: HAProxy reuses them for as long as they live.
pub(super) async fn flush_hosts(
    world: &FleetWorld,
    fleet: &Fleet,
    assigned: Vec<(HostName, AssignResponse)>,
    timeout: Duration,
) -> Vec<HostAssigned> {
    let hosts = assigned.into_iter().map(async |(host, assigned)| {
        let Some(old) = find_replaced(&assigned) else {
            return HostAssigned { host, previous: None, flushed: vec![], remaining_connections: Some(0) };
        };
        let count = |view: &DeploymentsView| count_remaining(view, &old.id);
        let FlushedHost { flushes, remaining } =
            flush_until_none_remain(world, fleet, &host, timeout, count).await;
        let previous = Some(old.version.clone());
        HostAssigned { host, previous, flushed: flushes, remaining_connections: remaining }
    });
    let hosts = futures_util::future::join_all(hosts).await;
    let counts = hosts.iter().map(|host| (&host.host, host.remaining_connections));
    if let Some(remaining) = format_open_connections(counts) {
        let text = format!(
            "connections to the old version may still be open ({remaining}); they end by themselves. switchman can close those that \
             HAProxy keeps through a stats socket of level admin; those in use, such as a websocket, go on"
        );
        report_progress(world, None, text);
    }
    hosts
}

/// Formats the hosts with open connections, or with a count that is not known; `None` where no host has any.
pub(super) fn format_open_connections<'a>(
    counts: impl Iterator<Item = (&'a HostName, Option<u64>)>,
) -> Option<String> {
    let hosts: Vec<String> = counts
        .filter(|(_, count)| *count != Some(0))
        .map(|(host, count)| {
            let count = count.map_or_else(|| "not known".to_owned(), |count| count.to_string());
            format!("{host}: {count}")
        })
        .collect();
    if hosts.is_empty() { None } else { Some(hosts.join(", ")) }
}

/// Closes idle connections to a host until `count` finds no connection in the host's view, no balancer can close more, or the
/// time is up.
pub(super) async fn flush_until_none_remain(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &HostName,
    timeout: Duration,
    count: impl Fn(&DeploymentsView) -> Option<u64>,
) -> FlushedHost {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut flushes: Flushes = vec![];
    loop {
        let round = flush(world, fleet, host).await;
        let can_retry =
            round.len() == fleet.balancers.len() && round.iter().all(|(_, flush)| can_retry_flush(flush));
        // `Closed` in any round is reported, even if the last round had another result.
        for (balancer, now) in round {
            match flushes.iter_mut().find(|(name, _)| *name == balancer) {
                Some((_, before)) if *before != Ok(FlushResult::Closed) => *before = now,
                Some(_) => {}
                None => flushes.push((balancer, now)),
            }
        }
        tokio::time::sleep(FLUSH_INTERVAL).await;
        let remaining = read_view(world, host).await.and_then(|view| count(&view));
        let is_over = tokio::time::Instant::now() >= deadline || world.stop.is_requested();
        if remaining == Some(0) || !can_retry || is_over {
            return FlushedHost { flushes, remaining };
        }
    }
}

async fn read_view(world: &FleetWorld, host: &HostName) -> Option<DeploymentsView> {
    world.links.get(host)?.list_deployments().await.ok()
}

/// Counts the connections through main's data port that the former main still holds. `None`: the host cannot count them.
fn count_remaining(view: &DeploymentsView, old: &DeploymentId) -> Option<u64> {
    match view.deployments.iter().find(|view| view.deployment.id == *old) {
        Some(old) => old.via_main_port.as_ref().ok().map(SocketCount::total),
        None => Some(0),
    }
}

/// Closes every balancer's idle connections to both vhosts of a host, once.
pub(super) async fn flush(world: &FleetWorld, fleet: &Fleet, host: &HostName) -> Flushes {
    let requests = world.balancers.iter().map(async |balancer: &Arc<dyn Balancer>| {
        let spec = balancer.spec();
        let (main, backup) = read_server_names(balancer.as_ref(), fleet, host).await;
        let main = balancer.close_idle(&main).await;
        // The route of the backup vhost has changed as well.
        let backup = balancer.close_idle(&backup).await;
        let both = match (main, backup) {
            (Ok(FlushResult::ClosedAndRestarted), Ok(_)) | (Ok(_), Ok(FlushResult::ClosedAndRestarted)) => {
                Ok(FlushResult::ClosedAndRestarted)
            }
            (Ok(FlushResult::Closed), Ok(other)) | (Ok(other), Ok(_)) => Ok(other),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        (spec.name.clone(), both)
    });
    futures_util::future::join_all(requests).await
}

/// Whether it may help to flush that balancer again.
pub(super) const fn can_retry_flush(flush: &Result<FlushResult, BalancerError>) -> bool {
    matches!(flush, Ok(FlushResult::Closed | FlushResult::NotInService))
}

/// The interval between two rounds of [`flush_repeatedly`]: a drain is read more often, and takes as long as its longest request.
const UPDATE_FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// Flushes for as long as an update of this deployment goes on, once no route has its old instance as target: the connections
/// that HAProxy keeps to the old instance would hold its drain until the deadline.
pub(super) async fn flush_repeatedly(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &HostName,
    old: &Deployment,
) -> Infallible {
    loop {
        tokio::time::sleep(UPDATE_FLUSH_INTERVAL).await;
        if !has_moved(world, host, old).await {
            continue;
        }
        if !flush(world, fleet, host).await.iter().any(|(_, flush)| can_retry_flush(flush)) {
            return std::future::pending().await;
        }
    }
}

async fn has_moved(world: &FleetWorld, host: &HostName, old: &Deployment) -> bool {
    let Some(link) = world.links.get(host) else { return false };
    let Ok(view) = link.list_deployments().await else { return false };
    let updating = |deployment: &Deployment| deployment.id == old.id && deployment.stage == Stage::Updating;
    let routes = view.services.iter().filter_map(|record| record.routes.as_ref());
    let routes = routes.flat_map(|routes| [&routes.main, &routes.backup]);
    let routed: BTreeSet<Port> =
        routes.filter(|route| route.deployment == old.id).flat_map(Route::targets).collect();
    let is_routed_to_old = old.active_instances().all(|instance| routed.contains(&instance.port));
    !is_routed_to_old && view.deployments.iter().any(|view| updating(&view.deployment))
}
