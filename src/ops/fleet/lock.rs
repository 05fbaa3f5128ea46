//! The fleet lock: acquired for a roll or a command over several hosts, or by an operator to keep other operations out.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::duration;
use crate::model::lock::{Holder, Liveness, LockNote, LockPurpose, LockView};
use crate::world::FleetWorld;
use crate::world::journal_store::JournalError;
use crate::world::lock::AcquireResult;
use crate::world::reporter::Event;

/// The interval between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a holder on another machine is watched for a heartbeat: five intervals.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval between two attempts to reach a store while a command waits for its lock.
const STORE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long a command that no lock may delay waits for the journal: a store on the same network answers in milliseconds.
pub(super) const FREE_LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the fleet lock was not acquired or released.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// `waited`: how long, with `--wait-lock`.
    #[error("the fleet is locked by {}{}", .lock.holder, describe_wait(*.waited))]
    Locked { lock: Box<LockView>, waited: Duration },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("interrupted while waiting for {}", .lock.holder)]
    Interrupted { lock: Box<LockView> },
    #[error("the fleet is not locked")]
    NotLocked,
    #[error("the fleet is locked by {}, not by `{user}`", .lock.holder)]
    OtherHolder { lock: Box<LockView>, user: String },
}

fn describe_wait(waited: Duration) -> String {
    if waited.is_zero() {
        return String::new();
    }
    let whole = if waited.as_secs() > 0 { Duration::from_secs(waited.as_secs()) } else { waited };
    format!("; waited {}", duration::format(whole))
}

/// Acquires the lock, also from a dead holder. The lock of a live process or of an operator is never taken over: with
/// `--wait-lock` the command waits until it is released.
pub async fn acquire(world: &FleetWorld, user: &str, purpose: LockPurpose) -> Result<Holder, LockError> {
    let create_holder = || world.lock.holder(user, purpose.clone(), world.clock.now());
    let (mut holder, mut wait) = (create_holder(), LockWait::new(world));
    let mut instead_of: Option<Box<LockView>> = None;
    loop {
        match world.lock.acquire(&holder, instead_of.as_deref()).await {
            Ok(AcquireResult::Acquired) => break,
            Ok(AcquireResult::Busy(lock)) => {
                instead_of = wait.wait_for_turn(lock).await?;
                holder = create_holder();
            }
            // The same holder again: an attempt whose answer was lost may have taken the lock.
            Err(error) => wait.wait_for_store(error).await?,
        }
    }
    if let Some(dead) = instead_of {
        let text = format!("took the lock over from {}, which has ended", dead.holder);
        write_note(world, user, &text).await?;
        world.reporter.report(&Event::Warning { text });
    }
    Ok(holder)
}

/// Waits until the lock is free or its holder is dead, as far as `--wait-lock` allows. Without it, returns at once.
pub(super) async fn wait_until_free(world: &FleetWorld) -> Result<(), LockError> {
    if world.lock.wait_budget().is_zero() { Ok(()) } else { check_no_live_holder(world).await }
}

/// A command that waits for the lock.
struct LockWait<'a> {
    world: &'a FleetWorld,
    budget: Duration,
    began_at: Option<Instant>,
    announced: Option<Holder>,
    /// The lock as it was read last, and since when it has been so.
    unchanged: Option<(Box<LockView>, Instant)>,
    /// The lock was seen to change: its holder is, or was, alive.
    has_changed: bool,
    has_warned: bool,
}

impl Drop for LockWait<'_> {
    fn drop(&mut self) {
        self.world.lock.spend_wait(self.elapsed());
    }
}

impl<'a> LockWait<'a> {
    fn new(world: &'a FleetWorld) -> Self {
        let budget = world.lock.wait_budget();
        let (announced, unchanged) = (None, None);
        Self { world, budget, began_at: None, announced, unchanged, has_changed: false, has_warned: false }
    }

    fn elapsed(&self) -> Duration {
        self.began_at.map(|began_at| began_at.elapsed()).unwrap_or_default()
    }

    fn remaining(&self) -> Duration {
        self.budget.saturating_sub(self.elapsed())
    }

    /// Returns `None` when another attempt may succeed, and the lock as it was read when its holder is dead and may be replaced.
    async fn wait_for_turn(&mut self, lock: Box<LockView>) -> Result<Option<Box<LockView>>, LockError> {
        if lock.liveness == Liveness::Dead {
            return Ok(Some(lock));
        }
        if self.budget.is_zero() {
            if lock.liveness == Liveness::Remote
                && let Some(silent) = watch_for_silence(self.world, &lock).await?
            {
                return Ok(Some(silent));
            }
            return Err(LockError::Locked { lock, waited: Duration::ZERO });
        }
        self.began_at.get_or_insert_with(Instant::now);
        self.announce(&lock);
        let silence = self.measure_silence(&lock);
        if lock.liveness == Liveness::Remote && silence >= HEARTBEAT_TIMEOUT {
            return Ok(Some(lock));
        }
        let mut timeout = self.remaining();
        if lock.liveness == Liveness::Remote {
            let until_silent = HEARTBEAT_TIMEOUT.saturating_sub(silence);
            // A shorter limit refuses no lock that is free to take without `--wait-lock`.
            timeout = if self.has_changed { timeout.min(until_silent) } else { until_silent };
        }
        if timeout.is_zero() {
            return Err(LockError::Locked { lock, waited: self.elapsed() });
        }
        let changed = tokio::select! {
            () = self.world.stop.wait() => return Err(LockError::Interrupted { lock }),
            changed = self.world.lock.wait_for_change(&lock, timeout) => changed,
        };
        match changed {
            Ok(()) => Ok(None),
            Err(error) => self.wait_for_store(error).await.map(|()| None),
        }
    }

    /// Returns how long the lock has been as it is, without a heartbeat.
    fn measure_silence(&mut self, lock: &LockView) -> Duration {
        match &self.unchanged {
            Some((seen, since)) if seen.holder == lock.holder && seen.heartbeats == lock.heartbeats => {
                since.elapsed()
            }
            before => {
                self.has_changed |= before.is_some();
                self.unchanged = Some((Box::new(lock.clone()), Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Reports each holder once.
    fn announce(&mut self, lock: &LockView) {
        if self.announced.as_ref() != Some(&lock.holder) {
            self.announced = Some(lock.holder.clone());
            let (lock, timeout) = (Box::new(lock.clone()), self.remaining());
            self.world.reporter.report(&Event::WaitingForLock { lock, timeout });
        }
    }

    /// Waits before the next attempt where a store that has answered before is not reached. Any other error ends the wait.
    async fn wait_for_store(&mut self, error: JournalError) -> Result<(), LockError> {
        let remaining = self.remaining();
        let Some((lock, _)) = self.unchanged.as_ref().filter(|_| !remaining.is_zero()) else {
            return Err(error.into());
        };
        if !matches!(error, JournalError::Unreachable { .. }) {
            return Err(error.into());
        }
        if !std::mem::replace(&mut self.has_warned, true) {
            let text = format!("still waiting for the lock: {error}");
            self.world.reporter.report(&Event::Warning { text });
        }
        tokio::select! {
            () = self.world.stop.wait() => Err(LockError::Interrupted { lock: lock.clone() }),
            () = tokio::time::sleep(STORE_RETRY_INTERVAL.min(remaining)) => Ok(()),
        }
    }
}

/// Writes heartbeats; never returns. A lost lock is noticed at the next write to the journal.
async fn send_heartbeats(world: &FleetWorld, holder: &Holder) -> Infallible {
    loop {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        let sent = world.lock.send_heartbeat(holder).await;
        if let Err(
            error @ (JournalError::Full { .. }
            | JournalError::Failed { .. }
            | JournalError::Refused { .. }
            | JournalError::Unreachable { .. }
            | JournalError::NotConnected { .. }
            | JournalError::OtherVersion { .. }
            | JournalError::Denied { .. }),
        ) = sent
        {
            world
                .reporter
                .report(&Event::Warning { text: format!("cannot write the heartbeat of the lock: {error}") });
        }
    }
}

/// Releases the lock, unless another command has taken it by force since.
pub async fn release_own(world: &FleetWorld, holder: &Holder) {
    match world.lock.release(holder).await {
        Ok(()) | Err(JournalError::LockLost { .. }) => {}
        Err(error) => {
            world.reporter.report(&Event::Warning { text: format!("cannot release the lock: {error}") });
        }
    }
}

/// Fails while a live process holds the lock; one on another machine is watched for a heartbeat. With `--wait-lock`, waits for
/// its end.
pub(super) async fn check_no_live_holder(world: &FleetWorld) -> Result<(), LockError> {
    let mut wait = LockWait::new(world);
    loop {
        match world.lock.read_holder().await {
            Ok(None) => return Ok(()),
            Ok(Some(held)) => {
                if wait.wait_for_turn(Box::new(held)).await?.is_some() {
                    return Ok(());
                }
            }
            Err(error) => wait.wait_for_store(error).await?,
        }
    }
}

/// Runs the work of a command under the lock, with heartbeats.
pub(super) async fn run_under_lock<T, E: From<LockError>>(
    world: &FleetWorld,
    user: &str,
    command: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let holder = acquire(world, user, LockPurpose::Command { name: command.to_owned() }).await?;
    run_as_holder(world, &holder, work).await
}

/// Runs the work of a command that no lock may delay: under the lock where it is free, else with a warning. A store that answers
/// late is not waited for; the lock then covers the rest of the work.
pub(super) async fn run_with_lock_if_free<T>(
    world: &FleetWorld,
    user: &str,
    command: &str,
    work: impl Future<Output = T>,
) -> T {
    let warn = |reason: String| {
        let text = format!("{reason}; {command} continues without the lock");
        world.reporter.report(&Event::Warning { text });
    };
    let (mut work, mut acquiring) = (Box::pin(work), Box::pin(acquire_if_free(world, user, command)));
    let Ok(acquired) = tokio::time::timeout(FREE_LOCK_TIMEOUT, &mut acquiring).await else {
        let limit = duration::format(FREE_LOCK_TIMEOUT);
        warn(format!("the fleet lock was not taken: no answer from the journal within {limit}"));
        return tokio::select! {
            ended = &mut work => ended,
            acquired = acquiring => match acquired {
                Ok(holder) => run_as_holder(world, &holder, work).await,
                Err(_) => work.await,
            },
        };
    };
    match acquired {
        Ok(holder) => run_as_holder(world, &holder, work).await,
        Err(error) => {
            warn(error.to_string());
            work.await
        }
    }
}

async fn acquire_if_free(world: &FleetWorld, user: &str, command: &str) -> Result<Holder, LockError> {
    let holder =
        world.lock.holder(user, LockPurpose::Command { name: command.to_owned() }, world.clock.now());
    let mut instead_of = None;
    loop {
        match world.lock.acquire(&holder, instead_of.as_deref()).await? {
            AcquireResult::Acquired => return Ok(holder),
            AcquireResult::Busy(lock) if lock.liveness == Liveness::Dead && instead_of.is_none() => {
                instead_of = Some(lock);
            }
            AcquireResult::Busy(lock) => return Err(LockError::Locked { lock, waited: Duration::ZERO }),
        }
    }
}

/// Runs the work of the holder with heartbeats, and releases the lock after success, failure and a forced stop.
pub(super) fn run_as_holder<T>(
    world: &FleetWorld,
    holder: &Holder,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    // The future of a whole roll or promotion is large.
    let work = Box::pin(work);
    async move {
        let mut held = HeldLock { world, holder, is_released: false };
        let ended = tokio::select! {
            ended = work => ended,
            never = send_heartbeats(world, holder) => match never {},
        };
        held.is_released = true;
        release_own(world, holder).await;
        ended
    }
}

/// Releases the lock also where a second signal drops the work: operators on other machines need not wait for heartbeats.
struct HeldLock<'a> {
    world: &'a FleetWorld,
    holder: &'a Holder,
    is_released: bool,
}

impl Drop for HeldLock<'_> {
    fn drop(&mut self) {
        if !self.is_released {
            self.world.lock.release_at_exit(self.holder);
        }
    }
}

/// A person's lock, until released.
pub async fn acquire_for_person(world: &FleetWorld, user: &str, message: &str) -> Result<Holder, LockError> {
    let holder = acquire(world, user, LockPurpose::Operator { message: message.to_owned() }).await?;
    write_note(world, user, &format!("took the lock: {message}")).await?;
    Ok(holder)
}

/// Releases the lock: the operator's own, or another holder's by force and with a reason, which the history keeps.
pub async fn release(world: &FleetWorld, user: &str, force: Option<&str>) -> Result<LockView, LockError> {
    let lock = world.lock.read_holder().await?.ok_or(LockError::NotLocked)?;
    let own = world.lock.holder(user, lock.holder.purpose.clone(), world.clock.now());
    let is_own = (&lock.holder.user, &lock.holder.machine) == (&own.user, &own.machine)
        && matches!(lock.holder.purpose, LockPurpose::Operator { .. });
    let text = match force {
        None if is_own => format!("released the lock: {}", lock.holder.purpose),
        None => {
            let user = format!("{user} on {}", own.machine);
            return Err(LockError::OtherHolder { lock: Box::new(lock), user });
        }
        Some(reason) => format!("released by force the lock of {}: {reason}", lock.holder),
    };
    world.lock.release(&lock.holder).await?;
    write_note(world, user, &text).await?;
    Ok(lock)
}

/// Judges a holder by its heartbeats alone: the clocks of two machines are not comparable. Returns the lock as it was read last if
/// its holder is silent.
///
/// One heartbeat proves nothing: the network may deliver the last request of a process that has ended, once the store can be
/// reached again. A holder that lives sends more of them.
async fn watch_for_silence(world: &FleetWorld, lock: &LockView) -> Result<Option<Box<LockView>>, LockError> {
    let text =
        format!("watching for {} whether {} is alive", duration::format(HEARTBEAT_TIMEOUT), lock.holder);
    world.reporter.report(&Event::Warning { text });
    let mut seen = lock.clone();
    loop {
        tokio::select! {
            () = world.stop.wait() => return Err(LockError::Interrupted { lock: Box::new(seen) }),
            () = tokio::time::sleep(HEARTBEAT_TIMEOUT) => {}
        }
        match world.lock.read_holder().await? {
            // Released by now: the next attempt takes it.
            None => return Ok(Some(Box::new(seen))),
            Some(now) if now.holder != lock.holder => return Ok(None),
            Some(now) if now.heartbeats == seen.heartbeats => return Ok(Some(Box::new(now))),
            Some(now) if now.heartbeats.saturating_sub(lock.heartbeats) > 1 => return Ok(None),
            Some(now) => seen = now,
        }
    }
}

async fn write_note(world: &FleetWorld, user: &str, text: &str) -> Result<(), JournalError> {
    let note = LockNote { at: world.clock.now(), user: user.to_owned(), text: text.to_owned() };
    world.lock.add_note(&note).await
}
