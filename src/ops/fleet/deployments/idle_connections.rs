//! HAProxy keeps idle connections and goes on using them: it is asked to close those to what does not answer any more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::model::deployment::{Deployment, Stage};
use crate::model::name::{BalancerName, HostName};
use crate::world::FleetWorld;
use crate::world::balancer::{Balancer, FlushResult};

/// Every balancer's idle connections to both vhosts of a host, once.
pub(super) async fn flush(
    world: &FleetWorld,
    host: &HostName,
) -> Vec<(BalancerName, Result<FlushResult, String>)> {
    let asked = world.balancers.iter().map(async |balancer: &Arc<dyn Balancer>| {
        let spec = balancer.spec();
        let main = balancer.close_idle(&spec.servers.main_of(host)).await;
        // The backup vhost was led elsewhere as well.
        let backup = balancer.close_idle(&spec.servers.backup_server_name(host)).await;
        let both = match (main, backup) {
            (Ok(FlushResult::Closed), Ok(other)) | (Ok(other), Ok(_)) => Ok(other),
            (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
        };
        (spec.name.clone(), both)
    });
    futures_util::future::join_all(asked).await
}

/// Whether it may help to ask that balancer again.
pub(super) const fn can_retry_flush(flush: &Result<FlushResult, String>) -> bool {
    matches!(flush, Ok(FlushResult::Closed | FlushResult::NotInService))
}

/// Between two rounds of [`keep_flushing`]: a drain is looked at more often, and takes as long as its longest request.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// For as long as an update of this deployment goes on, from the moment that nothing leads to its old instance: what HAProxy
/// keeps to that would hold its drain to the last.
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
    let Ok(view) = link.versions().await else { return false };
    let updating = |one: &Deployment| one.id == old.id && one.stage == Stage::Updating;
    let routes = view.services.iter().filter_map(|record| record.routes.as_ref());
    let mut legs = routes.flat_map(|routes| [&routes.main, &routes.backup]);
    let leads_to_old = legs.any(|leg| leg.deployment == old.id && leg.target == old.instance.port);
    !leads_to_old && view.deployments.iter().any(|one| updating(&one.deployment))
}
