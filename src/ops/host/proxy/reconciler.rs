//! What an agent does for the proxy of its host: when it dies or stops answering, the rules lead straight at main again within
//! a second, with nobody asked; when it can be had again, it stands before main again; and it does what is recorded.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;

use super::backoff::Pauses;
use super::configure::{converge, tell};
use super::warn_once::{Troubles, Whose};
use super::{VersionError, lead, settle};
use crate::model::forward::Recorded;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::proxy::Layer7;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::traffic_split::{self, Wanted};
use crate::plan::versions;
use crate::world::HostWorld;
use crate::world::reporter::Event;
use crate::world::store::Exclusive;

/// A proxy that misses `MISSES` of these looks in a row has stopped answering: with `BOUND` each, within 0.8 s.
const LOOK: Duration = Duration::from_millis(100);
const BOUND: Duration = Duration::from_millis(300);
const MISSES: u32 = 2;
/// Between two looks at the record while there is nothing to watch.
const REST: Duration = Duration::from_millis(500);
/// Between two looks for a proxy that nobody needs.
const STRAY: Duration = Duration::from_secs(10);

/// Where rules lead to a proxy that is not there, as after a boot: they lead straight at main.
pub async fn straighten(world: &HostWorld, actor: &Actor) -> Result<(), VersionError> {
    let unserved = unserved(world, inserted(places(world)?)).await;
    fall_back(world, &unserved, actor).await
}

/// Until a stop is requested. While another agent does it, this one waits.
pub async fn keep(world: &HostWorld, actor: &Actor) {
    let keeper = Keeper {
        world,
        actor,
        pauses: Pauses::default(),
        placed: Notify::new(),
        troubles: Troubles::default(),
    };
    let Some(held) = keeper.alone().await else { return };
    // Side by side: whoever is let in slowly keeps nobody else from being led past a proxy that dies.
    tokio::join!(keeper.watch(), keeper.mend());
    drop(held);
}

struct Keeper<'a> {
    world: &'a HostWorld,
    actor: &'a Actor,
    pauses: Pauses,
    /// The record has places again: at rest one of the two looks.
    placed: Notify,
    troubles: Troubles,
}

impl Keeper<'_> {
    /// `None`: a stop was requested first.
    async fn alone(&self) -> Option<Box<dyn Exclusive>> {
        while !self.world.stop.is_requested() {
            match self.world.proxy.keep() {
                Ok(Some(held)) => return Some(held),
                Ok(None) => {
                    self.troubles.is(self.world, Whose::Watch, "another agent watches the proxy".to_owned());
                }
                Err(error) => {
                    self.troubles.is(
                        self.world,
                        Whose::Watch,
                        format!("the proxy cannot be watched: {error}"),
                    );
                }
            }
            self.rest(REST).await;
        }
        None
    }

    /// Rules lead to the proxy only while it serves.
    async fn watch(&self) {
        let mut misses = 0;
        while !self.world.stop.is_requested() {
            let places = match places(self.world) {
                Ok(places) => places,
                Err(error) => {
                    self.troubles.is(
                        self.world,
                        Whose::Watch,
                        format!("the proxy's places cannot be read: {error}"),
                    );
                    vec![]
                }
            };
            if !places.is_empty() {
                self.placed.notify_one();
            }
            // While somebody is let in, the next moment may be the first of a proxy that hangs.
            let pause = if places.is_empty() { REST } else { LOOK };
            let inserted = inserted(places);
            if inserted.is_empty() {
                misses = 0;
                self.rest(pause).await;
                continue;
            }
            let unserved = unserved(self.world, inserted).await;
            misses = if unserved.is_empty() { 0 } else { misses + 1 };
            if misses >= MISSES {
                match self.died(&unserved).await {
                    Ok(()) => misses = 0,
                    Err(error) => {
                        let text = format!("the rules still lead to a proxy that is gone: {error}");
                        self.troubles.is(self.world, Whose::Watch, text);
                        self.rest(LOOK).await;
                        continue;
                    }
                }
            }
            self.troubles.is_over(&Whose::Watch);
            // A process that ends is heard at once; whether one that lives answers is looked at.
            tokio::select! {
                biased;
                () = self.world.stop.requested() => {}
                () = self.world.proxy.gone() => misses = MISSES,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn died(&self, unserved: &[Recorded]) -> Result<(), VersionError> {
        fall_back(self.world, unserved, self.actor).await?;
        let pauses = unserved.iter().map(|record| self.pauses.failed(&record.forward.service));
        let next = crate::model::duration::show(pauses.min().unwrap_or_default());
        warn(
            self.world,
            format!(
                "the proxy died or stopped answering: the rules lead straight at main, the next try is in {next}"
            ),
        );
        Ok(())
    }

    /// Whatever is not as it is recorded becomes so: what is wanted is let in, what is not wanted goes. Each service by itself: one
    /// that is slow costs the others nothing.
    async fn mend(&self) {
        let (mut settling, mut busy) = (FuturesUnordered::new(), BTreeSet::new());
        while !self.world.stop.is_requested() {
            let places = places(self.world).unwrap_or_default();
            let rest = if places.is_empty() { STRAY } else { REST };
            for record in places {
                if busy.insert(record.forward.service.clone()) {
                    settling.push(self.settled(record));
                }
            }
            let telling = async {
                self.converged().await;
                tokio::select! {
                    () = self.rest(rest) => {}
                    () = self.placed.notified(), if rest == STRAY => {}
                }
            };
            tokio::pin!(telling);
            // Whoever settles may hold a lock that is waited for here: both go on all the time.
            loop {
                tokio::select! {
                    biased;
                    () = &mut telling => break,
                    Some(service) = settling.next() => drop(busy.remove(&service)),
                }
            }
        }
        // What was begun is brought to an end, which hears the stop by itself.
        while settling.next().await.is_some() {}
    }

    async fn converged(&self) {
        match converge(self.world).await {
            Ok(()) => self.troubles.is_over(&Whose::Telling),
            Err(VersionError::Interrupted) => {}
            Err(error) => {
                let text = format!("the proxy does not do what is recorded: {error}");
                self.troubles.is(self.world, Whose::Telling, text);
            }
        }
    }

    async fn settled(&self, record: Recorded) -> ServiceName {
        let service = record.forward.service.clone();
        let whose = Whose::Service(service.clone());
        match self.settle(&record).await {
            Ok(true) => self.troubles.is_over(&whose),
            Ok(false) | Err(VersionError::Interrupted) => {}
            Err(error) => self.troubles.is(self.world, whose, format!("the proxy cannot be had: {error}")),
        }
        service
    }

    /// `false`: not yet.
    async fn settle(&self, record: &Recorded) -> Result<bool, VersionError> {
        let service = &record.forward.service;
        match (traffic_split::wanted(record), record.layer7.inserted()) {
            (Wanted::Inserted(_), None) => self.let_in(service).await,
            (Wanted::Straight(_), Some(_)) => settle(self.world, service, self.actor).await.map(|()| true),
            (Wanted::Straight(_), None) if traffic_split::is_over(record) => {
                self.drained(service).await.map(|()| true)
            }
            // A private service keeps its place for when it is public again.
            (Wanted::Inserted(_) | Wanted::Straight(_) | Wanted::Placed | Wanted::Nothing, _) => Ok(true),
        }
    }

    /// Once its pause is over.
    async fn let_in(&self, service: &ServiceName) -> Result<bool, VersionError> {
        if !self.pauses.is_over(service) {
            return Ok(false);
        }
        let settled = settle(self.world, service, self.actor).await;
        if settled.is_err() {
            self.pauses.failed(service);
        }
        settled.map(|()| true)
    }

    /// A port that nobody is connected to any more is given back; with the last of them the process ends.
    async fn drained(&self, service: &ServiceName) -> Result<(), VersionError> {
        if self.connections(service).await? > 0 {
            return Ok(());
        }
        rules::change_where(self.world, "proxy: gone", |records| {
            let Some(record) = versions::of(records, service) else { return Ok(None) };
            if !traffic_split::is_over(record) || record.layer7.inserted().is_some() {
                return Ok(None);
            }
            let intent =
                traffic_split::intent(record, Layer7::default(), self.actor, "proxy: gone", String::new());
            Ok::<_, ChangeError>(Some(intent))
        })
        .await?;
        tell(self.world).await
    }

    /// How many come by it still. A process that is gone has none; one that does not answer may have any.
    async fn connections(&self, service: &ServiceName) -> Result<u64, VersionError> {
        match self.world.proxy.stats().await {
            Ok(stats) => {
                let found = stats.services.into_iter().find(|one| one.service == *service);
                Ok(found.map_or(0, |one| one.connections))
            }
            Err(_) if tokio::time::timeout(BOUND, self.world.proxy.gone()).await.is_ok() => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    async fn rest(&self, pause: Duration) {
        tokio::select! {
            biased;
            () = self.world.stop.requested() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Those that it does not serve: all where it does not answer; one that began anew answers and listens for nobody.
async fn unserved(world: &HostWorld, inserted: Vec<Recorded>) -> Vec<Recorded> {
    if inserted.is_empty() {
        return inserted;
    }
    let Ok(health) = world.proxy.health(BOUND).await else { return inserted };
    let serves =
        |record: &Recorded| record.layer7.inserted().is_some_and(|port| health.ports.contains(&port));
    inserted.into_iter().filter(|record| !serves(record)).collect()
}

/// Of every one, also where one of them fails.
async fn fall_back(world: &HostWorld, inserted: &[Recorded], actor: &Actor) -> Result<(), VersionError> {
    let mut done = Ok(());
    for record in inserted {
        if let Some(port) = record.layer7.inserted() {
            done = done.and(lead(world, &record.forward.service, port, false, actor).await);
        }
    }
    done
}

fn places(world: &HostWorld) -> Result<Vec<Recorded>, VersionError> {
    Ok(world.store.places()?)
}

/// Those whose rules lead to the proxy.
fn inserted(places: Vec<Recorded>) -> Vec<Recorded> {
    places.into_iter().filter(|record| record.layer7.inserted().is_some()).collect()
}

fn warn(world: &HostWorld, text: String) {
    world.reporter.report(&Event::Warning { text });
}
