//! The journals and their lock in memory, on a disk that can be full.

use std::sync::{Mutex, MutexGuard};

use crate::model::journal::{RollEntry, RollEntryKind};
use crate::model::lock::{Holder, Liveness, LockPurpose, LockView};
use crate::model::promote::PromotionEntry;
use crate::world::journal::{Journal, JournalError, Record};
use crate::world::lock::{AcquireResult, FleetLock, LockNote};

/// Journals and lock in memory.
#[derive(Debug, Default)]
pub struct FakeJournal {
    pub rolls: Mutex<Vec<RollEntry>>,
    pub promotions: Mutex<Vec<PromotionEntry>>,
    pub lock: Mutex<Option<(Holder, u64)>>,
    pub liveness: Mutex<Option<Liveness>>,
    pub notes: Mutex<Vec<LockNote>>,
    /// The number of entries that still fit on the disk.
    pub free_entries: Mutex<Option<usize>>,
    /// Something was not written for lack of room.
    pub has_gaps: Mutex<bool>,
}

impl FakeJournal {
    pub fn entry_kinds(&self, host: &str) -> Vec<RollEntryKind> {
        let entries = self.rolls.lock().unwrap();
        entries
            .iter()
            .filter(|row| row.host.as_ref().is_some_and(|name| name.as_str() == host))
            .map(|row| row.kind.clone())
            .collect()
    }

    /// Ends the process; what it wrote stays.
    pub fn kill(&self) {
        *self.liveness.lock().unwrap() = Some(Liveness::Dead);
    }

    fn build_view(&self, (holder, beats): &(Holder, u64)) -> Box<LockView> {
        let life = match &holder.purpose {
            LockPurpose::Operator { .. } => Liveness::Live,
            _ => self.liveness.lock().unwrap().unwrap_or(Liveness::Live),
        };
        Box::new(LockView { holder: holder.clone(), heartbeats: *beats, liveness: life })
    }

    fn check_space(&self) -> Result<(), JournalError> {
        if let Some(room) = &mut *self.free_entries.lock().unwrap() {
            let Some(left) = room.checked_sub(1) else {
                *self.has_gaps.lock().unwrap() = true;
                return Err(JournalError::Full { path: "/fake.db".into() });
            };
            *room = left;
        }
        Ok(())
    }

    fn check_holder(&self, holder: &Holder) -> Result<(), JournalError> {
        match &*self.lock.lock().unwrap() {
            Some((held, _)) if held == holder => Ok(()),
            held => {
                Err(JournalError::LockLost { holder: held.as_ref().map(|(held, _)| Box::new(held.clone())) })
            }
        }
    }
}

/// An entry that the fake keeps in a list.
pub trait ListedRecord: Record {
    fn lock_entries(journal: &FakeJournal) -> MutexGuard<'_, Vec<Self>>;
}

impl ListedRecord for RollEntry {
    fn lock_entries(journal: &FakeJournal) -> MutexGuard<'_, Vec<Self>> {
        journal.rolls.lock().unwrap()
    }
}

impl ListedRecord for PromotionEntry {
    fn lock_entries(journal: &FakeJournal) -> MutexGuard<'_, Vec<Self>> {
        journal.promotions.lock().unwrap()
    }
}

impl<R: ListedRecord> Journal<R> for FakeJournal {
    fn append(&self, holder: &Holder, entry: &R) -> Result<(), JournalError> {
        self.check_holder(holder)?;
        self.check_space()?;
        R::lock_entries(self).push(entry.clone());
        Ok(())
    }

    fn append_request(&self, request: R::Request) -> Result<(), JournalError> {
        R::lock_entries(self).push(request.into());
        Ok(())
    }

    fn load(&self, id: &R::Id, skip: usize) -> Result<Vec<R>, JournalError> {
        let entries = R::lock_entries(self);
        Ok(entries.iter().filter(|entry| entry.id() == id).skip(skip).cloned().collect())
    }

    fn list(&self, limit: u32) -> Result<Vec<R::Id>, JournalError> {
        let mut ids: Vec<R::Id> = Vec::new();
        for entry in R::lock_entries(self).iter() {
            if !ids.contains(entry.id()) {
                ids.push(entry.id().clone());
            }
        }
        Ok(ids.split_off(ids.len().saturating_sub(usize::try_from(limit).unwrap())))
    }
}

impl FleetLock for FakeJournal {
    fn holder(&self, user: &str, purpose: LockPurpose, now: jiff::Timestamp) -> Holder {
        let (user, machine, boot) = (user.to_owned(), "desk".to_owned(), "boot".to_owned());
        Holder { user, machine, boot_id: boot, pid: 1, start_ticks: 1, purpose, since: now }
    }

    fn acquire(&self, holder: &Holder, instead_of: Option<&LockView>) -> Result<AcquireResult, JournalError> {
        let mut lock = self.lock.lock().unwrap();
        match &*lock {
            Some(held)
                if instead_of.is_none_or(|dead| (&dead.holder, dead.heartbeats) != (&held.0, held.1)) =>
            {
                Ok(AcquireResult::Busy(self.build_view(held)))
            }
            _ => {
                *lock = Some((holder.clone(), 0));
                *self.liveness.lock().unwrap() = None;
                Ok(AcquireResult::Acquired)
            }
        }
    }

    fn send_heartbeat(&self, holder: &Holder) -> Result<(), JournalError> {
        self.check_holder(holder)?;
        if let Some((_, beats)) = &mut *self.lock.lock().unwrap() {
            *beats += 1;
        }
        Ok(())
    }

    fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.check_holder(holder)?;
        *self.lock.lock().unwrap() = None;
        Ok(())
    }

    fn read_holder(&self) -> Result<Option<LockView>, JournalError> {
        Ok(self.lock.lock().unwrap().as_ref().map(|held| *self.build_view(held)))
    }

    fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        self.notes.lock().unwrap().push(note.clone());
        Ok(())
    }

    fn load_notes(&self, _: u32) -> Result<Vec<LockNote>, JournalError> {
        Ok(self.notes.lock().unwrap().clone())
    }
}
