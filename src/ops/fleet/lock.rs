//! The fleet's lock: taken for a roll or a command over several hosts, or by a person who wants to be left alone.

use std::convert::Infallible;
use std::time::Duration;

use crate::model::lock::{Holder, Life, LockView, Purpose};
use crate::world::FleetWorld;
use crate::world::journal::JournalError;
use crate::world::lock::{LockNote, Taken};
use crate::world::reporter::Event;

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(2);
/// How long a holder on another machine is watched for a sign of life: five beats.
const WATCH: Duration = Duration::from_secs(10);

/// Why the fleet is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("the fleet is held by {}", .held.holder)]
    Held { held: Box<LockView> },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("interrupted while watching whether {} is alive", .held.holder)]
    Interrupted { held: Box<LockView> },
    #[error("nobody holds the fleet")]
    NotHeld,
    #[error("the fleet is held by {}, not by `{asked}`", .held.holder)]
    NotYours { held: Box<LockView>, asked: String },
}

/// Takes the lock, in place of a holder that is dead. A living one, and a person, are never waited away.
pub async fn acquire(world: &FleetWorld, user: &str, purpose: Purpose) -> Result<Holder, LockError> {
    let holder = world.lock.holder(user, purpose, world.clock.now());
    let mut instead_of: Option<Box<LockView>> = None;
    loop {
        let held = match world.lock.take(&holder, instead_of.as_deref())? {
            Taken::Taken => break,
            Taken::Held(held) => held,
        };
        match held.life {
            Life::Gone => {}
            Life::Elsewhere if is_silent(world, &held).await? => {}
            Life::Alive | Life::Elsewhere => return Err(LockError::Held { held }),
        }
        instead_of = Some(held);
    }
    if let Some(dead) = instead_of {
        let text = format!("took the lock over from {}, which is gone", dead.holder);
        note(world, user, &text)?;
        world.reporter.report(&Event::Warning { text });
    }
    Ok(holder)
}

/// Gives signs of life; never returns. That the lock was lost is seen by the next write to the journal.
pub async fn beat(world: &FleetWorld, holder: &Holder) -> Infallible {
    loop {
        tokio::time::sleep(BEAT).await;
        if let Err(error @ (JournalError::Full { .. } | JournalError::Failed { .. })) =
            world.lock.beat(holder)
        {
            world
                .reporter
                .report(&Event::Warning { text: format!("no sign of life could be given: {error}") });
        }
    }
}

/// Gives it back. One that was taken away by force meanwhile is not ours to give.
pub fn give_back(world: &FleetWorld, holder: &Holder) {
    match world.lock.release(holder) {
        Ok(()) | Err(JournalError::LockLost { .. }) => {}
        Err(error) => world.reporter.report(&Event::Warning { text: format!("the lock stays: {error}") }),
    }
}

/// A person's lock, until released.
pub async fn hold(world: &FleetWorld, user: &str, message: &str) -> Result<Holder, LockError> {
    let holder = acquire(world, user, Purpose::Person { message: message.to_owned() }).await?;
    note(world, user, &format!("took the lock: {message}"))?;
    Ok(holder)
}

/// Releases whatever lock there is: one's own, or anybody's by force and with a reason, which the history keeps.
pub fn release(world: &FleetWorld, user: &str, force: Option<&str>) -> Result<LockView, LockError> {
    let held = world.lock.view()?.ok_or(LockError::NotHeld)?;
    let mine = held.holder.user == user && matches!(held.holder.purpose, Purpose::Person { .. });
    let text = match force {
        None if mine => format!("released the lock: {}", held.holder.purpose),
        None => return Err(LockError::NotYours { held: Box::new(held), asked: user.to_owned() }),
        Some(reason) => format!("released by force the lock of {}: {reason}", held.holder),
    };
    world.lock.release(&held.holder)?;
    note(world, user, &text)?;
    Ok(held)
}

/// By its heartbeat alone: clocks of two machines say nothing about each other.
async fn is_silent(world: &FleetWorld, held: &LockView) -> Result<bool, LockError> {
    let text =
        format!("watching for {} whether {} is alive", crate::model::duration::show(WATCH), held.holder);
    world.reporter.report(&Event::Warning { text });
    tokio::select! {
        () = world.stop.requested() => return Err(LockError::Interrupted { held: Box::new(held.clone()) }),
        () = tokio::time::sleep(WATCH) => {}
    }
    Ok(world.lock.view()?.is_none_or(|now| now.holder == held.holder && now.beats == held.beats))
}

fn note(world: &FleetWorld, user: &str, text: &str) -> Result<(), JournalError> {
    world.lock.note(&LockNote { at: world.clock.now(), user: user.to_owned(), text: text.to_owned() })
}
