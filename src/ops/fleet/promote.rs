//! `promote`: a version gets a growing share of the requests on every host, for as long as it is no worse than main; then it
//! becomes main. Every step is recorded before it is done. Unless its process is killed, a promotion leaves no canary
//! without evaluation.

use std::time::Duration;
use tokio::sync::Mutex;

use serde::Serialize;
use tokio::time::Instant;

use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::history::Actor;
use crate::model::host::Host;
use crate::model::lock::{Holder, Liveness, LockPurpose};
use crate::model::name::HostName;
use crate::model::promote::{
    OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionId, PromotionRequest, PromotionResult,
    PromotionSpec, PromotionTarget, RequestCounts,
};
use crate::model::run_id::derive_salt;
use crate::plan::promote::{PromotionProgress, build_progress};
use crate::world::FleetWorld;
use crate::world::journal_store::JournalError;
use crate::world::reporter::Event;
use crate::world::stop::StopToken;

use super::lock::{self, LockError};

mod announcement;
mod error;
mod evaluate;
mod make_main;
mod preflight;
mod remove_canary;
mod require_match;
mod set_share;

pub use error::{NotReadyError, PromotionError};
pub use preflight::check_ready;

use announcement::describe_entry;

/// How long an abort waits until a running promotion has ended.
const ABORT_TIMEOUT: Duration = Duration::from_mins(2);
const ABORT_INTERVAL: Duration = Duration::from_millis(200);

/// The progress of a promotion, so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromotionReport {
    pub progress: PromotionProgress,
    #[serde(rename = "took_ms", serialize_with = "duration::serialize_ms")]
    pub took: Duration,
}

impl PromotionReport {
    fn from_progress(progress: PromotionProgress) -> Self {
        let took = progress.changed_at.duration_since(progress.began_at);
        Self { took: Duration::try_from(took).unwrap_or_default(), progress }
    }
}

/// Why a promotion stopped before its end.
enum StopReason {
    /// Final: main answers everything again.
    RollBack {
        result: PromotionResult,
        reason: String,
    },
    /// Main answers everything again; a resume goes on.
    Interrupt {
        reason: String,
    },
    Journal(JournalError),
}

impl StopReason {
    fn roll_back(reason: String) -> Self {
        Self::RollBack { result: PromotionResult::RolledBack, reason }
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
    /// The number of entries that were read.
    entries_read: usize,
    requests: Vec<OperatorRequest>,
}

/// A new promotion.
pub async fn run(
    world: &FleetWorld,
    fleet: &Fleet,
    spec: &PromotionSpec,
    actor: &Actor,
) -> Result<PromotionReport, PromotionError> {
    if read_unfinished(world).await?.is_some() {
        // One that is on its way is no business of `--resume`.
        lock::check_no_live_holder(world).await?;
        // It may have ended during the wait for its lock.
        if let Some(progress) = read_unfinished(world).await? {
            return Err(PromotionError::Unfinished { progress: Box::new(progress) });
        }
    }
    let hosts = resolve_hosts(fleet, spec)?;
    with_lock(world, spec, actor, async |holder| {
        // Another process may have begun one between the first read and the lock.
        if let Some(progress) = read_unfinished(world).await? {
            return Err(PromotionError::Unfinished { progress: Box::new(progress) });
        }
        let target = check_ready(world, fleet, &hosts, spec, actor).await?;
        let now = world.clock.now();
        let id = PromotionId::new(now, derive_salt(now, actor.pid));
        let promotion =
            PromotionRun::new(world, fleet, (id, spec.clone(), target.clone()), hosts, holder, actor);
        promotion
            .record(&PromotionEntryKind::Began { spec: Box::new(spec.clone()), target, actor: actor.clone() })
            .await?;
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
        promotion.record(&PromotionEntryKind::Resumed { actor: actor.clone() }).await?;
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
    let progress = require_unfinished(world, fleet, "abort").await?;
    let deadline = Instant::now() + ABORT_TIMEOUT;
    let mut asked = false;
    loop {
        let ended = continue_last(world, fleet, actor, "abort", async |promotion| {
            promotion.append_entry(&PromotionEntryKind::Resumed { actor: actor.clone() }).await?;
            let reason = format!("aborted by {}", actor.user);
            promotion.halt(StopReason::RollBack { result: PromotionResult::Aborted, reason }).await
        })
        .await;
        match ended {
            Err(PromotionError::Lock(LockError::Locked { lock, .. })) if is_promotion(&lock.holder) => {
                match build_progress(&world.promotions.load(&progress.promotion, 0).await?) {
                    // Another one may hold it by now.
                    Some(ended) if ended.is_finished() && asked => {
                        return Ok(PromotionReport::from_progress(ended));
                    }
                    // A process that resumes it discards earlier requests.
                    Some(now) if !now.is_abort_requested() => {
                        send_request(world, &progress.promotion, OperatorRequest::Abort, actor).await?;
                        asked = true;
                    }
                    _ => {}
                }
            }
            Err(PromotionError::Finished { .. }) if asked => {
                let entries = world.promotions.load(&progress.promotion, 0).await?;
                return Ok(PromotionReport::from_progress(build_progress(&entries).unwrap_or(progress)));
            }
            ended => return ended,
        }
        if Instant::now() >= deadline {
            let service = progress.spec.service;
            return Err(PromotionError::NotEnded {
                service,
                promotion: progress.promotion,
                waited: ABORT_TIMEOUT,
            });
        }
        tokio::time::sleep(ABORT_INTERVAL).await;
    }
}

/// Approves the step of the last promotion, which waits for approval.
pub async fn approve(
    world: &FleetWorld,
    fleet: &Fleet,
    actor: &Actor,
) -> Result<PromotionProgress, PromotionError> {
    let progress = require_unfinished(world, fleet, "promote").await?;
    let Some(step) = progress.awaiting_approval.filter(|_| progress.rolling_back.is_none()) else {
        let (service, promotion) = (progress.spec.service, progress.promotion);
        return Err(PromotionError::NotWaitingForApproval { service, promotion });
    };
    let held = world.lock.read_holder().await?;
    if !held.is_some_and(|held| held.liveness != Liveness::Dead && is_promotion(&held.holder)) {
        let (service, promotion) = (progress.spec.service, progress.promotion);
        return Err(PromotionError::NotRunning { service, promotion });
    }
    send_request(world, &progress.promotion, OperatorRequest::Approve { step }, actor).await?;
    Ok(progress)
}

async fn send_request(
    world: &FleetWorld,
    promotion: &PromotionId,
    request: OperatorRequest,
    actor: &Actor,
) -> Result<(), JournalError> {
    let (promotion, at, actor) = (promotion.clone(), world.clock.now(), actor.clone());
    world.promotions.append_request(PromotionRequest { promotion, at, request, actor }).await
}

/// Returns the progress of the last promotion; `None` if there never was one.
pub async fn read_last(world: &FleetWorld) -> Result<Option<PromotionProgress>, JournalError> {
    match world.promotions.find_last().await? {
        Some(promotion) => Ok(build_progress(&world.promotions.load(&promotion, 0).await?)),
        None => Ok(None),
    }
}

async fn read_unfinished(world: &FleetWorld) -> Result<Option<PromotionProgress>, JournalError> {
    Ok(read_last(world).await?.filter(|progress| !progress.is_finished()))
}

async fn require_unfinished(
    world: &FleetWorld,
    fleet: &Fleet,
    verb: &'static str,
) -> Result<PromotionProgress, PromotionError> {
    let none = || PromotionError::NotFound { service: fleet.service.clone(), verb };
    let progress = read_last(world).await?.ok_or_else(none)?;
    if progress.is_finished() {
        let (service, promotion) = (progress.spec.service, progress.promotion);
        return Err(PromotionError::Finished { service, promotion, verb });
    }
    Ok(progress)
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
    lock::run_as_holder(world, &holder, work(&holder)).await
}

/// The last one, under the lock.
async fn continue_last(
    world: &FleetWorld,
    fleet: &Fleet,
    actor: &Actor,
    verb: &'static str,
    work: impl AsyncFnOnce(&PromotionRun<'_>) -> Result<PromotionReport, PromotionError>,
) -> Result<PromotionReport, PromotionError> {
    let spec = require_unfinished(world, fleet, verb).await?.spec;
    with_lock(world, &spec, actor, async |holder| {
        // What another process wrote until it lost the lock counts.
        let PromotionProgress { promotion, spec, target, .. } =
            require_unfinished(world, fleet, verb).await?;
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
                let reason = "no worse than main at every share".to_owned();
                self.finish(PromotionResult::Promoted, &reason).await
            }
            Err(halt) => self.halt(halt).await,
        }
    }

    async fn run_steps(&self) -> Result<(), StopReason> {
        let progress = self.read_progress().await?;
        if let Some((result, reason)) = progress.rolling_back {
            return Err(StopReason::RollBack { result, reason });
        }
        if !progress.is_promoting {
            if self.spec.require_match.is_some() && !progress.has_shared() {
                if !progress.comparison.is_some_and(|(passed, _)| passed) {
                    self.wait_for_match().await?;
                }
                self.stop_mirroring().await?;
            }
            let mut base = progress.baseline;
            for step in progress.step..self.spec.steps.shares().len() {
                base = self.run_step(step, base).await?;
            }
            self.append_entry(&PromotionEntryKind::Promoting).await?;
        }
        self.make_main().await
    }

    /// Runs one step until it has passed. Returns main's counts of that time.
    async fn run_step(
        &self,
        step: usize,
        base: Option<RequestCounts>,
    ) -> Result<Option<RequestCounts>, StopReason> {
        self.record(&PromotionEntryKind::StepBegan { step }).await?;
        self.set_share(step).await?;
        self.append_entry(&PromotionEntryKind::StepSet { step }).await?;
        let main = self.evaluate_step(step, base).await?;
        self.append_entry(&PromotionEntryKind::StepPassed { step, main: main.clone() }).await?;
        Ok(main)
    }

    async fn finish(&self, result: PromotionResult, reason: &str) -> Result<PromotionReport, PromotionError> {
        self.append_entry(&PromotionEntryKind::Ended { result, reason: reason.to_owned() }).await?;
        Ok(PromotionReport::from_progress(self.read_progress().await?))
    }

    async fn read_progress(&self) -> Result<PromotionProgress, JournalError> {
        let entries = self.world.promotions.load(&self.id, 0).await?;
        build_progress(&entries).ok_or(JournalError::LockLost { holder: None })
    }

    /// Records an entry and reports it.
    async fn record(&self, kind: &PromotionEntryKind) -> Result<(), JournalError> {
        self.append_entry(kind).await?;
        self.report_entry(kind);
        Ok(())
    }

    fn report_entry(&self, kind: &PromotionEntryKind) {
        if let Some(text) = describe_entry(&self.id, &self.spec, kind) {
            self.report(text);
        }
    }

    /// Records an entry before its action is done.
    async fn append_entry(&self, kind: &PromotionEntryKind) -> Result<(), JournalError> {
        let (promotion, at) = (self.id.clone(), self.world.clock.now());
        let entry = PromotionEntry { promotion, at, kind: kind.clone() };
        self.world.promotions.append(self.holder, &entry).await
    }

    /// Reads the requests of other processes so far.
    async fn read_requests(&self) -> Result<tokio::sync::MutexGuard<'_, OperatorRequests>, JournalError> {
        let mut requests = self.requests.lock().await;
        for entry in self.world.promotions.load(&self.id, requests.entries_read).await? {
            requests.entries_read += 1;
            match entry.kind {
                PromotionEntryKind::Requested { ask, .. } => requests.requests.push(ask),
                // Requests from before it stopped are discarded.
                PromotionEntryKind::Resumed { .. } => requests.requests.clear(),
                _ => {}
            }
        }
        Ok(requests)
    }

    /// Sleeps; returns early with a reason on a stop or an abort request.
    async fn sleep_or_stop(&self, pause: Duration) -> Result<(), StopReason> {
        tokio::select! {
            () = self.world.stop.wait() => return Err(StopReason::Interrupt { reason: "interrupted".to_owned() }),
            () = tokio::time::sleep(pause) => {}
        }
        self.check_not_aborted().await
    }

    async fn check_not_aborted(&self) -> Result<(), StopReason> {
        if self.read_requests().await?.requests.contains(&OperatorRequest::Abort) {
            return Err(StopReason::RollBack {
                result: PromotionResult::Aborted,
                reason: "aborted".to_owned(),
            });
        }
        Ok(())
    }

    fn elapsed(&self) -> Duration {
        self.started_at.elapsed()
    }

    fn report(&self, text: String) {
        self.world.reporter.report(&Event::DeploymentProgress { host: None, text });
    }
}

#[cfg(test)]
mod tests;
