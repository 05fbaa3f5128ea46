//! `promote`: a version gets a growing share of the requests on every host, for as long as it is no worse than main; then it
//! becomes main. Every step is recorded before it is done. Unless its process is killed, a promotion leaves no canary
//! without evaluation.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::lock::{Holder, Liveness, LockPurpose};
use crate::model::name::HostName;
use crate::model::promote::{
    OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionId, PromotionResult, PromotionSpec,
    PromotionTarget, RequestCounts,
};
use crate::plan::promote::{PromotionProgress, standing};
use crate::world::FleetWorld;
use crate::world::journal::JournalError;
use crate::world::reporter::Event;
use crate::world::stop::StopToken;

use super::lock::{self, LockError};

mod error;
mod evaluate;
mod make_main;
mod preflight;
mod remove_canary;
mod require_match;
mod set_share;

pub use error::PromotionError;
pub use preflight::check_ready;

/// How long an abort waits until a running promotion has ended.
const ABORT_TIMEOUT: Duration = Duration::from_mins(2);
const ABORT_INTERVAL: Duration = Duration::from_millis(200);

/// The progress of a promotion, so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromotionReport {
    pub standing: PromotionProgress,
    #[serde(rename = "took_ms", serialize_with = "duration::serialize_ms")]
    pub took: Duration,
}

impl PromotionReport {
    fn from_progress(standing: PromotionProgress) -> Self {
        let took = standing.changed_at.duration_since(standing.began_at);
        Self { took: Duration::try_from(took).unwrap_or_default(), standing }
    }
}

/// Why a promotion stopped before its end.
enum StopReason {
    /// Final: main answers everything again.
    RollBack {
        result: PromotionResult,
        why: String,
    },
    /// Main answers everything again; a resume goes on.
    Interrupt {
        why: String,
    },
    Journal(JournalError),
}

impl StopReason {
    fn roll_back(why: String) -> Self {
        Self::RollBack { result: PromotionResult::RolledBack, why }
    }
}

impl From<JournalError> for StopReason {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// A running promotion.
struct PromotionRun<'a> {
    world: &'a FleetWorld,
    /// The world without its stop signal: for steps that must complete after a stop request.
    unstoppable_world: FleetWorld,
    fleet: &'a Fleet,
    id: PromotionId,
    spec: PromotionSpec,
    target: PromotionTarget,
    hosts: Vec<Host>,
    holder: &'a Holder,
    actor: Actor,
    started_at: Instant,
    requests: Mutex<OperatorRequests>,
}

/// The requests of other processes.
#[derive(Default)]
struct OperatorRequests {
    /// The number of the last row that was read.
    last_number: u64,
    requests: Vec<OperatorRequest>,
}

/// A new promotion.
pub async fn run(
    world: &FleetWorld,
    fleet: &Fleet,
    spec: &PromotionSpec,
    actor: &Actor,
) -> Result<PromotionReport, PromotionError> {
    if let Some(standing) = read_unfinished(world)? {
        // One that is on its way is no business of `--resume`.
        return Err(match world.lock.view()? {
            Some(held) if held.liveness == Liveness::Live => {
                LockError::Locked { lock: Box::new(held) }.into()
            }
            _ => PromotionError::Unfinished { standing: Box::new(standing) },
        });
    }
    let hosts = resolve_hosts(fleet, spec)?;
    with_lock(world, spec, actor, async |holder| {
        // Another process may have begun one between the first read and the lock.
        if let Some(standing) = read_unfinished(world)? {
            return Err(PromotionError::Unfinished { standing: Box::new(standing) });
        }
        let target = check_ready(world, &hosts, spec).await?;
        let id = PromotionId::new(world.clock.now(), u16::try_from(actor.pid & 0xffff).unwrap_or(0));
        let promotion =
            PromotionRun::new(world, fleet, (id, spec.clone(), target.clone()), hosts, holder, actor);
        promotion.append_entry(&PromotionEntryKind::Began {
            spec: Box::new(spec.clone()),
            target,
            actor: actor.clone(),
        })?;
        promotion.say(format!("promotion {} of {} {} began", promotion.id, spec.service, spec.version));
        promotion.run_to_end().await
    })
    .await
}

/// Resumes the last promotion at its current step, which is judged again. A roll-back in progress is resumed as such.
pub async fn resume(
    world: &FleetWorld,
    fleet: &Fleet,
    actor: &Actor,
) -> Result<PromotionReport, PromotionError> {
    continue_last(world, fleet, actor, "resume", async |promotion| {
        promotion.append_entry(&PromotionEntryKind::Resumed { actor: actor.clone() })?;
        promotion.say(format!("promotion {} goes on", promotion.id));
        promotion.run_to_end().await
    })
    .await
}

/// Aborts the last promotion: main answers everything. If another process runs it, sends it the request and waits for its end.
pub async fn abort(
    world: &FleetWorld,
    fleet: &Fleet,
    actor: &Actor,
) -> Result<PromotionReport, PromotionError> {
    let stands = require_unfinished(world, "abort")?;
    let deadline = Instant::now() + ABORT_TIMEOUT;
    let mut asked = false;
    loop {
        let ended = continue_last(world, fleet, actor, "abort", async |promotion| {
            promotion.append_entry(&PromotionEntryKind::Resumed { actor: actor.clone() })?;
            let why = format!("aborted by {}", actor.user);
            promotion.halt(StopReason::RollBack { result: PromotionResult::Aborted, why }).await
        })
        .await;
        match ended {
            Err(PromotionError::Lock(LockError::Locked { lock })) if is_promotion(&lock.holder) => {
                match standing(&world.promotions.rows(&stands.promotion, 0)?) {
                    // Another one may hold it by now.
                    Some(ended) if ended.is_finished() && asked => {
                        return Ok(PromotionReport::from_progress(ended));
                    }
                    // A process that resumes it discards earlier requests.
                    Some(now) if !now.is_abort_requested() => {
                        world.promotions.ask(
                            &stands.promotion,
                            OperatorRequest::Abort,
                            actor,
                            world.clock.now(),
                        )?;
                        asked = true;
                    }
                    _ => {}
                }
            }
            Err(PromotionError::Finished { .. }) if asked => {
                let rows = world.promotions.rows(&stands.promotion, 0)?;
                return Ok(PromotionReport::from_progress(standing(&rows).unwrap_or(stands)));
            }
            ended => return ended,
        }
        if Instant::now() >= deadline {
            return Err(PromotionError::NotEnded { promotion: stands.promotion, waited: ABORT_TIMEOUT });
        }
        tokio::time::sleep(ABORT_INTERVAL).await;
    }
}

/// Approves the step of the last promotion, which waits for approval.
pub fn approve(world: &FleetWorld, actor: &Actor) -> Result<PromotionProgress, PromotionError> {
    let stands = require_unfinished(world, "promote")?;
    let Some(step) = stands.awaiting_approval.filter(|_| stands.rolling_back.is_none()) else {
        return Err(PromotionError::NotWaitingForApproval { promotion: stands.promotion });
    };
    let held = world.lock.view()?;
    if !held.is_some_and(|held| held.liveness != Liveness::Dead && is_promotion(&held.holder)) {
        return Err(PromotionError::NotRunning { promotion: stands.promotion });
    }
    world.promotions.ask(&stands.promotion, OperatorRequest::Approve { step }, actor, world.clock.now())?;
    Ok(stands)
}

/// Returns the progress of the last promotion; `None` if there never was one.
pub fn read_last(world: &FleetWorld) -> Result<Option<PromotionProgress>, JournalError> {
    match world.promotions.last_promotion()? {
        Some(promotion) => Ok(standing(&world.promotions.rows(&promotion, 0)?)),
        None => Ok(None),
    }
}

fn read_unfinished(world: &FleetWorld) -> Result<Option<PromotionProgress>, JournalError> {
    Ok(read_last(world)?.filter(|standing| !standing.is_finished()))
}

fn require_unfinished(world: &FleetWorld, verb: &'static str) -> Result<PromotionProgress, PromotionError> {
    let stands = read_last(world)?.ok_or(PromotionError::None { verb })?;
    if stands.is_finished() {
        return Err(PromotionError::Finished { promotion: stands.promotion, verb });
    }
    Ok(stands)
}

fn resolve_hosts(fleet: &Fleet, spec: &PromotionSpec) -> Result<Vec<Host>, PromotionError> {
    let host = |name: &HostName| {
        fleet.find_recorded_host(name).ok_or_else(|| PromotionError::UnknownHost(name.clone()))
    };
    spec.hosts.iter().map(host).collect()
}

fn is_promotion(holder: &Holder) -> bool {
    matches!(holder.purpose, LockPurpose::Promotion { .. })
}

/// Runs the work under the fleet lock, with heartbeats.
async fn with_lock(
    world: &FleetWorld,
    spec: &PromotionSpec,
    actor: &Actor,
    work: impl AsyncFnOnce(&Holder) -> Result<PromotionReport, PromotionError>,
) -> Result<PromotionReport, PromotionError> {
    let purpose = LockPurpose::Promotion { service: spec.service.clone(), version: spec.version.clone() };
    let holder = lock::acquire(world, &actor.user, purpose).await?;
    let ended = tokio::select! {
        ended = work(&holder) => ended,
        never = lock::send_heartbeats(world, &holder) => match never {},
    };
    lock::release_own(world, &holder);
    ended
}

/// The last one, under the lock.
async fn continue_last(
    world: &FleetWorld,
    fleet: &Fleet,
    actor: &Actor,
    verb: &'static str,
    work: impl AsyncFnOnce(&PromotionRun<'_>) -> Result<PromotionReport, PromotionError>,
) -> Result<PromotionReport, PromotionError> {
    let spec = require_unfinished(world, verb)?.spec;
    with_lock(world, &spec, actor, async |holder| {
        // What another process wrote until it lost the lock counts.
        let PromotionProgress { promotion, spec, target, .. } = require_unfinished(world, verb)?;
        let hosts = resolve_hosts(fleet, &spec)?;
        work(&PromotionRun::new(world, fleet, (promotion, spec, target), hosts, holder, actor)).await
    })
    .await
}

impl<'a> PromotionRun<'a> {
    fn new(
        world: &'a FleetWorld,
        fleet: &'a Fleet,
        (id, spec, target): (PromotionId, PromotionSpec, PromotionTarget),
        hosts: Vec<Host>,
        holder: &'a Holder,
        actor: &Actor,
    ) -> Self {
        let unstoppable_world = FleetWorld { stop: StopToken::without_handle(), ..world.clone() };
        let (actor, started_at, requests) = (actor.clone(), Instant::now(), Mutex::default());
        Self { world, unstoppable_world, fleet, id, spec, target, hosts, holder, actor, started_at, requests }
    }

    /// Runs the promotion from its current step to the end.
    async fn run_to_end(&self) -> Result<PromotionReport, PromotionError> {
        match self.run_steps().await {
            Ok(()) => {
                let why = "no worse than main at every share".to_owned();
                self.finish(PromotionResult::Promoted, &why)
            }
            Err(halt) => self.halt(halt).await,
        }
    }

    async fn run_steps(&self) -> Result<(), StopReason> {
        let stands = self.read_progress()?;
        if let Some((result, why)) = stands.rolling_back {
            return Err(StopReason::RollBack { result, why });
        }
        if !stands.is_promoting {
            if self.spec.require_match.is_some() && !stands.has_shared() {
                if !stands.comparison.is_some_and(|(passed, _)| passed) {
                    self.wait_for_match().await?;
                }
                self.stop_mirroring().await?;
            }
            let mut base = stands.baseline;
            for step in stands.step..self.spec.steps.shares().len() {
                base = self.run_step(step, base).await?;
            }
            self.append_entry(&PromotionEntryKind::Promoting)?;
        }
        self.promote().await
    }

    /// Runs one step until it has passed. Returns main's counts of that time.
    async fn run_step(
        &self,
        step: usize,
        base: Option<RequestCounts>,
    ) -> Result<Option<RequestCounts>, StopReason> {
        self.append_entry(&PromotionEntryKind::StepBegan { step })?;
        self.set_share(step).await?;
        self.append_entry(&PromotionEntryKind::StepSet { step })?;
        let main = self.evaluate_step(step, base).await?;
        self.append_entry(&PromotionEntryKind::StepPassed { step, main: main.clone() })?;
        Ok(main)
    }

    fn finish(&self, result: PromotionResult, why: &str) -> Result<PromotionReport, PromotionError> {
        self.append_entry(&PromotionEntryKind::Ended { result, why: why.to_owned() })?;
        Ok(PromotionReport::from_progress(self.read_progress()?))
    }

    fn read_progress(&self) -> Result<PromotionProgress, JournalError> {
        let rows = self.world.promotions.rows(&self.id, 0)?;
        standing(&rows).ok_or(JournalError::LockLost { holder: None })
    }

    /// Records an entry before its action is done.
    fn append_entry(&self, what: &PromotionEntryKind) -> Result<(), JournalError> {
        self.world.promotions.append(self.holder, &self.id, what, self.world.clock.now())
    }

    /// Reads the requests of other processes so far.
    fn read_requests(&self) -> Result<std::sync::MutexGuard<'_, OperatorRequests>, JournalError> {
        let mut heard = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for PromotionEntry { number, kind: what, .. } in
            self.world.promotions.rows(&self.id, heard.last_number)?
        {
            heard.last_number = number;
            match what {
                PromotionEntryKind::Requested { ask, .. } => heard.requests.push(ask),
                // Requests from before it stopped are discarded.
                PromotionEntryKind::Resumed { .. } => heard.requests.clear(),
                _ => {}
            }
        }
        Ok(heard)
    }

    /// Sleeps; returns early with a reason on a stop or an abort request.
    async fn sleep_or_stop(&self, pause: Duration) -> Result<(), StopReason> {
        tokio::select! {
            () = self.world.stop.wait() => return Err(StopReason::Interrupt { why: "interrupted".to_owned() }),
            () = tokio::time::sleep(pause) => {}
        }
        self.check_not_aborted()
    }

    fn check_not_aborted(&self) -> Result<(), StopReason> {
        if self.read_requests()?.requests.contains(&OperatorRequest::Abort) {
            return Err(StopReason::RollBack { result: PromotionResult::Aborted, why: "aborted".to_owned() });
        }
        Ok(())
    }

    fn elapsed(&self) -> Duration {
        self.started_at.elapsed()
    }

    fn say(&self, text: String) {
        self.world.reporter.report(&Event::DeploymentProgress { host: None, text });
    }
}

#[cfg(test)]
mod tests;
