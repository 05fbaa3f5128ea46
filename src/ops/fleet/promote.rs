//! `rollout`: a version gets a growing share of the requests on every host, for as long as it is no worse than main; then it
//! becomes main. Every step is recorded before it is done. Whatever comes but a kill, no canary stays that nobody judges.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::lock::{Holder, Life, Purpose};
use crate::model::name::HostName;
use crate::model::promote::{
    Ask, Counts, RolloutId, RolloutResult, RolloutRow, RolloutSpec, RolloutWhat, Target,
};
use crate::plan::promote::{Standing, standing};
use crate::world::FleetWorld;
use crate::world::journal::JournalError;
use crate::world::reporter::Event;
use crate::world::stop::Stop;

use super::lock::{self, LockError};

mod evaluate;
mod preflight;
mod promote;
mod remove_canary;
mod require_match;
mod set_share;

pub use preflight::ready;

/// How long whoever aborts a running roll-out waits until it has ended.
const PATIENCE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(200);

/// What came of a roll-out, so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolloutReport {
    pub standing: Standing,
    #[serde(rename = "took_ms", serialize_with = "duration::as_ms")]
    pub took: Duration,
}

impl RolloutReport {
    fn of(standing: Standing) -> Self {
        let took = standing.changed_at.duration_since(standing.began_at);
        Self { took: Duration::try_from(took).unwrap_or_default(), standing }
    }
}

/// Why there was no roll-out at all, or why nobody knows how it is.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    #[error("cannot roll out: {0}")]
    Lock(#[from] LockError),
    #[error("the roll-out {} of {} {} is not finished", .standing.rollout, .standing.spec.service, .standing.spec.version)]
    Unfinished { standing: Box<Standing> },
    #[error("there is no roll-out to {verb}")]
    None { verb: &'static str },
    #[error("the roll-out {rollout} is finished: there is nothing to {verb}")]
    Finished { rollout: RolloutId, verb: &'static str },
    #[error("refused to roll out: {}", .hosts.iter().map(|(host, why)| format!("{host}: {why}")).collect::<Vec<_>>().join("; "))]
    NotReady { hosts: Vec<(HostName, String)> },
    #[error("the roll-out {rollout} waits for nobody's word")]
    NotWaiting { rollout: RolloutId },
    #[error("the roll-out {rollout} was cut off: nobody runs it")]
    NotRunning { rollout: RolloutId },
    #[error("the roll-out {rollout} was told to end, and has not after {}", duration::show(PATIENCE))]
    NotEnded { rollout: RolloutId },
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("`{0}` of that roll-out is not in the configuration any more")]
    UnknownHost(HostName),
}

/// Why the course was left.
enum Halt {
    /// For good: main answers everything again.
    Back {
        result: RolloutResult,
        why: String,
    },
    /// Main answers everything again; a resume goes on.
    Stop {
        why: String,
    },
    Journal(JournalError),
}

impl Halt {
    fn back(why: String) -> Self {
        Self::Back { result: RolloutResult::Returned, why }
    }
}

impl From<JournalError> for Halt {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// One roll-out on its way.
struct Rollout<'a> {
    world: &'a FleetWorld,
    /// The same world without its stop: for what is done whatever comes.
    to_the_end: FleetWorld,
    fleet: &'a Fleet,
    id: RolloutId,
    spec: RolloutSpec,
    target: Target,
    hosts: Vec<Host>,
    holder: &'a Holder,
    actor: Actor,
    began: Instant,
    heard: Mutex<Heard>,
}

/// What other processes have asked of it.
#[derive(Default)]
struct Heard {
    /// The number of the last row that was read.
    after: u64,
    asks: Vec<Ask>,
}

/// A new roll-out.
pub async fn run(
    world: &FleetWorld,
    fleet: &Fleet,
    spec: &RolloutSpec,
    actor: &Actor,
) -> Result<RolloutReport, RolloutError> {
    if let Some(standing) = unfinished(world)? {
        // One that is on its way is no business of `--resume`.
        return Err(match world.lock.view()? {
            Some(held) if held.life == Life::Alive => LockError::Held { held: Box::new(held) }.into(),
            _ => RolloutError::Unfinished { standing: Box::new(standing) },
        });
    }
    let hosts = hosts_of(fleet, spec)?;
    locked(world, spec, actor, async |holder| {
        // Between the look and the lock somebody may have begun one.
        if let Some(standing) = unfinished(world)? {
            return Err(RolloutError::Unfinished { standing: Box::new(standing) });
        }
        let target = ready(world, &hosts, spec).await?;
        let id = RolloutId::new(world.clock.now(), u16::try_from(actor.pid & 0xffff).unwrap_or(0));
        let rollout = Rollout::new(world, fleet, (id, spec.clone(), target.clone()), hosts, holder, actor);
        rollout.record(&RolloutWhat::Began { spec: Box::new(spec.clone()), target, actor: actor.clone() })?;
        rollout.say(format!("roll-out {} of {} {} began", rollout.id, spec.service, spec.version));
        rollout.go_on().await
    })
    .await
}

/// Goes on with the last one at the step where it stands, which is judged anew. One that is on its way back goes on with that.
pub async fn resume(world: &FleetWorld, fleet: &Fleet, actor: &Actor) -> Result<RolloutReport, RolloutError> {
    take_up(world, fleet, actor, "resume", async |rollout| {
        rollout.record(&RolloutWhat::Resumed { actor: actor.clone() })?;
        rollout.say(format!("roll-out {} goes on", rollout.id));
        rollout.go_on().await
    })
    .await
}

/// Ends the last one: main answers everything. One that another process runs is told to end, and waited for.
pub async fn abort(world: &FleetWorld, fleet: &Fleet, actor: &Actor) -> Result<RolloutReport, RolloutError> {
    let stands = open(world, "abort")?;
    let deadline = Instant::now() + PATIENCE;
    let mut asked = false;
    loop {
        let ended = take_up(world, fleet, actor, "abort", async |rollout| {
            rollout.record(&RolloutWhat::Resumed { actor: actor.clone() })?;
            let why = format!("aborted by {}", actor.user);
            rollout.leave(Halt::Back { result: RolloutResult::Aborted, why }).await
        })
        .await;
        match ended {
            Err(RolloutError::Lock(LockError::Held { held })) if is_rollout(&held.holder) => {
                match standing(&world.rollouts.rows(&stands.rollout, 0)?) {
                    // Another one may hold it by now.
                    Some(ended) if ended.is_finished() && asked => return Ok(RolloutReport::of(ended)),
                    // Whoever takes it up forgets what was asked before.
                    Some(now) if !now.is_aborted() => {
                        world.rollouts.ask(&stands.rollout, Ask::Abort, actor, world.clock.now())?;
                        asked = true;
                    }
                    _ => {}
                }
            }
            Err(RolloutError::Finished { .. }) if asked => {
                let rows = world.rollouts.rows(&stands.rollout, 0)?;
                return Ok(RolloutReport::of(standing(&rows).unwrap_or(stands)));
            }
            ended => return ended,
        }
        if Instant::now() >= deadline {
            return Err(RolloutError::NotEnded { rollout: stands.rollout });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Lets the last one go on, which waits for that.
pub fn promote(world: &FleetWorld, actor: &Actor) -> Result<Standing, RolloutError> {
    let stands = open(world, "promote")?;
    let Some(step) = stands.waiting.filter(|_| stands.returning.is_none()) else {
        return Err(RolloutError::NotWaiting { rollout: stands.rollout });
    };
    let held = world.lock.view()?;
    if !held.is_some_and(|held| held.life != Life::Gone && is_rollout(&held.holder)) {
        return Err(RolloutError::NotRunning { rollout: stands.rollout });
    }
    world.rollouts.ask(&stands.rollout, Ask::Promote { step }, actor, world.clock.now())?;
    Ok(stands)
}

/// Where the last one stands; `None` when there never was one.
pub fn last(world: &FleetWorld) -> Result<Option<Standing>, JournalError> {
    match world.rollouts.last()? {
        Some(rollout) => Ok(standing(&world.rollouts.rows(&rollout, 0)?)),
        None => Ok(None),
    }
}

fn unfinished(world: &FleetWorld) -> Result<Option<Standing>, JournalError> {
    Ok(last(world)?.filter(|standing| !standing.is_finished()))
}

fn open(world: &FleetWorld, verb: &'static str) -> Result<Standing, RolloutError> {
    let stands = last(world)?.ok_or(RolloutError::None { verb })?;
    if stands.is_finished() {
        return Err(RolloutError::Finished { rollout: stands.rollout, verb });
    }
    Ok(stands)
}

fn hosts_of(fleet: &Fleet, spec: &RolloutSpec) -> Result<Vec<Host>, RolloutError> {
    let host =
        |name: &HostName| fleet.recorded_host(name).ok_or_else(|| RolloutError::UnknownHost(name.clone()));
    spec.hosts.iter().map(host).collect()
}

fn is_rollout(holder: &Holder) -> bool {
    matches!(holder.purpose, Purpose::Rollout { .. })
}

/// Under the fleet's lock, with signs of life.
async fn locked(
    world: &FleetWorld,
    spec: &RolloutSpec,
    actor: &Actor,
    work: impl AsyncFnOnce(&Holder) -> Result<RolloutReport, RolloutError>,
) -> Result<RolloutReport, RolloutError> {
    let purpose = Purpose::Rollout { service: spec.service.clone(), version: spec.version.clone() };
    let holder = lock::acquire(world, &actor.user, purpose).await?;
    let ended = tokio::select! {
        ended = work(&holder) => ended,
        never = lock::beat(world, &holder) => match never {},
    };
    lock::give_back(world, &holder);
    ended
}

/// The last one, under the lock.
async fn take_up(
    world: &FleetWorld,
    fleet: &Fleet,
    actor: &Actor,
    verb: &'static str,
    work: impl AsyncFnOnce(&Rollout<'_>) -> Result<RolloutReport, RolloutError>,
) -> Result<RolloutReport, RolloutError> {
    let spec = open(world, verb)?.spec;
    locked(world, &spec, actor, async |holder| {
        // What another process wrote until it lost the lock counts.
        let Standing { rollout, spec, target, .. } = open(world, verb)?;
        let hosts = hosts_of(fleet, &spec)?;
        work(&Rollout::new(world, fleet, (rollout, spec, target), hosts, holder, actor)).await
    })
    .await
}

impl<'a> Rollout<'a> {
    fn new(
        world: &'a FleetWorld,
        fleet: &'a Fleet,
        (id, spec, target): (RolloutId, RolloutSpec, Target),
        hosts: Vec<Host>,
        holder: &'a Holder,
        actor: &Actor,
    ) -> Self {
        let to_the_end = FleetWorld { stop: Stop::never(), ..world.clone() };
        let (actor, began, heard) = (actor.clone(), Instant::now(), Mutex::default());
        Self { world, to_the_end, fleet, id, spec, target, hosts, holder, actor, began, heard }
    }

    /// To the end, from wherever it stands.
    async fn go_on(&self) -> Result<RolloutReport, RolloutError> {
        match self.course().await {
            Ok(()) => {
                let why = "no worse than main at every share".to_owned();
                self.end(RolloutResult::Promoted, &why)
            }
            Err(halt) => self.leave(halt).await,
        }
    }

    async fn course(&self) -> Result<(), Halt> {
        let stands = self.stands()?;
        if let Some((result, why)) = stands.returning {
            return Err(Halt::Back { result, why });
        }
        if !stands.promoting {
            if self.spec.require_match.is_some() && !stands.has_shared() {
                if !stands.compared.is_some_and(|(passed, _)| passed) {
                    self.shadow().await?;
                }
                self.no_copies().await?;
            }
            let mut base = stands.base;
            for step in stands.step..self.spec.steps.shares().len() {
                base = self.step(step, base).await?;
            }
            self.record(&RolloutWhat::Promoting)?;
        }
        self.promote().await
    }

    /// One share, until it has passed. Gives back what main did meanwhile.
    async fn step(&self, step: usize, base: Option<Counts>) -> Result<Option<Counts>, Halt> {
        self.record(&RolloutWhat::StepBegan { step })?;
        self.share(step).await?;
        self.record(&RolloutWhat::StepSet { step })?;
        let main = self.judge(step, base).await?;
        self.record(&RolloutWhat::StepPassed { step, main: main.clone() })?;
        Ok(main)
    }

    fn end(&self, result: RolloutResult, why: &str) -> Result<RolloutReport, RolloutError> {
        self.record(&RolloutWhat::Ended { result, why: why.to_owned() })?;
        Ok(RolloutReport::of(self.stands()?))
    }

    fn stands(&self) -> Result<Standing, JournalError> {
        let rows = self.world.rollouts.rows(&self.id, 0)?;
        standing(&rows).ok_or(JournalError::LockLost { holder: None })
    }

    /// Before it is done.
    fn record(&self, what: &RolloutWhat) -> Result<(), JournalError> {
        self.world.rollouts.append(self.holder, &self.id, what, self.world.clock.now())
    }

    /// What other processes have asked by now.
    fn hear(&self) -> Result<std::sync::MutexGuard<'_, Heard>, JournalError> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for RolloutRow { number, what, .. } in self.world.rollouts.rows(&self.id, heard.after)? {
            heard.after = number;
            match what {
                RolloutWhat::Asked { ask, .. } => heard.asks.push(ask),
                // What was asked of it before it stopped counts no more.
                RolloutWhat::Resumed { .. } => heard.asks.clear(),
                _ => {}
            }
        }
        Ok(heard)
    }

    /// A pause, unless somebody wants it to end.
    async fn pause(&self, pause: Duration) -> Result<(), Halt> {
        tokio::select! {
            () = self.world.stop.requested() => return Err(Halt::Stop { why: "interrupted".to_owned() }),
            () = tokio::time::sleep(pause) => {}
        }
        self.not_aborted()
    }

    fn not_aborted(&self) -> Result<(), Halt> {
        if self.hear()?.asks.contains(&Ask::Abort) {
            return Err(Halt::Back { result: RolloutResult::Aborted, why: "aborted".to_owned() });
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn say(&self, text: String) {
        self.world.reporter.report(&Event::Version { host: None, text });
    }
}

#[cfg(test)]
mod tests;
