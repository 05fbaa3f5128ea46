//! HAProxy keeps idle connections and reuses them: switchman has it close those to an instance that does not answer any more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::model::deployment::{Deployment, Stage};
use crate::model::name::{BalancerName, HostName};
use crate::world::FleetWorld;
use crate::world::balancer::{Balancer, FlushResult};

/// Closes every balancer's idle connections to both vhosts of a host, once.
pub(super) async fn flush(
    world: &FleetWorld,
    host: &HostName,
) -> Vec<(BalancerName, Result<FlushResult, String>)> {
    let asked = world.balancers.iter().map(async |balancer: &Arc<dyn Balancer>| {
        let spec = balancer.spec();
        let main = balancer.close_idle(&spec.servers.main_of(host)).await;
        // The route of the backup vhost has changed as well.
        let backup = balancer.close_idle(&spec.servers.backup_server_name(host)).await;
        let both = match (main, backup) {
            (Ok(FlushResult::Closed), Ok(other)) | (Ok(other), Ok(_)) => Ok(other),
            (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
        };
        (spec.name.clone(), both)
    });
    futures_util::future::join_all(asked).await
}

/// Whether it may help to flush that balancer again.
pub(super) const fn can_retry_flush(flush: &Result<FlushResult, String>) -> bool {
    matches!(flush, Ok(FlushResult::Closed | FlushResult::NotInService))
}

/// The interval between two rounds of [`flush_repeatedly`]: a drain is read more often, and takes as long as its longest request.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// Flushes for as long as an update of this deployment goes on, once no route has its old instance as target: the connections
/// that HAProxy keeps to the old instance would hold its drain until the deadline.
pub(super) async fn flush_repeatedly(world: &FleetWorld, host: &HostName, old: &Deployment) -> Infallible {
    loop {
        tokio::time::sleep(FLUSH_INTERVAL).await;
        if !has_moved(world, host, old).await {
            continue;
        }
        if !flush(world, host).await.iter().any(|(_, flush)| can_retry_flush(flush)) {
            return std::future::pending().await;
        }
    }
}

async fn has_moved(world: &FleetWorld, host: &HostName, old: &Deployment) -> bool {
    let Some(link) = world.links.get(host) else { return false };
    let Ok(view) = link.list_deployments().await else { return false };
    let updating = |one: &Deployment| one.id == old.id && one.stage == Stage::Updating;
    let routes = view.services.iter().filter_map(|record| record.routes.as_ref());
    let mut legs = routes.flat_map(|routes| [&routes.main, &routes.backup]);
    let leads_to_old = legs.any(|leg| leg.deployment == old.id && leg.target == old.instance.port);
    !leads_to_old && view.deployments.iter().any(|one| updating(&one.deployment))
}
