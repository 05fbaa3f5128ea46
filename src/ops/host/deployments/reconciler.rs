//! What a running agent does for the versions of its host, beside answering: instances run, new mains are watched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::recovery::look_after;
use super::trial;
use super::{VersionError, boot, warn};
use crate::model::api::deployments::{TrialEnd, WatchRequest};
use crate::model::forward::Trial;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::world::HostWorld;

/// Between two looks for mains on trial: a row of the record, read in microseconds.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks whether every instance is run by somebody: whoever runs them restarts them by himself.
const RUN: Duration = Duration::from_secs(30);

/// Until a stop is requested.
pub async fn tend(world: &HostWorld, actor: &Actor) {
    run(world, true).await;
    // Side by side: what is held by one while it waits, the other may wait for.
    tokio::join!(look_after_instances(world), watch_mains(world, actor));
}

async fn look_after_instances(world: &HostWorld) {
    loop {
        rest(world, RUN).await;
        if world.stop.is_requested() {
            return;
        }
        // A service manager that brings instances back at boot looks after them all the time.
        if !world.runner.comes_back_at_boot() {
            run(world, false).await;
        }
    }
}

/// Each new main by itself.
async fn watch_mains(world: &HostWorld, actor: &Actor) {
    let mut judged: BTreeMap<ServiceName, Trial> = BTreeMap::new();
    let (mut watching, mut watched) = (FuturesUnordered::new(), BTreeSet::new());
    while !world.stop.is_requested() {
        for (service, trial) in on_trial(world) {
            if judged.get(&service) != Some(&trial) && watched.insert(service.clone()) {
                watching.push(async move {
                    let ended = judge(world, &service, actor).await;
                    (service, trial, ended)
                });
            }
        }
        let due = rest(world, LOOK);
        tokio::pin!(due);
        loop {
            tokio::select! {
                biased;
                () = &mut due => break,
                Some((service, trial, ended)) = watching.next() => {
                    watched.remove(&service);
                    if tell(world, &service, ended) {
                        judged.insert(service, trial);
                    }
                }
            }
        }
    }
    // What was begun is brought to an end, which hears the stop by itself.
    while let Some((service, _, ended)) = watching.next().await {
        tell(world, &service, ended);
    }
}

async fn rest(world: &HostWorld, pause: Duration) {
    tokio::select! {
        biased;
        () = world.stop.requested() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Whether nothing more can be done about it.
fn tell(world: &HostWorld, service: &ServiceName, ended: Result<TrialEnd, VersionError>) -> bool {
    match ended {
        Ok(TrialEnd::Good | TrialEnd::Overtaken { .. }) | Err(VersionError::Interrupted) => false,
        Ok(TrialEnd::PutBack { previous, why }) => {
            warn(world, format!("{service}: {} is main again, by itself: {why}", previous.version));
            false
        }
        Ok(TrialEnd::Stuck { why }) => {
            warn(world, format!("{service}: main is not healthy, and nothing can take over: {why}"));
            true
        }
        Err(error) => {
            warn(world, format!("{service}: main cannot be watched: {error}"));
            false
        }
    }
}

/// Whichever is main now.
async fn judge(world: &HostWorld, service: &ServiceName, actor: &Actor) -> Result<TrialEnd, VersionError> {
    match trial::on_trial(world, service)? {
        Some((main, _)) => {
            trial::watch(world, service, &WatchRequest { id: main.id, actor: actor.clone() }).await
        }
        None => Ok(TrialEnd::Good),
    }
}

async fn run(world: &HostWorld, first: bool) {
    let done = if first { boot(world).await } else { look_after(world).await };
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
fn on_trial(world: &HostWorld) -> Vec<(ServiceName, Trial)> {
    world.store.trials().unwrap_or_default()
}
