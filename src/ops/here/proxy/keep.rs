//! What an agent does for the proxy of its host: when it dies or stops answering, the rules lead straight at main again within
//! a second, with nobody asked; when it can be had again, it stands before main again.

use std::time::Duration;

use tokio::time::Instant;

use super::{VersionError, lead, settle, tell};
use crate::model::forward::Recorded;
use crate::model::history::Actor;
use crate::model::proxy::Layer7;
use crate::ops::rules::{self, ChangeError};
use crate::plan::splits::{self, Wanted};
use crate::plan::versions;
use crate::world::World;
use crate::world::reporter::Event;

/// A proxy that misses `MISSES` of these looks in a row has stopped answering: with `BOUND` each, within 0.9 s.
const LOOK: Duration = Duration::from_millis(150);
const BOUND: Duration = Duration::from_millis(300);
const MISSES: u32 = 2;
/// Between two looks at the record while no proxy is needed.
const REST: Duration = Duration::from_secs(1);
/// Before a proxy that died is let in again; doubled with every death, at most `LONGEST`, and forgotten after `FORGET`.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);
const FORGET: Duration = Duration::from_mins(10);

/// Where rules lead to a proxy that is not there, as after a boot: they lead straight at main.
pub async fn straighten(world: &World, actor: &Actor) -> Result<(), VersionError> {
    let inserted = places(world)?.into_iter().filter(|record| record.layer7.inserted().is_some());
    let inserted: Vec<Recorded> = inserted.collect();
    if !inserted.is_empty() && world.proxy.health(BOUND).await.is_err() {
        fall_back(world, &inserted, actor).await?;
    }
    Ok(())
}

/// Until a stop is requested. Where another agent does it, nothing is done.
pub async fn keep(world: &World, actor: &Actor) {
    let held = match world.proxy.keep() {
        Ok(Some(held)) => held,
        Ok(None) => return warn(world, "another agent watches the proxy".to_owned()),
        Err(error) => return warn(world, format!("the proxy cannot be watched: {error}")),
    };
    let mut keeper = Keeper { world, actor, deaths: 0, last_death: None, misses: 0, trouble: None };
    while !world.stop.is_requested() {
        let pause = match keeper.turn().await {
            Ok(pause) => pause,
            Err(error) => keeper.failed(&error),
        };
        tokio::select! {
            biased;
            () = world.stop.requested() => break,
            () = keeper.interrupted(pause) => {}
        }
    }
    drop(held);
}

struct Keeper<'a> {
    world: &'a World,
    actor: &'a Actor,
    deaths: u32,
    last_death: Option<Instant>,
    misses: u32,
    trouble: Option<String>,
}

impl Keeper<'_> {
    /// One look and what follows from it; gives back when the next one is due.
    async fn turn(&mut self) -> Result<Duration, VersionError> {
        let places = places(self.world)?;
        if places.is_empty() {
            return Ok(REST);
        }
        let (inserted, others): (Vec<Recorded>, Vec<Recorded>) =
            places.into_iter().partition(|record| record.layer7.inserted().is_some());
        if !inserted.is_empty() && !self.is_alive().await {
            self.died(&inserted).await?;
            return Ok(LOOK);
        }
        for record in others {
            match splits::wanted(&record) {
                Wanted::Inserted(_) => self.let_in(&record).await?,
                Wanted::Straight(_) => self.drained(&record).await?,
                Wanted::Placed | Wanted::Nothing => {}
            }
        }
        self.trouble = None;
        Ok(LOOK)
    }

    async fn is_alive(&mut self) -> bool {
        let health = self.world.proxy.health(BOUND).await;
        self.misses = if health.is_ok() { 0 } else { self.misses + 1 };
        self.misses < MISSES
    }

    /// A process that ends is heard at once; whether one that lives answers is looked at.
    async fn interrupted(&mut self, pause: Duration) {
        let watched = places(self.world)
            .is_ok_and(|places| places.iter().any(|record| record.layer7.inserted().is_some()));
        let gone = async {
            if watched {
                self.world.proxy.gone().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = gone => self.misses = MISSES,
            () = tokio::time::sleep(pause) => {}
        }
    }

    async fn died(&mut self, inserted: &[Recorded]) -> Result<(), VersionError> {
        fall_back(self.world, inserted, self.actor).await?;
        let recent = self.last_death.is_some_and(|death| death.elapsed() < FORGET);
        self.deaths = if recent { self.deaths + 1 } else { 1 };
        self.last_death = Some(Instant::now());
        self.misses = 0;
        let pause = crate::model::duration::show(self.pause());
        warn(
            self.world,
            format!(
                "the proxy died or stopped answering: the rules lead straight at main, the next try is in {pause}"
            ),
        );
        Ok(())
    }

    fn pause(&self) -> Duration {
        (AGAIN * 2u32.saturating_pow(self.deaths.saturating_sub(1).min(8))).min(LONGEST)
    }

    /// Once its pause is over.
    async fn let_in(&mut self, record: &Recorded) -> Result<(), VersionError> {
        if self.last_death.is_some_and(|death| death.elapsed() < self.pause()) {
            return Ok(());
        }
        let settled = settle(self.world, &record.forward.service, self.actor).await;
        if settled.is_err() {
            self.deaths += 1;
            self.last_death = Some(Instant::now());
        }
        settled
    }

    /// A port that nobody is connected to any more is given back; with the last of them the process ends.
    async fn drained(&mut self, record: &Recorded) -> Result<(), VersionError> {
        let service = &record.forward.service;
        let left = self.world.proxy.stats().await.ok().and_then(|stats| {
            stats.services.into_iter().find(|one| one.service == *service).map(|one| one.connections)
        });
        if left.unwrap_or(0) > 0 {
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
        if places(self.world)?.is_empty() {
            self.world.proxy.stop().await?;
        } else {
            // Whoever still uses it is told with the next change anyway.
            let _ = tell(self.world).await;
        }
        Ok(())
    }

    fn failed(&mut self, error: &VersionError) -> Duration {
        let text = format!("the proxy cannot be had: {error}");
        if self.trouble.as_ref() != Some(&text) {
            warn(self.world, text.clone());
            self.trouble = Some(text);
        }
        LOOK
    }
}

async fn fall_back(world: &World, inserted: &[Recorded], actor: &Actor) -> Result<(), VersionError> {
    for record in inserted {
        if let Some(port) = record.layer7.inserted() {
            lead(world, &record.forward.service, port, false, actor).await?;
        }
    }
    Ok(())
}

/// The services the proxy has, or had, a place in.
fn places(world: &World) -> Result<Vec<Recorded>, VersionError> {
    Ok(world.store.places()?)
}

fn warn(world: &World, text: String) {
    world.reporter.report(&Event::Warning { text });
}
