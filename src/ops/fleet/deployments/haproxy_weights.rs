//! `canary --via haproxy`: the share is one of HAProxy's users, between hosts with one main and hosts with another.

use serde::Serialize;

use super::list::list_deployments;
use super::{FleetDeployError, say, with_fleet_lock};
use crate::model::deployment::Role;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{BalancerName, HostName, ServiceName};
use crate::model::percent::Percent;
use crate::model::version::Version;
use crate::plan::weights::{Weights, compute_weights};
use crate::world::FleetWorld;
use crate::world::balancer::SetWeightResult;

/// The weight of one server line, as it was read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerWeight {
    pub balancer: BalancerName,
    pub host: HostName,
    pub server: String,
    pub weight: u32,
}

/// The share that the weights amount to, and every weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppliedWeights {
    pub share: Percent,
    pub servers: Vec<ServerWeight>,
}

/// Every main's server line of every balancer gets its weight, which is read back; `None`: all get 100 again. Where one is not
/// set, the error names it, and those before it are set: the same command sets them all again.
pub async fn set_canary_weights(
    world: &FleetWorld,
    hosts: &[Host],
    service: &ServiceName,
    version: &Version,
    share: Option<Percent>,
    actor: &Actor,
) -> Result<AppliedWeights, FleetDeployError> {
    if world.balancers.is_empty() {
        return Err(FleetDeployError::NoBalancer);
    }
    let listing = list_deployments(world, hosts).await;
    // A host that does not respond may have either main.
    listing.require_complete()?;
    let Some(row) = listing.find(service, version) else {
        return Err(FleetDeployError::NoVersion { service: service.clone(), version: version.clone() });
    };
    let is_canary =
        |host: &Host| row.hosts.iter().any(|(name, one)| *name == host.name && one.role == Role::Main);
    let canaries = hosts.iter().filter(|host| is_canary(host)).count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let all = Weights { canaries: 100, mains: 100, share: Percent::FULL };
    let found = match share {
        Some(share) => compute_weights(share, count(canaries), count(hosts.len() - canaries))?,
        None => all,
    };
    let work = async {
        let mut servers = Vec::new();
        for balancer in &world.balancers {
            for host in hosts {
                let server = balancer.spec().servers.main_server_name(&host.name);
                let weight = if is_canary(host) { found.canaries } else { found.mains };
                let name = balancer.spec().name.clone();
                match balancer.set_weight(&server, weight).await {
                    Ok(SetWeightResult::Set) => {
                        servers.push(ServerWeight {
                            balancer: name,
                            host: host.name.clone(),
                            server,
                            weight,
                        });
                    }
                    Ok(SetWeightResult::NotAllowed) => return Err(FleetDeployError::WeightsNotAllowed(name)),
                    Err(why) => return Err(FleetDeployError::WeightNotSet { balancer: name, server, why }),
                }
            }
        }
        Ok(servers)
    };
    let servers = with_fleet_lock(world, actor, "canary", work).await?;
    if share.is_some() {
        say(
            world,
            None,
            "new users follow the weights, users with a cookie stay; a reload of HAProxy forgets weights",
        );
    }
    Ok(AppliedWeights { share: found.share, servers })
}
