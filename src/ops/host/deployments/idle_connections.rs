//! Idle connections that load balancers keep to a version that a port is no longer routed to.

use std::collections::BTreeSet;
use std::time::Duration;

use super::error::HostDeployError;
use super::record::list_service_deployments;
use crate::model::api::deployments::{CloseIdleRequest, CloseIdleResponse};
use crate::model::deployment::Deployment;
use crate::model::forward::{Route, ServiceRecord};
use crate::model::name::ServiceName;
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::socket::{Socket, SocketActivity};
use crate::ops::host::port_sockets::filter_by_peers;
use crate::ops::host::rules;
use crate::plan::drain::classify_socket;
use crate::world::HostWorld;
use crate::world::sockets::SocketsError;

/// How often the old connections are looked for, and how long between two looks: a dump of the kernel's tables while they
/// change may leave one out, so the end is only what two looks in a row do not find.
const MAX_CLOSE_ATTEMPTS: u32 = 20;
const CLOSE_INTERVAL: Duration = Duration::from_millis(25);

/// Closes the idle connections that the balancers of a host in maintenance keep to the main that was. They would use them
/// again when the host is back: HAProxy does not close them when a server is DOWN (docs/design/measurements.md#m32).
/// Nothing can be in flight on them, for no balancer uses the server; those that came by the backup vhost's port are in use
/// and left alone. Gives back how many were closed, and whether none is left as far as the kernel shows.
pub(super) async fn close_idle_connections(
    world: &HostWorld,
    before: Option<&ServiceRecord>,
) -> (usize, bool) {
    let Some(ServiceRecord { switch: Switch::Off, routes: Some(routes), .. }) = before else {
        return (0, true);
    };
    let (mut closed, mut clean) = (0, 0);
    for _ in 0..MAX_CLOSE_ATTEMPTS {
        let mut is_clean = true;
        for target in routes.main.targets() {
            match list_by_port(world, routes.main.port, target).await {
                Ok(idle) if idle.is_empty() => {}
                Ok(idle) => {
                    is_clean = false;
                    closed += world.sockets.close(target, &idle).await.unwrap_or(0);
                }
                Err(_) => is_clean = false,
            }
        }
        clean = if is_clean { clean + 1 } else { 0 };
        if clean == 2 {
            if closed > 0 {
                // Until then a new connection from a port of one of these would be routed to the old version
                // (docs/design/measurements.md#m26).
                tokio::time::sleep(world.flows.conntrack_timeout() + CLOSE_INTERVAL).await;
            }
            return (closed, true);
        }
        tokio::time::sleep(CLOSE_INTERVAL).await;
    }
    (closed, false)
}

/// Closes the idle connections that came by the backup port and end at a version that it is no longer routed to. None while
/// the host is in maintenance, where balancers use the backup vhost, and none where the host has more connections than the
/// balancers report as idle: one of the others may be in use. No wait for conntrack follows, because no balancer connects to
/// the backup vhost now.
pub async fn close_backup_connections(
    world: &HostWorld,
    service: &ServiceName,
    request: &CloseIdleRequest,
) -> Result<CloseIdleResponse, HostDeployError> {
    let Some(backup) = find_unused_backup(world, service)? else {
        return Ok(CloseIdleResponse { closed: 0, remaining: 0 });
    };
    let instances = list_service_deployments(world, service)?;
    let port = backup.port;
    let active = instances.iter().flat_map(Deployment::active_instances);
    let targets: BTreeSet<Port> = active.map(|instance| instance.port).collect();
    let (mut before, mut found) = (Vec::new(), Vec::new());
    for target in &targets {
        before.extend(list_by_port(world, port, *target).await?);
    }
    tokio::time::sleep(CLOSE_INTERVAL).await;
    for target in targets {
        found.push((target, list_by_port(world, port, target).await?));
    }
    let total: usize = found.iter().map(|(_, open)| open.len()).sum();
    found.retain(|(target, _)| backup.targets().all(|current| current != *target));
    let mut remaining: usize = found.iter().map(|(_, open)| open.len()).sum();
    if u64::try_from(total).unwrap_or(u64::MAX) > request.reported
        || find_unused_backup(world, service)?.is_none()
    {
        return Ok(CloseIdleResponse { closed: 0, remaining });
    }
    let mut closed = 0;
    for (target, mut open) in found {
        open.retain(|socket| is_idle(socket, &before));
        closed += if request.dry_run || open.is_empty() {
            open.len()
        } else {
            world.sockets.close(target, &open).await?
        };
    }
    if !request.dry_run {
        remaining = remaining.saturating_sub(closed);
    }
    Ok(CloseIdleResponse { closed, remaining })
}

/// Returns the route of the backup port while the main vhost is in service.
fn find_unused_backup(world: &HostWorld, service: &ServiceName) -> Result<Option<Route>, HostDeployError> {
    let record = rules::read_record(world, service)?.filter(|record| record.switch == Switch::On);
    Ok(record.and_then(|record| record.routes).map(|routes| routes.backup))
}

/// A tie is idle here: the balancers report no request in flight.
fn is_idle(socket: &Socket, before: &[Socket]) -> bool {
    let earlier = before.iter().find(|earlier| earlier.cookie == socket.cookie);
    matches!(classify_socket(socket, earlier), SocketActivity::Idle | SocketActivity::Ambiguous)
}

/// Lists the connections to an instance that came by a port. The others are in use.
async fn list_by_port(world: &HostWorld, port: Port, target: Port) -> Result<Vec<Socket>, SocketsError> {
    let open = world.sockets.list_established(target).await?;
    if open.is_empty() {
        return Ok(open);
    }
    let peers = world.flows.list_peers(port, target).await;
    let peers = peers.map_err(|error| SocketsError { port, reason: error.to_string() })?;
    Ok(filter_by_peers(open, &peers))
}
