//! HAProxy keeps idle connections and goes on using them: it is asked to close those to what does not answer any more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::model::deployment::{Deployment, Stage};
use crate::model::name::{BalancerName, HostName};
use crate::world::FleetWorld;
use crate::world::balancer::{Balancer, Flush};

/// Every balancer's idle connections to both vhosts of a host, once.
pub(super) async fn flush(world: &FleetWorld, host: &HostName) -> Vec<(BalancerName, Result<Flush, String>)> {
    let asked = world.balancers.iter().map(async |balancer: &Arc<dyn Balancer>| {
        let spec = balancer.spec();
        let main = balancer.close_idle(&spec.servers.main_of(host)).await;
        // The backup vhost was led elsewhere as well.
        let backup = balancer.close_idle(&spec.servers.backup_of(host)).await;
        let both = match (main, backup) {
            (Ok(Flush::Closed), Ok(other)) | (Ok(other), Ok(_)) => Ok(other),
            (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
        };
        (spec.name.clone(), both)
    });
    futures_util::future::join_all(asked).await
}

/// Whether it may help to ask that balancer again.
pub(super) const fn helps(flush: &Result<Flush, String>) -> bool {
    matches!(flush, Ok(Flush::Closed | Flush::Held))
}

/// Between two rounds of [`keep_flushing`]: a drain is looked at more often, and takes as long as its longest request.
const ROUND: Duration = Duration::from_millis(500);

/// For as long as an update of this deployment goes on, from the moment that nothing leads to its old instance: what HAProxy
/// keeps to that would hold its drain to the last.
pub(super) async fn keep_flushing(world: &FleetWorld, host: &HostName, old: &Deployment) -> Infallible {
    loop {
        tokio::time::sleep(ROUND).await;
        if !has_moved(world, host, old).await {
            continue;
        }
        if !flush(world, host).await.iter().any(|(_, flush)| helps(flush)) {
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
