//! `disable-forward --deregister`: takes a drained host out of DNS, and waits until no balancer uses it.

use std::time::Duration;

use tokio::time::Instant;

use super::reach::{find_link, sleep_or_stop};
use crate::model::api::deployments::WithdrawRequest;
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::plan::host_servers::list_host_users;
use crate::world::FleetWorld;
use crate::world::link::LinkError;

/// Limit of the wait. The agent changes the registration within a second, and HAProxy forgets an address 1.5 s later with the
/// settings that `init` writes.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(20);
const READ_INTERVAL: Duration = Duration::from_millis(200);

/// Why a host is not out of DNS, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    #[error("cannot take `{host}` out of DNS: {source}")]
    NotRequested { host: String, source: LinkError },
    /// The host has recorded the request, and its agent carries it out.
    #[error("cannot confirm that `{host}` is out of DNS: after {} {}", duration::format(*.waited), .users.join("; "))]
    StillUsed { host: String, users: Vec<String>, waited: Duration },
}

/// Takes the host out of DNS. Returns when every balancer that can be read has no address for it any more.
pub async fn withdraw(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    actor: &Actor,
) -> Result<(), WithdrawError> {
    let request = WithdrawRequest { actor: actor.clone(), dry_run: false };
    let requested = async { find_link(world, host)?.withdraw(&fleet.service, &request).await };
    let name = || host.name.to_string();
    requested.await.map_err(|source| WithdrawError::NotRequested { host: name(), source })?;
    let started_at = Instant::now();
    loop {
        let users = list_users(world, fleet, host).await;
        if users.is_empty() {
            return Ok(());
        }
        let waited = started_at.elapsed();
        if waited >= WITHDRAW_TIMEOUT || sleep_or_stop(world, READ_INTERVAL).await {
            return Err(WithdrawError::StillUsed { host: name(), users, waited });
        }
    }
}

/// The server lines that send users to a vhost of the host, and the balancers that do not report theirs.
async fn list_users(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Vec<String> {
    let mut users = Vec::new();
    for balancer in &world.balancers {
        let spec = balancer.spec();
        match balancer.read().await {
            Ok(view) => users.extend(list_host_users(fleet, spec, &host.name, &view)),
            Err(error) => users.push(format!("`{}` cannot be read: {error}", spec.name)),
        }
    }
    users
}
