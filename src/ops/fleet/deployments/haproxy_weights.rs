//! `canary --via haproxy`: the share is one of HAProxy's users, between hosts with one main and hosts with another.

use serde::Serialize;

use super::each_host::report_progress;
use super::error::FleetDeployError;
use super::list::{FleetDeployment, Listing};
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{BalancerName, HostName};
use crate::model::percent::Percent;
use crate::ops::fleet::lock::run_under_lock;
use crate::ops::fleet::reach::read_server_names;
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
    fleet: &Fleet,
    hosts: &[Host],
    listing: &Listing,
    canary: &FleetDeployment,
    share: Option<Percent>,
    actor: &Actor,
) -> Result<AppliedWeights, FleetDeployError> {
    if world.balancers.is_empty() {
        return Err(FleetDeployError::NoBalancer);
    }
    // A host that does not respond may have either main.
    listing.require_complete()?;
    let canaries = hosts.iter().filter(|host| canary.is_main_on(&host.name)).count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let all = Weights { canaries: 100, mains: 100, share: Percent::FULL };
    let weights = match share {
        Some(share) => compute_weights(share, count(canaries), count(hosts.len() - canaries))?,
        None => all,
    };
    let work = async {
        let mut servers = Vec::new();
        for balancer in &world.balancers {
            for host in hosts {
                let (server, _) = read_server_names(balancer.as_ref(), fleet, &host.name).await;
                let weight = if canary.is_main_on(&host.name) { weights.canaries } else { weights.mains };
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
                    Err(source) => {
                        return Err(FleetDeployError::WeightNotSet { balancer: name, server, source });
                    }
                }
            }
        }
        Ok(servers)
    };
    let servers = run_under_lock(world, &actor.user, "canary", work).await?;
    if share.is_some() {
        report_progress(
            world,
            None,
            "new users follow the weights, users with a cookie stay; a reload of HAProxy forgets weights",
        );
    }
    Ok(AppliedWeights { share: weights.share, servers })
}
