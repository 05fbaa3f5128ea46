//! What an agent does for the proxy of its host: when it dies or stops answering, the rules lead straight at main again within
//! a second, with nobody asked; when it can be had again, it stands before main again; and it does what is recorded.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::pauses::Pauses;
use super::tell::{converge, tell};
use super::{VersionError, lead, settle};
use crate::model::forward::Recorded;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::Layer7;
use crate::ops::rules::{self, ChangeError};
use crate::plan::splits::{self, Wanted};
use crate::plan::versions;
use crate::world::World;
use crate::world::reporter::Event;
use crate::world::store::Exclusive;

/// A proxy that misses `MISSES` of these looks in a row has stopped answering: with `BOUND` each, within 0.9 s.
const LOOK: Duration = Duration::from_millis(150);
const BOUND: Duration = Duration::from_millis(300);
const MISSES: u32 = 2;
/// Between two looks at the record while there is nothing to watch.
const REST: Duration = Duration::from_millis(500);

/// Where rules lead to a proxy that is not there, as after a boot: they lead straight at main.
pub async fn straighten(world: &World, actor: &Actor) -> Result<(), VersionError> {
    let inserted = inserted(places(world)?);
    if !inserted.is_empty() && !serves(world, &inserted).await {
        fall_back(world, &inserted, actor).await?;
    }
    Ok(())
}

/// Until a stop is requested. While another agent does it, this one waits.
pub async fn keep(world: &World, actor: &Actor) {
    let keeper =
        Keeper { world, actor, pauses: Pauses::default(), placed: Notify::new(), trouble: Mutex::default() };
    let Some(held) = keeper.alone().await else { return };
    // Side by side: whoever is let in slowly keeps nobody else from being led past a proxy that dies.
    tokio::join!(keeper.watch(), keeper.mend());
    drop(held);
}

struct Keeper<'a> {
    world: &'a World,
    actor: &'a Actor,
    pauses: Pauses,
    /// The record has places again: at rest one of the two looks.
    placed: Notify,
    /// Told once for as long as it lasts.
    trouble: Mutex<Option<String>>,
}

impl Keeper<'_> {
    /// `None`: a stop was requested first.
    async fn alone(&self) -> Option<Box<dyn Exclusive>> {
        while !self.world.stop.is_requested() {
            match self.world.proxy.keep() {
                Ok(Some(held)) => return Some(held),
                Ok(None) => self.tell_once("another agent watches the proxy".to_owned()),
                Err(error) => self.tell_once(format!("the proxy cannot be watched: {error}")),
            }
            self.rest(REST).await;
        }
        None
    }

    /// Rules lead to the proxy only while it serves.
    async fn watch(&self) {
        let mut misses = 0;
        while !self.world.stop.is_requested() {
            let places = self.or_told(places(self.world)).unwrap_or_default();
            if !places.is_empty() {
                self.placed.notify_one();
            }
            let inserted = inserted(places);
            if inserted.is_empty() {
                misses = 0;
                self.rest(REST).await;
                continue;
            }
            misses = if serves(self.world, &inserted).await { 0 } else { misses + 1 };
            if misses >= MISSES && self.or_told(self.died(&inserted).await).is_some() {
                misses = 0;
            }
            // A process that ends is heard at once; whether one that lives answers is looked at.
            tokio::select! {
                biased;
                () = self.world.stop.requested() => {}
                () = self.world.proxy.gone() => misses = MISSES,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn died(&self, inserted: &[Recorded]) -> Result<(), VersionError> {
        fall_back(self.world, inserted, self.actor).await?;
        let pauses = inserted.iter().map(|record| self.pauses.failed(&record.forward.service));
        let next = crate::model::duration::show(pauses.min().unwrap_or_default());
        warn(
            self.world,
            format!(
                "the proxy died or stopped answering: the rules lead straight at main, the next try is in {next}"
            ),
        );
        Ok(())
    }

    /// Whatever is not as it is recorded becomes so: what is wanted is let in, what is not wanted goes.
    async fn mend(&self) {
        while !self.world.stop.is_requested() {
            let mended = self.or_told(self.mended().await);
            if mended.is_some() {
                *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            if mended == Some(0) {
                tokio::select! {
                    biased;
                    () = self.world.stop.requested() => {}
                    () = self.placed.notified() => {}
                }
            } else {
                self.rest(REST).await;
            }
        }
    }

    /// How many places the proxy has. Without any it ends, whoever left it there.
    async fn mended(&self) -> Result<usize, VersionError> {
        let places = places(self.world)?;
        let mut done = Ok(());
        for record in &places {
            done = done.and(self.settled(record).await);
        }
        done.and(converge(self.world).await)?;
        Ok(places.len())
    }

    async fn settled(&self, record: &Recorded) -> Result<(), VersionError> {
        let service = &record.forward.service;
        match (splits::wanted(record), record.layer7.inserted()) {
            (Wanted::Inserted(_), None) => self.let_in(service).await,
            (Wanted::Straight(_), Some(_)) => settle(self.world, service, self.actor).await,
            (Wanted::Straight(_), None) => self.drained(service).await,
            (Wanted::Inserted(_) | Wanted::Placed | Wanted::Nothing, _) => Ok(()),
        }
    }

    /// Once its pause is over.
    async fn let_in(&self, service: &ServiceName) -> Result<(), VersionError> {
        if !self.pauses.is_over(service) {
            return Ok(());
        }
        let settled = settle(self.world, service, self.actor).await;
        if settled.is_err() {
            self.pauses.failed(service);
        }
        settled
    }

    /// A port that nobody is connected to any more is given back; with the last of them the process ends.
    async fn drained(&self, service: &ServiceName) -> Result<(), VersionError> {
        if self.connections(service).await? > 0 {
            return Ok(());
        }
        rules::change_where(self.world, "proxy: gone", |records| {
            let Some(record) = versions::of(records, service) else { return Ok(None) };
            if !matches!(splits::wanted(record), Wanted::Straight(_)) || record.layer7.inserted().is_some() {
                return Ok(None);
            }
            let intent = splits::intent(record, Layer7::default(), self.actor, "proxy: gone", String::new());
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

    fn or_told<T>(&self, found: Result<T, VersionError>) -> Option<T> {
        found.map_err(|error| self.tell_once(format!("the proxy cannot be had: {error}"))).ok()
    }

    fn tell_once(&self, text: String) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref() != Some(&text) {
            warn(self.world, text.clone());
            *trouble = Some(text);
        }
    }
}

/// Whether it answers, and listens for all of them. One that began anew answers and listens for nobody.
async fn serves(world: &World, inserted: &[Recorded]) -> bool {
    let health = world.proxy.health(BOUND).await;
    let ports = |ports: &BTreeSet<Port>| {
        inserted.iter().filter_map(|record| record.layer7.inserted()).all(|port| ports.contains(&port))
    };
    health.is_ok_and(|health| ports(&health.ports))
}

/// Of every one, also where one of them fails.
async fn fall_back(world: &World, inserted: &[Recorded], actor: &Actor) -> Result<(), VersionError> {
    let mut done = Ok(());
    for record in inserted {
        if let Some(port) = record.layer7.inserted() {
            done = done.and(lead(world, &record.forward.service, port, false, actor).await);
        }
    }
    done
}

fn places(world: &World) -> Result<Vec<Recorded>, VersionError> {
    Ok(world.store.places()?)
}

/// Those whose rules lead to the proxy.
fn inserted(places: Vec<Recorded>) -> Vec<Recorded> {
    places.into_iter().filter(|record| record.layer7.inserted().is_some()).collect()
}

fn warn(world: &World, text: String) {
    world.reporter.report(&Event::Warning { text });
}
