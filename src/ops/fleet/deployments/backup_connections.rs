//! HAProxy keeps idle connections to a backup vhost that served the users of a roll: their host closes those to an old version.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::idle_connections::{FLUSH_TIMEOUT, can_retry_flush, flush};
use super::list::FleetDeployment;
use crate::model::api::deployments::{CloseIdleRequest, DeploymentsView};
use crate::model::deployment::DeploymentId;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::ops::fleet::reach::{find_link, read_balancers, sleep_or_stop};
use crate::plan::host_servers::{find_backup, find_main};
use crate::world::FleetWorld;

/// The interval between two attempts to close connections.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(300);
/// The interval between the two reads that show that a backup vhost gets no requests.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(100);

/// The use of a host's backup vhost by all balancers.
#[derive(Debug, PartialEq, Eq)]
enum BackupUse {
    /// Some balancer is not read, or does not count its idle connections.
    Unknown,
    /// A request is in flight, or a balancer does not report the main vhost UP.
    Used,
    /// `selected`: how often the balancers have selected the backup server so far; `idle`: the connections that they keep.
    Unused { selected: u64, idle: u64 },
}

async fn read_backup_use(world: &FleetWorld, fleet: &Fleet, host: &Host) -> BackupUse {
    if world.balancers.is_empty() || world.balancers.len() < fleet.balancers.len() {
        return BackupUse::Unknown;
    }
    let (mut all_selected, mut all_idle) = (0, 0);
    for (balancer, view) in world.balancers.iter().zip(read_balancers(world).await) {
        let Ok(view) = view else { return BackupUse::Unknown };
        let main = find_main(fleet, balancer.spec(), &host.name, &view).view;
        let backup = find_backup(fleet, balancer.spec(), &host.name, &view).view;
        let (Some(main), Some(backup)) = (main, backup) else { return BackupUse::Unknown };
        let Some(idle) = backup.work.idle_connections else { return BackupUse::Unknown };
        if !main.state.is_up() || backup.work.in_flight() > 0 {
            return BackupUse::Used;
        }
        all_selected += backup.work.selected_total;
        all_idle += idle;
    }
    BackupUse::Unused { selected: all_selected, idle: all_idle }
}

/// The outcome of one attempt to close connections.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    NoneRemain,
    SomeRemain,
    /// The same attempt would fail again.
    Impossible,
}

/// Has the host close what balancers keep to old versions by the backup port, if no balancer uses that port: every main vhost is
/// UP, no request is in flight to the backup vhost, and none was sent to it between two reads. A balancer needs several failed
/// checks before it would use these connections again.
async fn try_to_close(world: &FleetWorld, fleet: &Fleet, host: &Host) -> Attempt {
    let before = read_backup_use(world, fleet, host).await;
    tokio::time::sleep(CONFIRM_INTERVAL).await;
    match (before, read_backup_use(world, fleet, host).await) {
        (
            BackupUse::Unused { selected: selected_before, .. },
            BackupUse::Unused { selected, idle: reported },
        ) if selected == selected_before => {
            let Ok(link) = find_link(world, host) else { return Attempt::Impossible };
            match link.close_idle(&fleet.service, &CloseIdleRequest { reported, dry_run: false }).await {
                Ok(closed) if closed.remaining == 0 => Attempt::NoneRemain,
                Ok(_) => Attempt::SomeRemain,
                // An agent of a version without this endpoint, for example: the connections end by themselves.
                Err(_) => Attempt::Impossible,
            }
        }
        (BackupUse::Unknown, BackupUse::Unknown) => Attempt::Impossible,
        _ => Attempt::SomeRemain,
    }
}

/// Closes what balancers keep to old versions by the backup port of each host, where that is possible, for at most
/// [`FLUSH_TIMEOUT`]: in a later roll they would send users to the old version.
pub(super) async fn close_backup_connections(world: &FleetWorld, fleet: &Fleet, hosts: &[Host]) {
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    let close = async |host: &Host| {
        while try_to_close(world, fleet, host).await == Attempt::SomeRemain
            && Instant::now() < deadline
            && !sleep_or_stop(world, ATTEMPT_INTERVAL).await
        {}
    };
    futures_util::future::join_all(hosts.iter().map(close)).await;
}

/// Closes what balancers keep to a version for as long as its kill waits: by the host, and by every balancer that allows it.
pub(super) async fn close_repeatedly(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    row: &FleetDeployment,
) -> Infallible {
    let mut can_flush = true;
    loop {
        tokio::time::sleep(ATTEMPT_INTERVAL).await;
        let Ok(link) = find_link(world, host) else { return std::future::pending().await };
        let Ok(view) = link.list_deployments().await else { continue };
        if !has_idle_connections(&view, &row.id) || is_routed_to(&view, &row.id) {
            continue;
        }
        // The balancers of this command are those of its service.
        if row.service == fleet.service {
            try_to_close(world, fleet, host).await;
        }
        if can_flush {
            let flushes = flush(world, fleet, &host.name).await;
            can_flush = flushes.iter().any(|(_, flush)| flush.is_err() || can_retry_flush(flush));
        }
    }
}

/// A tie may be an idle connection, for 15 s.
fn has_idle_connections(view: &DeploymentsView, id: &DeploymentId) -> bool {
    let found = view.deployments.iter().find(|view| view.deployment.id == *id);
    found.is_some_and(|view| view.sockets.as_ref().is_ok_and(|count| count.idle + count.ambiguous > 0))
}

fn is_routed_to(view: &DeploymentsView, id: &DeploymentId) -> bool {
    let routes = view.services.iter().filter_map(|record| record.routes.as_ref());
    let mut routes = routes.flat_map(|routes| [&routes.main, &routes.backup]);
    routes.any(|route| route.deployment == *id)
}
