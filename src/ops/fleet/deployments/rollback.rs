//! `rollback`, and the undo of an assign: the last good version becomes main again.

use std::time::Duration;

use super::each_host::{PerHost, all_or_partial, for_each_host, report_progress, require_owned_hosts};
use super::error::FleetDeployError;
use super::idle_connections::flush_hosts;
use super::list::FleetDeployment;
use crate::model::api::deployments::{AssignResponse, RollbackRequest};
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::host_main::HostMain;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::Version;
use crate::ops::fleet::lock::{FREE_LOCK_TIMEOUT, run_with_lock_if_free};
use crate::ops::fleet::mains::read_mains;
use crate::ops::fleet::owner::HostActors;
use crate::ops::fleet::roll;
use crate::plan::rollback::{HostRollback, choose_rollback};
use crate::world::FleetWorld;
use crate::world::link::LinkError;
use crate::world::reporter::Event;

/// Undoes an assign on these hosts, where the target is still main, and reports each host.
pub(super) async fn roll_back_hosts(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    target: &FleetDeployment,
    actors: &HostActors,
    reason: &str,
) -> Result<Vec<(HostName, AssignResponse)>, FleetDeployError> {
    let from = Some(target.version.clone());
    let results = for_each_host(world, hosts, async |host, link| {
        let (actor, from) = (actors.find(&host.name), from.clone());
        let request = RollbackRequest { actor, reason: reason.to_owned(), from, dry_run: false };
        link.rollback(&target.service, &request).await
    })
    .await;
    for (host, result) in &results {
        let text = match result {
            Ok(assigned) => format!("{} is main again", assigned.deployment.version),
            Err(error) => format!("cannot bring back the last good main: {error}"),
        };
        report_progress(world, Some(host), text);
    }
    let restored = all_or_partial(results)?;
    flush_hosts(world, fleet, restored.clone(), Duration::ZERO).await;
    Ok(restored)
}

/// The result of a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackReport {
    /// Main of every host now.
    pub version: Version,
    /// The hosts where it became main.
    pub changed: Vec<HostName>,
}

/// Makes one version main on every host, at once and without steps: the last good main. All hosts are read first, because an
/// assign may have reached some of them only. Those that have the version already stay as they are.
///
/// It holds the fleet's lock where the lock is free. Another holder, or a store that does not answer, is a warning: a rollback
/// is for users who get errors now.
pub async fn rollback(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    service: &ServiceName,
    actor: &Actor,
) -> Result<RollbackReport, FleetDeployError> {
    let work = roll_back_fleet(world, fleet, hosts, service, actor);
    run_with_lock_if_free(world, &actor.user, "rollback", work).await
}

async fn roll_back_fleet(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    service: &ServiceName,
    actor: &Actor,
) -> Result<RollbackReport, FleetDeployError> {
    let actors = require_owned_hosts(world, fleet, service, hosts, actor).await?;
    let roll_back = async |hosts: &[Host], from: Option<&HostRollbacks>| {
        for_each_host(world, hosts, async |host, link| {
            let (actor, dry_run) = (actors.find(&host.name), from.is_none());
            let from = from.and_then(|all| all.find_main(&host.name));
            link.rollback(service, &RollbackRequest { actor, reason: String::new(), from, dry_run }).await
        })
        .await
    };
    let (planned, mains) = tokio::join!(roll_back(hosts, None), read_mains(world, service, hosts));
    if let Some((host, error)) = mains.unread.into_iter().next() {
        return Err(FleetDeployError::Hosts(vec![(host, error)]));
    }
    let turns = HostRollbacks::new(&planned, &mains.known);
    let Some(chosen) = choose_rollback(&turns.0) else {
        return Err(explain_refusal(service, planned, turns));
    };
    for turn in &turns.0 {
        let text = match &turn.main {
            Some(main) if *main == chosen.version => format!("stays at {main}"),
            Some(main) => format!("goes back from {main} to {}", chosen.version),
            None => format!("goes back to {}", chosen.version),
        };
        report_progress(world, Some(&turn.host), text);
    }
    let going: Vec<Host> = hosts.iter().filter(|host| chosen.going.contains(&host.name)).cloned().collect();
    let results = roll_back(&going, Some(&turns)).await;
    let restored = all_or_partial(results)?;
    flush_hosts(world, fleet, restored, Duration::ZERO).await;
    warn_of_open_roll(world, service).await;
    Ok(RollbackReport { version: chosen.version, changed: chosen.going })
}

/// An assign that is not finished would make its version main again.
async fn warn_of_open_roll(world: &FleetWorld, service: &ServiceName) {
    // The users have the version by now: the caller does not wait for a journal that is out of reach.
    let read = tokio::time::timeout(FREE_LOCK_TIMEOUT, roll::read_last(world)).await;
    let Ok(Ok(Some(open))) = read else { return };
    if open.is_finished() || open.spec.service != *service {
        return;
    }
    if let Some(new_main) = open.spec.work.new_main() {
        let text = format!(
            "roll {} is not finished: it makes {} main; `switchman roll --service {service} --abort` ends it",
            open.roll, new_main.version
        );
        world.reporter.report(&Event::Warning { text });
    }
}

/// The rollback of each host by itself, in the order of the hosts.
struct HostRollbacks(Vec<HostRollback>);

impl HostRollbacks {
    fn new(planned: &PerHost<AssignResponse>, mains: &[HostMain]) -> Self {
        let turn = |(host, result): &(HostName, Result<AssignResponse, LinkError>)| HostRollback {
            host: host.clone(),
            main: mains.iter().find(|main| main.host == *host).and_then(|main| main.version.clone()),
            target: result.as_ref().ok().map(|assigned| assigned.deployment.version.clone()),
        };
        Self(planned.iter().map(turn).collect())
    }

    fn find_main(&self, host: &HostName) -> Option<Version> {
        self.0.iter().find(|turn| turn.host == *host)?.main.clone()
    }
}

/// The hosts that refuse are the reason where all have one main: no version is good on all of them.
fn explain_refusal(
    service: &ServiceName,
    planned: PerHost<AssignResponse>,
    turns: HostRollbacks,
) -> FleetDeployError {
    let has_one_main = turns.0.windows(2).all(|pair| pair[0].main == pair[1].main);
    let refused: Vec<_> =
        planned.into_iter().filter_map(|(host, result)| Some((host, result.err()?))).collect();
    if has_one_main && !refused.is_empty() {
        return FleetDeployError::Hosts(refused);
    }
    FleetDeployError::RollbackSplit { service: service.clone(), hosts: turns.0 }
}
