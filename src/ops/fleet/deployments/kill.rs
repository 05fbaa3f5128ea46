//! `kill`: stopped and forgotten, shadows first, main last.

use std::time::Duration;

use serde::Serialize;

use super::backup_connections::close_repeatedly;
use super::drain_progress::report_drain;
use super::each_host::{all_or_partial, for_each_host, require_owned_hosts, wait_until_stopped};
use super::error::FleetDeployError;
use super::list::{FleetDeployment, Listing};
use crate::model::api::deployments::{DeploymentView, KillRequest};
use crate::model::deployment::Role;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::Version;
use crate::ops::fleet::lock::{check_no_live_holder, run_under_lock};
use crate::world::FleetWorld;
use crate::world::link::HostLink;

#[derive(Debug, Clone)]
pub struct KillOptions {
    pub force: bool,
    pub drain_timeout: Duration,
    pub keep_files: bool,
    pub actor: Actor,
}

/// A version that was removed from some hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KilledDeployment {
    pub service: ServiceName,
    pub version: Version,
    /// Requests that were in flight when its process was stopped, over all hosts; absent where one host could not count them.
    pub aborted_requests: Option<u64>,
    pub hosts: Vec<HostName>,
}

/// A version on the hosts where it is killed at the same time.
struct KillStep<'a> {
    row: &'a FleetDeployment,
    hosts: Vec<Host>,
}

/// Orders a kill by host: the versions that are not main there first, main last, so that no other version is left when main is
/// killed (seed row D16, docs/design/seed-systems.md#mvi-and-daeploy). Which version is main may differ from host to host.
fn order_steps<'a>(rows: &'a [FleetDeployment], hosts: &[Host]) -> Vec<KillStep<'a>> {
    let mut steps = Vec::new();
    for is_main in [false, true] {
        for row in rows {
            let mut hosts = row.filter_hosts(hosts);
            hosts.retain(|host| row.is_main_on(&host.name) == is_main);
            if !hosts.is_empty() {
                steps.push(KillStep { row, hosts });
            }
        }
    }
    steps.sort_by_key(|step| step.row.service.clone());
    steps
}

/// Checks, before the prompt, what would refuse the kill: a main with other versions beside it, a host of another owner, a running
/// operation of the fleet. Nothing is changed.
pub async fn check_kill(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    listing: &Listing,
    rows: &[FleetDeployment],
    actor: &Actor,
) -> Result<(), FleetDeployError> {
    require_killable(world, fleet, hosts, listing, rows, actor).await?;
    Ok(check_no_live_holder(world).await?)
}

/// A main goes last, and only with all other versions of its service.
async fn require_killable(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    listing: &Listing,
    rows: &[FleetDeployment],
    actor: &Actor,
) -> Result<(), FleetDeployError> {
    for row in rows {
        let stays_beside = |other: &&FleetDeployment, host: &HostName| {
            other.service == row.service
                && other.is_on(host)
                && !rows.iter().any(|killed| killed.id == other.id)
        };
        let mut kept = row.filter_hosts(hosts);
        kept.retain(|host| {
            row.is_main_on(&host.name) && listing.rows.iter().any(|other| stays_beside(&other, &host.name))
        });
        if !kept.is_empty() {
            let hosts = kept.into_iter().map(|host| host.name).collect();
            let (service, version) = (row.service.clone(), row.version.clone());
            return Err(FleetDeployError::MainWithShadows { service, version, hosts });
        }
        require_owned_hosts(world, fleet, &row.service, &row.filter_hosts(hosts), actor).await?;
    }
    Ok(())
}

/// Finds the hosts of these rows whose backup vhost has no other server once the rows are killed: the backup port is routed to
/// the last version of a service, and no process listens on it. A host that cannot be read is left out.
pub async fn find_unserved_backups(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    rows: &[FleetDeployment],
) -> Vec<(HostName, ServiceName)> {
    let mut unserved = Vec::new();
    for row in rows {
        let Some(port) = fleet.for_service(&row.service).map(|fleet| fleet.ports.backup) else { continue };
        let mut mains = row.filter_hosts(hosts);
        mains.retain(|host| row.is_main_on(&host.name));
        let listeners =
            for_each_host(world, &mains, async |_, link| link.list_listeners(&row.service, port).await).await;
        let empty = listeners.into_iter().filter(|(_, found)| found.as_ref().is_ok_and(Vec::is_empty));
        unserved.extend(empty.map(|(host, _)| (host, row.service.clone())));
    }
    unserved
}

/// Describes where versions stay that are killed on some hosts only, so that these hosts cannot go back to a main of the others.
pub fn describe_remaining(killed: &[FleetDeployment], elsewhere: &[FleetDeployment]) -> Vec<String> {
    let describe = |row: &FleetDeployment| {
        let is_same = |other: &&FleetDeployment| other.service == row.service && other.version == row.version;
        let stays: Vec<&(HostName, DeploymentView)> =
            elsewhere.iter().filter(is_same).flat_map(|other| &other.hosts).collect();
        let list = |is_main: bool| {
            let hosts = stays.iter().filter(|(_, view)| (view.role == Role::Main) == is_main);
            hosts.map(|(host, _)| host.as_str()).collect::<Vec<_>>().join(", ")
        };
        let places = [(true, "as main"), (false, "not as main")];
        let places: Vec<String> = places
            .into_iter()
            .map(|(is_main, role)| (list(is_main), role))
            .filter(|(hosts, _)| !hosts.is_empty())
            .map(|(hosts, role)| format!("on {hosts} ({role})"))
            .collect();
        let killed_on: Vec<&str> = row.hosts.iter().map(|(host, _)| host.as_str()).collect();
        (!places.is_empty()).then(|| {
            format!(
                "{} {} stays {}; {} cannot go back to it after this",
                row.service,
                row.version,
                places.join(", "),
                killed_on.join(", ")
            )
        })
    };
    killed.iter().filter_map(describe).collect()
}

/// Kills one step after another under the fleet's lock, and stops at the first refusal.
pub async fn kill(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    (listing, rows): (&Listing, &[FleetDeployment]),
    options: &KillOptions,
    report: impl FnMut(&KilledDeployment),
) -> Result<Vec<KilledDeployment>, FleetDeployError> {
    let work = kill_under_lock(world, fleet, hosts, (listing, rows), options, report);
    run_under_lock(world, &options.actor.user, "kill", work).await
}

/// Kills the rows; the caller holds the fleet lock.
async fn kill_under_lock(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    (listing, rows): (&Listing, &[FleetDeployment]),
    options: &KillOptions,
    mut report: impl FnMut(&KilledDeployment),
) -> Result<Vec<KilledDeployment>, FleetDeployError> {
    require_killable(world, fleet, hosts, listing, rows, &options.actor).await?;
    let steps = order_steps(rows, hosts);
    let mut deployments: Vec<KilledDeployment> = Vec::new();
    for (at, KillStep { row, hosts }) in steps.iter().enumerate() {
        let actors = require_owned_hosts(world, fleet, &row.service, hosts, &options.actor).await?;
        let request = |host: &Host| KillRequest {
            id: row.id.clone(),
            force: options.force,
            drain_timeout: options.drain_timeout,
            keep_files: options.keep_files,
            actor: actors.find(&host.name),
            dry_run: false,
        };
        let kill_on = async |host: &Host, link: &dyn HostLink| {
            let request = request(host);
            tokio::select! {
                killed = wait_until_stopped(world, link, link.kill(&request)) => killed,
                never = report_drain(world, &host.name, row) => match never {},
                never = close_repeatedly(world, fleet, host, row) => match never {},
            }
        };
        let killed = all_or_partial(for_each_host(world, hosts, kill_on).await)?;
        let aborted_requests = killed.iter().map(|(_, killed)| killed.aborted_requests).sum();
        let hosts: Vec<HostName> = killed.into_iter().map(|(host, _)| host).collect();
        let is_of_row =
            |killed: &&mut KilledDeployment| killed.service == row.service && killed.version == row.version;
        if let Some(earlier) = deployments.iter_mut().find(is_of_row) {
            earlier.aborted_requests = earlier.aborted_requests.zip(aborted_requests).map(|(a, b)| a + b);
            earlier.hosts.extend(hosts);
        } else {
            let (service, version) = (row.service.clone(), row.version.clone());
            deployments.push(KilledDeployment { service, version, aborted_requests, hosts });
        }
        if !steps[at + 1..].iter().any(|later| later.row.id == row.id)
            && let Some(done) = deployments.iter_mut().find(is_of_row)
        {
            report(done);
        }
    }
    Ok(deployments)
}
