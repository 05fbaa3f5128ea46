//! The agent's work for the versions of its host, beside answering requests: it keeps instances running and watches new
//! mains.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::error::HostDeployError;
use super::instance_health::watch_instances;
use super::recovery::{recover_and_start, restore_instances};
use super::trial;
use crate::model::api::deployments::{TrialOutcome, WatchRequest};
use crate::model::forward::Trial;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::ops::host::warn::warn;
use crate::world::HostWorld;

/// The interval between two looks for mains on trial: a row of the record, read in microseconds.
const TRIAL_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The interval between two checks that every instance has a keeper. The keeper itself restarts the instance.
const INSTANCE_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Runs until a stop is requested.
pub async fn run(world: &HostWorld, actor: &Actor) {
    reconcile_and_warn(world, true).await;
    // Side by side: what is held by one while it waits, the other may wait for.
    tokio::join!(
        reconcile_instances(world),
        watch_trials(world, actor),
        Box::pin(watch_instances(world, actor))
    );
}

async fn reconcile_instances(world: &HostWorld) {
    loop {
        sleep_or_stop(world, INSTANCE_CHECK_INTERVAL).await;
        if world.stop.is_requested() {
            return;
        }
        // A service manager that brings instances back at boot looks after them all the time.
        if !world.runner.restarts_at_boot() {
            reconcile_and_warn(world, false).await;
        }
    }
}

/// Watches each new main by itself.
async fn watch_trials(world: &HostWorld, actor: &Actor) {
    let mut judged: BTreeMap<ServiceName, Trial> = BTreeMap::new();
    let (mut watching, mut watched) = (FuturesUnordered::new(), BTreeSet::new());
    while !world.stop.is_requested() {
        for (service, trial) in list_trials(world) {
            if judged.get(&service) != Some(&trial) && watched.insert(service.clone()) {
                watching.push(async move {
                    let ended = watch_trial(world, &service, actor).await;
                    (service, trial, ended)
                });
            }
        }
        let due = sleep_or_stop(world, TRIAL_CHECK_INTERVAL);
        tokio::pin!(due);
        loop {
            tokio::select! {
                biased;
                () = &mut due => break,
                Some((service, trial, ended)) = watching.next() => {
                    watched.remove(&service);
                    if report_trial_end(world, &service, ended) {
                        judged.insert(service, trial);
                    }
                }
            }
        }
    }
    // Watches that have begun are brought to an end. They watch for the stop themselves.
    while let Some((service, _, ended)) = watching.next().await {
        report_trial_end(world, &service, ended);
    }
}

async fn sleep_or_stop(world: &HostWorld, pause: Duration) {
    tokio::select! {
        biased;
        () = world.stop.wait() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Whether nothing more can be done about it.
fn report_trial_end(
    world: &HostWorld,
    service: &ServiceName,
    ended: Result<TrialOutcome, HostDeployError>,
) -> bool {
    match ended {
        Ok(TrialOutcome::Passed | TrialOutcome::Overtaken { .. }) | Err(HostDeployError::Interrupted) => {
            false
        }
        Ok(TrialOutcome::RolledBack { previous, reason }) => {
            warn(world, format!("{service}: {} is main again, by itself: {reason}", previous.version));
            false
        }
        Ok(TrialOutcome::Stuck { reason }) => {
            warn(world, format!("{service}: main is not healthy, and nothing can take over: {reason}"));
            true
        }
        Err(error) => {
            warn(world, format!("{service}: main cannot be watched: {error}"));
            false
        }
    }
}

/// Watches the trial of the current main.
async fn watch_trial(
    world: &HostWorld,
    service: &ServiceName,
    actor: &Actor,
) -> Result<TrialOutcome, HostDeployError> {
    match trial::find_trial(world, service)? {
        Some((main, _)) => {
            trial::watch(world, service, &WatchRequest { id: main.id, actor: actor.clone() }).await
        }
        None => Ok(TrialOutcome::Passed),
    }
}

async fn reconcile_and_warn(world: &HostWorld, first: bool) {
    let done = if first { restore_instances(world).await } else { recover_and_start(world).await };
    match done {
        Ok(done) => {
            for text in done {
                warn(world, text);
            }
        }
        Err(error) => warn(world, format!("instances are not looked after: {error}")),
    }
}

/// A record that cannot be read is the rule keeper's to report.
fn list_trials(world: &HostWorld) -> Vec<(ServiceName, Trial)> {
    world.store.load_trials().unwrap_or_default()
}
