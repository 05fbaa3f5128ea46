//! The agent's care for the proxy of its host. When the proxy dies or stops answering, the rules route directly to main
//! again within a second, without an operator. When the proxy can be had again, the agent inserts it again. The agent also
//! keeps its configuration as recorded.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;

use super::backoff::RetryBackoff;
use super::configure::{push_config, reconcile_config};
use super::warn_once::{WarnOnce, WarningKey};
use super::{reconcile_service, set_inserted};
use crate::model::forward::ServiceRecord;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::proxy::Layer7;
use crate::ops::host::deployments::error::HostDeployError;
use crate::ops::host::rules::{self, ChangeError};
use crate::ops::host::warn::warn;
use crate::plan::traffic_split::{self, DesiredPlacement};
use crate::plan::versions;
use crate::world::HostWorld;
use crate::world::store::LockGuard;

/// A proxy that misses `MISSES` of these looks in a row has stopped answering: with `BOUND` each, within 0.8 s.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);
const MAX_MISSES: u32 = 2;
/// The interval between two looks at the record while there is nothing to watch.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// The interval between two looks for a proxy that no service needs.
const STRAY_INTERVAL: Duration = Duration::from_secs(10);

/// Routes directly to main where rules route to a proxy that does not run, as after a boot.
pub async fn bypass_dead_proxy(world: &HostWorld, actor: &Actor) -> Result<(), HostDeployError> {
    let unserved = find_unserved(world, filter_inserted(read_places(world)?)).await;
    bypass_all(world, &unserved, actor).await
}

/// Runs until a stop is requested. While another agent does this, this one waits.
pub async fn run(world: &HostWorld, actor: &Actor) {
    let reconciler = ProxyReconciler {
        world,
        actor,
        backoff: RetryBackoff::default(),
        places_found: Notify::new(),
        warnings: WarnOnce::default(),
    };
    let Some(held) = reconciler.wait_for_exclusive().await else { return };
    // Concurrently: a slow insertion of one service must not delay the bypass of a proxy that dies.
    tokio::join!(reconciler.watch_health(), reconciler.reconcile());
    drop(held);
}

struct ProxyReconciler<'a> {
    world: &'a HostWorld,
    actor: &'a Actor,
    backoff: RetryBackoff,
    /// The record has places again: at rest one of the two looks.
    places_found: Notify,
    warnings: WarnOnce,
}

impl ProxyReconciler<'_> {
    /// `None`: a stop was requested first.
    async fn wait_for_exclusive(&self) -> Option<Box<dyn LockGuard>> {
        while !self.world.stop.is_requested() {
            match self.world.proxy.acquire_watch_lock() {
                Ok(Some(held)) => return Some(held),
                Ok(None) => {
                    self.warnings.raise(
                        self.world,
                        WarningKey::Watch,
                        "another agent watches the proxy".to_owned(),
                    );
                }
                Err(error) => {
                    self.warnings.raise(
                        self.world,
                        WarningKey::Watch,
                        format!("the proxy cannot be watched: {error}"),
                    );
                }
            }
            self.sleep_or_stop(IDLE_INTERVAL).await;
        }
        None
    }

    /// Watches that rules route to the proxy only while it serves.
    async fn watch_health(&self) {
        let mut misses = 0;
        while !self.world.stop.is_requested() {
            let places = match read_places(self.world) {
                Ok(places) => places,
                Err(error) => {
                    self.warnings.raise(
                        self.world,
                        WarningKey::Watch,
                        format!("the proxy's places cannot be read: {error}"),
                    );
                    vec![]
                }
            };
            if !places.is_empty() {
                self.places_found.notify_one();
            }
            // While the proxy is being inserted, the next moment may be the first of a proxy that hangs.
            let pause = if places.is_empty() { IDLE_INTERVAL } else { PROBE_INTERVAL };
            let inserted = filter_inserted(places);
            if inserted.is_empty() {
                misses = 0;
                self.sleep_or_stop(pause).await;
                continue;
            }
            let unserved = find_unserved(self.world, inserted).await;
            misses = if unserved.is_empty() { 0 } else { misses + 1 };
            if misses >= MAX_MISSES {
                match self.handle_death(&unserved).await {
                    Ok(()) => misses = 0,
                    Err(error) => {
                        let text = format!("the rules still route to a proxy that has exited: {error}");
                        self.warnings.raise(self.world, WarningKey::Watch, text);
                        self.sleep_or_stop(PROBE_INTERVAL).await;
                        continue;
                    }
                }
            }
            self.warnings.clear(&WarningKey::Watch);
            // The end of the process is noticed at once; whether a process that lives answers is checked by interval.
            tokio::select! {
                biased;
                () = self.world.stop.wait() => {}
                () = self.world.proxy.wait_for_exit() => misses = MAX_MISSES,
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
            }
        }
    }

    async fn handle_death(&self, unserved: &[ServiceRecord]) -> Result<(), HostDeployError> {
        bypass_all(self.world, unserved, self.actor).await?;
        let pauses = unserved.iter().map(|record| self.backoff.record_failure(&record.forward.service));
        let next = crate::model::duration::format(pauses.min().unwrap_or_default());
        warn(
            self.world,
            format!(
                "the proxy died or stopped answering: the rules bypass the proxy, the next try is in {next}"
            ),
        );
        Ok(())
    }

    /// Reconciles every service with its record: a wanted proxy is inserted, an unwanted one removed. Each service by
    /// itself: a slow one costs the others nothing.
    async fn reconcile(&self) {
        let (mut reconciles, mut busy) = (FuturesUnordered::new(), BTreeSet::new());
        while !self.world.stop.is_requested() {
            let places = read_places(self.world).unwrap_or_default();
            let rest = if places.is_empty() { STRAY_INTERVAL } else { IDLE_INTERVAL };
            for record in places {
                if busy.insert(record.forward.service.clone()) {
                    reconciles.push(self.reconcile_and_report(record));
                }
            }
            let pushing = async {
                self.reconcile_config().await;
                tokio::select! {
                    () = self.sleep_or_stop(rest) => {}
                    () = self.places_found.notified(), if rest == STRAY_INTERVAL => {}
                }
            };
            tokio::pin!(pushing);
            // A reconcile may hold a lock that is waited for here: both go on all the time.
            loop {
                tokio::select! {
                    biased;
                    () = &mut pushing => break,
                    Some(service) = reconciles.next() => drop(busy.remove(&service)),
                }
            }
        }
        // Work that has begun is brought to an end. It watches for the stop itself.
        while reconciles.next().await.is_some() {}
    }

    async fn reconcile_config(&self) {
        match reconcile_config(self.world).await {
            Ok(()) => self.warnings.clear(&WarningKey::Config),
            Err(HostDeployError::Interrupted) => {}
            Err(error) => {
                let text = format!("the proxy does not do what is recorded: {error}");
                self.warnings.raise(self.world, WarningKey::Config, text);
            }
        }
    }

    async fn reconcile_and_report(&self, record: ServiceRecord) -> ServiceName {
        let service = record.forward.service.clone();
        let key = WarningKey::Service(service.clone());
        match self.reconcile_record(&record).await {
            Ok(true) => self.warnings.clear(&key),
            Ok(false) | Err(HostDeployError::Interrupted) => {}
            Err(error) => self.warnings.raise(self.world, key, format!("the proxy cannot be had: {error}")),
        }
        service
    }

    /// Reconciles one record. Returns `false` if it is not finished yet.
    async fn reconcile_record(&self, record: &ServiceRecord) -> Result<bool, HostDeployError> {
        let service = &record.forward.service;
        match (traffic_split::derive_placement(record), record.layer7.inserted()) {
            (DesiredPlacement::Inserted(_), None) => self.insert_after_backoff(service).await,
            (DesiredPlacement::Bypassed(_), Some(_)) => {
                reconcile_service(self.world, service, self.actor).await.map(|()| true)
            }
            (DesiredPlacement::Bypassed(_), None) if traffic_split::is_unneeded(record) => {
                self.release_if_drained(service).await.map(|()| true)
            }
            // A private service keeps its place for when it is public again.
            (
                DesiredPlacement::Inserted(_)
                | DesiredPlacement::Bypassed(_)
                | DesiredPlacement::Unallocated
                | DesiredPlacement::Unneeded,
                _,
            ) => Ok(true),
        }
    }

    /// Inserts the proxy once the backoff of the service is over.
    async fn insert_after_backoff(&self, service: &ServiceName) -> Result<bool, HostDeployError> {
        if !self.backoff.is_elapsed(service) {
            return Ok(false);
        }
        let settled = reconcile_service(self.world, service, self.actor).await;
        if settled.is_err() {
            self.backoff.record_failure(service);
        }
        settled.map(|()| true)
    }

    /// Gives back a port once no client is connected to it any more; with the last port the process ends.
    async fn release_if_drained(&self, service: &ServiceName) -> Result<(), HostDeployError> {
        if self.count_connections(service).await? > 0 {
            return Ok(());
        }
        rules::change_if_needed(self.world, "proxy: exited", |records| {
            let Some(record) = versions::find_record(records, service) else { return Ok(None) };
            if !traffic_split::is_unneeded(record) || record.layer7.inserted().is_some() {
                return Ok(None);
            }
            let intent = traffic_split::build_intent(
                record,
                Layer7::default(),
                self.actor,
                "proxy: exited",
                String::new(),
            );
            Ok::<_, ChangeError>(Some(intent))
        })
        .await?;
        push_config(self.world).await
    }

    /// Counts the connections that still come by the proxy. A process that has exited has none; one that does not answer
    /// may have any.
    async fn count_connections(&self, service: &ServiceName) -> Result<u64, HostDeployError> {
        match self.world.proxy.read_stats().await {
            Ok(stats) => {
                let found = stats.services.into_iter().find(|one| one.service == *service);
                Ok(found.map_or(0, |one| one.connections))
            }
            Err(_) if tokio::time::timeout(PROBE_TIMEOUT, self.world.proxy.wait_for_exit()).await.is_ok() => {
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn sleep_or_stop(&self, pause: Duration) {
        tokio::select! {
            biased;
            () = self.world.stop.wait() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Finds the services that the proxy does not serve: all where it does not answer; a restarted proxy answers but listens on
/// no port.
async fn find_unserved(world: &HostWorld, inserted: Vec<ServiceRecord>) -> Vec<ServiceRecord> {
    if inserted.is_empty() {
        return inserted;
    }
    let Ok(health) = world.proxy.check_health(PROBE_TIMEOUT).await else { return inserted };
    let serves =
        |record: &ServiceRecord| record.layer7.inserted().is_some_and(|port| health.ports.contains(&port));
    inserted.into_iter().filter(|record| !serves(record)).collect()
}

/// Bypasses the proxy for every service, also where one of them fails.
async fn bypass_all(
    world: &HostWorld,
    inserted: &[ServiceRecord],
    actor: &Actor,
) -> Result<(), HostDeployError> {
    let mut done = Ok(());
    for record in inserted {
        if let Some(port) = record.layer7.inserted() {
            done = done.and(set_inserted(world, &record.forward.service, port, false, actor).await);
        }
    }
    done
}

fn read_places(world: &HostWorld) -> Result<Vec<ServiceRecord>, HostDeployError> {
    Ok(world.store.places()?)
}

/// Keeps the records whose rules route to the proxy.
fn filter_inserted(places: Vec<ServiceRecord>) -> Vec<ServiceRecord> {
    places.into_iter().filter(|record| record.layer7.inserted().is_some()).collect()
}
