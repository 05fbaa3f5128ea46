//! Moves a fleet's journal to another store: everything is copied in order under both locks, and read back.

use serde::Serialize;

use crate::model::journal_record::{LockRecord, Log, StoredEntry};
use crate::model::lock::{Holder, LockNote, LockPurpose, LockView};
use crate::model::plural::Count;
use crate::world::FleetWorld;
use crate::world::journal_store::{Acquisition, JournalError, JournalStore};
use crate::world::lock::AcquireResult;

use super::lock::{LockError, check_no_live_holder, run_as_holder};

/// The lock of a journal that was moved away begins with this: an operator with the old configuration is refused.
const MOVED: &str = "the journal was moved to ";
/// Attempts to replace the lock of the move while its own heartbeat changes it.
const MAX_ATTEMPTS: usize = 20;

/// Why a journal was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("cannot move the journal: {store} is where it is")]
    SameStore { store: String },
    /// The other store has something that is not the beginning of this journal.
    #[error("cannot move the journal: {store} is not empty: it has {found}")]
    NotEmpty { store: String, found: JournalCounts },
    #[error("cannot move the journal: {store} does not hold what was copied to it")]
    Differs { store: String },
}

/// The size of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct JournalCounts {
    pub rolls: usize,
    pub promotions: usize,
    pub entries: usize,
    pub notes: usize,
}

impl std::fmt::Display for JournalCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rolls, promotions, entries, notes } = *self;
        let noun = if entries == 1 { "entry" } else { "entries" };
        write!(
            f,
            "{} and {} with {entries} {noun}, {}",
            Count(rolls, "roll"),
            Count(promotions, "promotion"),
            Count(notes, "note")
        )
    }
}

/// A journal that is in the other store now.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct MovedJournal {
    pub from: String,
    pub to: String,
    pub all: JournalCounts,
    /// Entries and notes that this run copied: an earlier one may have begun.
    pub copied: usize,
}

/// Everything that a store has of a fleet, except for the lock.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    logs: Vec<LogContents>,
    notes: Vec<LockNote>,
}

#[derive(Debug, PartialEq, Eq)]
struct LogContents {
    log: Log,
    /// By the first entry of each id.
    histories: Vec<Vec<StoredEntry>>,
}

impl Contents {
    async fn load(store: &dyn JournalStore) -> Result<Self, JournalError> {
        let mut logs = Vec::new();
        for log in [Log::Rolls, Log::Promotions, Log::Outputs] {
            let mut histories = Vec::new();
            for id in store.list(log, u32::MAX).await? {
                histories.push(store.load(log, &id, 0).await?);
            }
            logs.push(LogContents { log, histories });
        }
        Ok(Self { logs, notes: store.load_notes(u32::MAX).await? })
    }

    fn count(&self) -> JournalCounts {
        let mut counts = JournalCounts { notes: self.notes.len(), ..JournalCounts::default() };
        for LogContents { log, histories } in &self.logs {
            match log {
                Log::Rolls => counts.rolls = histories.len(),
                Log::Promotions => counts.promotions = histories.len(),
                // They belong to their rolls.
                Log::Outputs => {}
            }
            counts.entries += histories.iter().map(Vec::len).sum::<usize>();
        }
        counts
    }

    /// Whether a move that was interrupted may have copied this much of `whole`.
    fn is_beginning_of(&self, whole: &Self) -> bool {
        let is_begun = |(begun, whole): (&LogContents, &LogContents)| {
            let Some((last, complete)) = begun.histories.split_last() else { return true };
            whole.histories.starts_with(complete)
                && whole.histories.get(complete.len()).is_some_and(|history| history.starts_with(last))
        };
        self.logs.iter().zip(&whole.logs).all(is_begun) && whole.notes.starts_with(&self.notes)
    }
}

/// Copies the journal of one world's store into that of the other, which is empty or has its beginning. The old store stays as it
/// is, locked, so that no operator goes on with it.
pub async fn move_journal(from: &FleetWorld, to: &FleetWorld, user: &str) -> Result<MovedJournal, MoveError> {
    if from.lock.store().label() == to.lock.store().label() {
        return Err(MoveError::SameStore { store: to.lock.store().label() });
    }
    // One process holds both; as two holders, where both are one store under two names.
    let source = take_lock(from, user, "journal move, from here").await?;
    let work = async {
        let target = take_lock(to, user, "journal move, to here").await?;
        run_as_holder(to, &target, copy(from, to, &source, &target)).await
    };
    run_as_holder(from, &source, work).await
}

/// Takes the lock, also from a dead process and from an earlier move away. Writes no note: notes are copied.
async fn take_lock(world: &FleetWorld, user: &str, command: &str) -> Result<Holder, LockError> {
    let purpose = LockPurpose::Command { name: command.to_owned() };
    let holder = world.lock.holder(user, purpose, world.clock.now());
    let mut instead_of: Option<Box<LockView>> = None;
    loop {
        let lock = match world.lock.acquire(&holder, instead_of.as_deref()).await? {
            AcquireResult::Acquired => return Ok(holder),
            AcquireResult::Busy(lock) => lock,
        };
        if !is_moved(&lock.holder) {
            check_no_live_holder(world).await?;
        }
        instead_of = Some(lock);
    }
}

fn is_moved(holder: &Holder) -> bool {
    matches!(&holder.purpose, LockPurpose::Operator { message } if message.starts_with(MOVED))
}

async fn copy(
    from: &FleetWorld,
    to: &FleetWorld,
    source: &Holder,
    target: &Holder,
) -> Result<MovedJournal, MoveError> {
    let (old, new) = (from.lock.store(), to.lock.store());
    let whole = Contents::load(&**old).await?;
    let begun = Contents::load(&**new).await?;
    if !begun.is_beginning_of(&whole) {
        return Err(MoveError::NotEmpty { store: new.label(), found: begun.count() });
    }
    let mut copied = 0;
    for (LogContents { log, histories }, begun) in whole.logs.iter().zip(&begun.logs) {
        for (index, history) in histories.iter().enumerate() {
            let done = begun.histories.get(index).map_or(0, Vec::len);
            for entry in &history[done..] {
                new.append(Some(target), *log, entry).await?;
                copied += 1;
            }
        }
    }
    for note in &whole.notes[begun.notes.len()..] {
        new.add_note(note).await?;
        copied += 1;
    }
    if Contents::load(&**new).await? != whole {
        return Err(MoveError::Differs { store: new.label() });
    }
    leave_locked(from, source, &new.label()).await?;
    Ok(MovedJournal { from: old.label(), to: new.label(), all: whole.count(), copied })
}

/// Replaces the lock of the move by one that is kept until a person releases it.
async fn leave_locked(world: &FleetWorld, holder: &Holder, to: &str) -> Result<(), MoveError> {
    let message = format!("{MOVED}{to}: change `journal` in switchman.yaml");
    let kept = Holder { purpose: LockPurpose::Operator { message }, ..holder.clone() };
    let store = world.lock.store();
    let mut expected = LockRecord { holder: holder.clone(), heartbeats: 0 };
    for _ in 0..MAX_ATTEMPTS {
        match store.acquire(&kept, Some(&expected)).await? {
            Acquisition::Acquired => return Ok(()),
            Acquisition::Busy(held) if held.holder == *holder => expected = *held,
            Acquisition::Busy(held) => {
                return Err(JournalError::LockLost { holder: Some(Box::new(held.holder)) }.into());
            }
        }
    }
    Err(JournalError::LockLost { holder: None }.into())
}
