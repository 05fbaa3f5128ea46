//! A journal and its lock in memory, on a disk that can be full.

use std::sync::Mutex;

use crate::model::journal::{Row, What};
use crate::model::lock::{Holder, Life, LockView, Purpose};
use crate::model::name::HostName;
use crate::model::promote::RolloutRow;
use crate::model::roll::RollId;
use crate::world::journal::{Journal, JournalError, Rows};
use crate::world::lock::{FleetLock, LockNote, Taken};

/// Journal and lock in memory.
#[derive(Debug, Default)]
pub struct FakeJournal {
    pub rows: Mutex<Vec<Row>>,
    pub rollouts: Mutex<Vec<RolloutRow>>,
    pub lock: Mutex<Option<(Holder, u64)>>,
    pub life: Mutex<Option<Life>>,
    pub notes: Mutex<Vec<LockNote>>,
    /// So many more rows fit on the disk.
    pub room: Mutex<Option<usize>>,
    /// Something was not written for lack of room.
    pub gaps: Mutex<bool>,
}

impl FakeJournal {
    pub fn whats(&self, host: &str) -> Vec<What> {
        let rows = self.rows.lock().unwrap();
        rows.iter()
            .filter(|row| row.host.as_ref().is_some_and(|name| name.as_str() == host))
            .map(|row| row.what.clone())
            .collect()
    }

    /// The process is gone; what it wrote is not.
    pub fn kill(&self) {
        *self.life.lock().unwrap() = Some(Life::Gone);
    }

    fn view_of(&self, (holder, beats): &(Holder, u64)) -> Box<LockView> {
        let life = match &holder.purpose {
            Purpose::Person { .. } => Life::Alive,
            _ => self.life.lock().unwrap().unwrap_or(Life::Alive),
        };
        Box::new(LockView { holder: holder.clone(), beats: *beats, life })
    }

    pub(super) fn fits(&self) -> Result<(), JournalError> {
        if let Some(room) = &mut *self.room.lock().unwrap() {
            let Some(left) = room.checked_sub(1) else {
                *self.gaps.lock().unwrap() = true;
                return Err(JournalError::Full { path: "/fake.db".into() });
            };
            *room = left;
        }
        Ok(())
    }

    pub(super) fn held_by(&self, holder: &Holder) -> Result<(), JournalError> {
        match &*self.lock.lock().unwrap() {
            Some((held, _)) if held == holder => Ok(()),
            held => {
                Err(JournalError::LockLost { holder: held.as_ref().map(|(held, _)| Box::new(held.clone())) })
            }
        }
    }
}

impl Journal for FakeJournal {
    fn append(
        &self,
        holder: &Holder,
        roll: &RollId,
        host: Option<&HostName>,
        what: &What,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        self.held_by(holder)?;
        self.fits()?;
        let row = Row { roll: roll.clone(), at: now, host: host.cloned(), what: what.clone() };
        self.rows.lock().unwrap().push(row);
        Ok(())
    }

    fn last(&self) -> Result<Option<RollId>, JournalError> {
        Ok(self.rolls(1)?.pop())
    }

    fn rows(&self, roll: &RollId) -> Result<Rows, JournalError> {
        Ok(self.rows.lock().unwrap().iter().filter(|row| &row.roll == roll).cloned().collect())
    }

    fn rolls(&self, limit: u32) -> Result<Vec<RollId>, JournalError> {
        let mut rolls: Vec<RollId> = self.rows.lock().unwrap().iter().map(|row| row.roll.clone()).collect();
        rolls.dedup();
        Ok(rolls.split_off(rolls.len().saturating_sub(usize::try_from(limit).unwrap())))
    }
}

impl FleetLock for FakeJournal {
    fn holder(&self, user: &str, purpose: Purpose, now: jiff::Timestamp) -> Holder {
        let (user, machine, boot) = (user.to_owned(), "desk".to_owned(), "boot".to_owned());
        Holder { user, machine, boot, pid: 1, started: 1, purpose, since: now }
    }

    fn take(&self, holder: &Holder, instead_of: Option<&LockView>) -> Result<Taken, JournalError> {
        let mut lock = self.lock.lock().unwrap();
        match &*lock {
            Some(held) if instead_of.is_none_or(|dead| (&dead.holder, dead.beats) != (&held.0, held.1)) => {
                Ok(Taken::Held(self.view_of(held)))
            }
            _ => {
                *lock = Some((holder.clone(), 0));
                *self.life.lock().unwrap() = None;
                Ok(Taken::Taken)
            }
        }
    }

    fn beat(&self, holder: &Holder) -> Result<(), JournalError> {
        self.held_by(holder)?;
        if let Some((_, beats)) = &mut *self.lock.lock().unwrap() {
            *beats += 1;
        }
        Ok(())
    }

    fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.held_by(holder)?;
        *self.lock.lock().unwrap() = None;
        Ok(())
    }

    fn view(&self) -> Result<Option<LockView>, JournalError> {
        Ok(self.lock.lock().unwrap().as_ref().map(|held| *self.view_of(held)))
    }

    fn note(&self, note: &LockNote) -> Result<(), JournalError> {
        self.notes.lock().unwrap().push(note.clone());
        Ok(())
    }

    fn notes(&self, _: u32) -> Result<Vec<LockNote>, JournalError> {
        Ok(self.notes.lock().unwrap().clone())
    }
}
