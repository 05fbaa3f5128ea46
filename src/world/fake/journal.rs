//! The journals and their lock in memory, on a disk that can be full.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::model::journal::{RollEntry, RollEntryKind};
use crate::model::journal_record::{LockRecord, Log, StoredEntry};
use crate::model::lock::{Holder, Liveness, LockNote, LockPurpose};
use crate::model::promote::PromotionEntry;
use crate::world::journal::Record;
use crate::world::journal_store::{Acquisition, JournalError, JournalStore};
use crate::world::lock::{FleetLock, HolderIdentity};

/// What happens to each call of a store that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// It never arrives.
    RequestLost,
    /// It is carried out, and the caller never learns that.
    AnswerLost,
}

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
    fault: Mutex<Option<StoreFault>>,
    /// A call was lost: a lock may be left, although its process has ended.
    pub has_lost_calls: Mutex<bool>,
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

    /// Lets the store be out of reach from now on, or be reachable again.
    pub fn set_unreachable(&self, fault: Option<StoreFault>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Calls `read` as if the store could be reached.
    pub fn read_reachable<T>(&self, read: impl FnOnce() -> T) -> T {
        let fault = self.fault.lock().unwrap().take();
        let found = read();
        *self.fault.lock().unwrap() = fault;
        found
    }

    /// Makes a call over a network that may lose it.
    fn call<T>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let fault = *self.fault.lock().unwrap();
        let done = if fault == Some(StoreFault::RequestLost) { None } else { Some(work()) };
        *self.has_lost_calls.lock().unwrap() |= fault.is_some();
        let (store, reason) = (self.label(), "timed out".to_owned());
        done.filter(|_| fault.is_none()).unwrap_or(Err(JournalError::Unreachable { action, store, reason }))
    }

    pub fn fleet_lock(self: &Arc<Self>) -> FleetLock {
        FleetLock::new(self.clone(), self.clone())
    }

    fn read_record(&self) -> Option<LockRecord> {
        let lock = self.lock.lock().unwrap();
        lock.as_ref().map(|(holder, beats)| LockRecord { holder: holder.clone(), heartbeats: *beats })
    }

    fn check_space(&self) -> Result<(), JournalError> {
        if let Some(room) = &mut *self.free_entries.lock().unwrap() {
            let Some(left) = room.checked_sub(1) else {
                *self.has_gaps.lock().unwrap() = true;
                return Err(JournalError::Full { store: "`/fake.db`".into() });
            };
            *room = left;
        }
        Ok(())
    }

    fn check_holder(&self, holder: &Holder) -> Result<(), JournalError> {
        match self.read_record() {
            Some(held) if held.holder == *holder => Ok(()),
            held => Err(JournalError::LockLost { holder: held.map(|held| Box::new(held.holder)) }),
        }
    }
}

fn store<R: Record>(entry: &R) -> StoredEntry {
    let what = serde_json::to_string(entry.kind()).unwrap();
    StoredEntry { id: entry.id().to_string(), at: entry.at(), host: entry.host().cloned(), what }
}

fn restore<R: Record>(entry: &StoredEntry) -> R {
    let id = entry.id.parse().map_err(|_| "no id").unwrap();
    R::from_parts(id, entry.at, entry.host.clone(), serde_json::from_str(&entry.what).unwrap())
}

impl HolderIdentity for FakeJournal {
    fn holder(&self, user: &str, purpose: LockPurpose, now: jiff::Timestamp) -> Holder {
        let (user, machine, boot) = (user.to_owned(), "desk".to_owned(), "boot".to_owned());
        let pid_namespace = String::new();
        Holder { user, machine, boot_id: boot, pid: 1, start_ticks: 1, pid_namespace, purpose, since: now }
    }

    fn detect_liveness(&self, holder: &Holder) -> Liveness {
        match &holder.purpose {
            LockPurpose::Operator { .. } => Liveness::Live,
            _ => self.liveness.lock().unwrap().unwrap_or(Liveness::Live),
        }
    }
}

#[async_trait]
impl JournalStore for FakeJournal {
    fn label(&self) -> String {
        "`/fake.db`".to_owned()
    }

    async fn acquire(
        &self,
        holder: &Holder,
        instead_of: Option<&LockRecord>,
    ) -> Result<Acquisition, JournalError> {
        self.call("take the lock", || match self.read_record() {
            Some(held) if held.holder == *holder => Ok(Acquisition::Acquired),
            Some(held) if Some(&held) != instead_of => Ok(Acquisition::Busy(Box::new(held))),
            _ => {
                *self.lock.lock().unwrap() = Some((holder.clone(), 0));
                *self.liveness.lock().unwrap() = None;
                Ok(Acquisition::Acquired)
            }
        })
    }

    async fn renew(&self, holder: &Holder) -> Result<(), JournalError> {
        self.call("give a sign of life", || {
            self.check_holder(holder)?;
            if let Some((_, beats)) = &mut *self.lock.lock().unwrap() {
                *beats += 1;
            }
            Ok(())
        })
    }

    async fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.call("release the lock", || {
            self.check_holder(holder)?;
            *self.lock.lock().unwrap() = None;
            Ok(())
        })
    }

    fn release_at_exit(&self, holder: &Holder) {
        // A process whose store is out of reach leaves its lock.
        let _ = self.call("release the lock", || {
            self.check_holder(holder)?;
            *self.lock.lock().unwrap() = None;
            Ok(())
        });
    }

    async fn read_lock(&self) -> Result<Option<LockRecord>, JournalError> {
        self.call("read the lock", || Ok(self.read_record()))
    }

    async fn append(
        &self,
        holder: Option<&Holder>,
        log: Log,
        entry: &StoredEntry,
    ) -> Result<(), JournalError> {
        let appended = self.call("record a step", || {
            if let Some(holder) = holder {
                self.check_holder(holder)?;
                self.check_space()?;
            }
            match log {
                Log::Rolls => self.rolls.lock().unwrap().push(restore(entry)),
                Log::Promotions => self.promotions.lock().unwrap().push(restore(entry)),
                Log::Outputs => {}
            }
            Ok(())
        });
        *self.has_gaps.lock().unwrap() |= matches!(appended, Err(JournalError::Unreachable { .. }));
        appended
    }

    async fn load(&self, log: Log, id: &str, skip: usize) -> Result<Vec<StoredEntry>, JournalError> {
        let entries: Vec<StoredEntry> = self.call("read the journal", || {
            Ok(match log {
                Log::Rolls => self.rolls.lock().unwrap().iter().map(store).collect(),
                Log::Promotions => self.promotions.lock().unwrap().iter().map(store).collect(),
                Log::Outputs => vec![],
            })
        })?;
        Ok(entries.into_iter().filter(|entry| entry.id == id).skip(skip).collect())
    }

    async fn list(&self, log: Log, limit: u32) -> Result<Vec<String>, JournalError> {
        let all: Vec<String> = self.call("list the journal", || {
            Ok(match log {
                Log::Rolls => self.rolls.lock().unwrap().iter().map(|entry| entry.id().to_string()).collect(),
                Log::Promotions => {
                    self.promotions.lock().unwrap().iter().map(|entry| entry.id().to_string()).collect()
                }
                Log::Outputs => vec![],
            })
        })?;
        let mut ids: Vec<String> = Vec::new();
        for id in all {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids.split_off(ids.len().saturating_sub(usize::try_from(limit).unwrap())))
    }

    async fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        self.notes.lock().unwrap().push(note.clone());
        Ok(())
    }

    async fn load_notes(&self, _: u32) -> Result<Vec<LockNote>, JournalError> {
        Ok(self.notes.lock().unwrap().clone())
    }
}
