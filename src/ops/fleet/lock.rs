//! The fleet lock: acquired for a roll or a command over several hosts, or by an operator to keep other operations out.

use std::convert::Infallible;
use std::time::Duration;

use crate::model::lock::{Holder, Liveness, LockNote, LockPurpose, LockView};
use crate::world::FleetWorld;
use crate::world::journal_store::JournalError;
use crate::world::lock::AcquireResult;
use crate::world::reporter::Event;

/// The interval between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a holder on another machine is watched for a heartbeat: five intervals.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the fleet lock was not acquired or released.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("the fleet is locked by {}", .lock.holder)]
    Locked { lock: Box<LockView> },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("interrupted while waiting for a heartbeat of {}", .lock.holder)]
    Interrupted { lock: Box<LockView> },
    #[error("the fleet is not locked")]
    NotLocked,
    #[error("the fleet is locked by {}, not by `{user}`", .lock.holder)]
    OtherHolder { lock: Box<LockView>, user: String },
}

/// Acquires the lock, also from a dead holder. The lock of a live process or of an operator is never taken over.
pub async fn acquire(world: &FleetWorld, user: &str, purpose: LockPurpose) -> Result<Holder, LockError> {
    let holder = world.lock.holder(user, purpose, world.clock.now());
    let mut instead_of: Option<Box<LockView>> = None;
    loop {
        let lock = match world.lock.acquire(&holder, instead_of.as_deref()).await? {
            AcquireResult::Acquired => break,
            AcquireResult::Busy(lock) => lock,
        };
        match lock.liveness {
            Liveness::Dead => {}
            Liveness::Remote if is_silent(world, &lock).await? => {}
            Liveness::Live | Liveness::Remote => return Err(LockError::Locked { lock }),
        }
        instead_of = Some(lock);
    }
    if let Some(dead) = instead_of {
        let text = format!("took the lock over from {}, which has ended", dead.holder);
        write_note(world, user, &text).await?;
        world.reporter.report(&Event::Warning { text });
    }
    Ok(holder)
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

/// Fails while a live process holds the lock; one on another machine is watched for a heartbeat.
pub(super) async fn check_no_live_holder(world: &FleetWorld) -> Result<(), LockError> {
    match world.lock.read_holder().await? {
        Some(held) if held.liveness == Liveness::Live => Err(LockError::Locked { lock: Box::new(held) }),
        Some(held) if held.liveness == Liveness::Remote && !is_silent(world, &held).await? => {
            Err(LockError::Locked { lock: Box::new(held) })
        }
        _ => Ok(()),
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

/// Judges a holder by its heartbeat alone: the clocks of two machines are not comparable.
async fn is_silent(world: &FleetWorld, lock: &LockView) -> Result<bool, LockError> {
    let text = format!(
        "watching for {} whether {} is alive",
        crate::model::duration::format(HEARTBEAT_TIMEOUT),
        lock.holder
    );
    world.reporter.report(&Event::Warning { text });
    tokio::select! {
        () = world.stop.wait() => return Err(LockError::Interrupted { lock: Box::new(lock.clone()) }),
        () = tokio::time::sleep(HEARTBEAT_TIMEOUT) => {}
    }
    Ok(world
        .lock
        .read_holder()
        .await?
        .is_none_or(|now| now.holder == lock.holder && now.heartbeats == lock.heartbeats))
}

async fn write_note(world: &FleetWorld, user: &str, text: &str) -> Result<(), JournalError> {
    let note = LockNote { at: world.clock.now(), user: user.to_owned(), text: text.to_owned() };
    world.lock.add_note(&note).await
}
