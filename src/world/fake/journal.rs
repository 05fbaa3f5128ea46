//! The journals and their lock in memory, on a disk that can be full.

use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    /// It reaches a server that was cut off from the others of its cluster: reads return the old state, writes get no answer.
    OldLeader,
}

/// The state of the store when its old leader was cut off.
#[derive(Debug, Clone)]
struct OldState {
    rolls: usize,
    promotions: usize,
    lock: Option<LockRecord>,
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
    old_state: Mutex<Option<OldState>>,
    /// The time that each call and each answer takes.
    delay: Mutex<Duration>,
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
        let old = (fault == Some(StoreFault::OldLeader)).then(|| OldState {
            rolls: self.rolls.lock().unwrap().len(),
            promotions: self.promotions.lock().unwrap().len(),
            lock: self.read_record(),
        });
        *self.old_state.lock().unwrap() = old;
        *self.fault.lock().unwrap() = fault;
    }

    /// Lets each call, and each answer, take this long from now on.
    pub fn set_delay(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    /// Ends the lease of the holder, or gives the lock to another operator, while the holder works.
    pub fn lose_lock(&self, to: Option<Holder>) {
        *self.lock.lock().unwrap() = to.map(|holder| (holder, 0));
        *self.has_lost_calls.lock().unwrap() = true;
    }

    /// Removes the lock of this holder, if it has it.
    pub fn remove_lock(&self, of: &Holder) {
        let mut lock = self.lock.lock().unwrap();
        if lock.as_ref().is_some_and(|(holder, _)| holder == of) {
            *lock = None;
        }
    }

    async fn travel(&self) {
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// Calls `read` as if the store could be reached, and answered at once.
    pub fn read_reachable<T>(&self, read: impl FnOnce() -> T) -> T {
        let fault = self.fault.lock().unwrap().take();
        let delay = std::mem::take(&mut *self.delay.lock().unwrap());
        let found = read();
        *self.fault.lock().unwrap() = fault;
        *self.delay.lock().unwrap() = delay;
        found
    }

    /// Makes a call over a network that may lose it.
    fn call<T>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let fault = *self.fault.lock().unwrap();
        let is_lost = matches!(fault, Some(StoreFault::RequestLost | StoreFault::OldLeader));
        let done = if is_lost { None } else { Some(work()) };
        *self.has_lost_calls.lock().unwrap() |= fault.is_some();
        let (store, reason) = (self.label(), "timed out".to_owned());
        done.filter(|_| fault.is_none()).unwrap_or(Err(JournalError::Unreachable { action, store, reason }))
    }

    /// Makes a call that only reads: an old leader answers it from the state that it has.
    fn read<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(Option<OldState>) -> T,
    ) -> Result<T, JournalError> {
        if *self.fault.lock().unwrap() == Some(StoreFault::OldLeader) {
            return Ok(work(self.old_state.lock().unwrap().clone()));
        }
        self.call(action, || Ok(work(None)))
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
        self.travel().await;
        let taken = self.call("take the lock", || match self.read_record() {
            Some(held) if held.holder == *holder => Ok(Acquisition::Acquired),
            Some(held) if Some(&held) != instead_of => Ok(Acquisition::Busy(Box::new(held))),
            _ => {
                *self.lock.lock().unwrap() = Some((holder.clone(), 0));
                *self.liveness.lock().unwrap() = None;
                Ok(Acquisition::Acquired)
            }
        });
        self.travel().await;
        taken
    }

    async fn renew(&self, holder: &Holder) -> Result<(), JournalError> {
        self.travel().await;
        let renewed = self.call("renew the lock", || {
            self.check_holder(holder)?;
            if let Some((_, beats)) = &mut *self.lock.lock().unwrap() {
                *beats += 1;
            }
            Ok(())
        });
        self.travel().await;
        renewed
    }

    async fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.travel().await;
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
        self.travel().await;
        self.read("read the lock", |old| old.map_or_else(|| self.read_record(), |old| old.lock))
    }

    async fn append(
        &self,
        holder: Option<&Holder>,
        log: Log,
        entry: &StoredEntry,
    ) -> Result<(), JournalError> {
        self.travel().await;
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
        // A step that was done while the lock was lost is not recorded either.
        *self.has_gaps.lock().unwrap() |=
            matches!(appended, Err(JournalError::Unreachable { .. } | JournalError::LockLost { .. }));
        self.travel().await;
        appended
    }

    async fn load(&self, log: Log, id: &str, skip: usize) -> Result<Vec<StoredEntry>, JournalError> {
        self.travel().await;
        let entries: Vec<StoredEntry> = self.read("read the journal", |old| {
            let (rolls, promotions) = (self.rolls.lock().unwrap(), self.promotions.lock().unwrap());
            match log {
                Log::Rolls => rolls[..old.map_or(rolls.len(), |old| old.rolls)].iter().map(store).collect(),
                Log::Promotions => promotions[..old.map_or(promotions.len(), |old| old.promotions)]
                    .iter()
                    .map(store)
                    .collect(),
                Log::Outputs => vec![],
            }
        })?;
        Ok(entries.into_iter().filter(|entry| entry.id == id).skip(skip).collect())
    }

    async fn list(&self, log: Log, limit: u32) -> Result<Vec<String>, JournalError> {
        self.travel().await;
        let all: Vec<String> = self.read("list the entries", |old| {
            let (rolls, promotions) = (self.rolls.lock().unwrap(), self.promotions.lock().unwrap());
            match log {
                Log::Rolls => {
                    let known = &rolls[..old.map_or(rolls.len(), |old| old.rolls)];
                    known.iter().map(|entry| entry.id().to_string()).collect()
                }
                Log::Promotions => {
                    let known = &promotions[..old.map_or(promotions.len(), |old| old.promotions)];
                    known.iter().map(|entry| entry.id().to_string()).collect()
                }
                Log::Outputs => vec![],
            }
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
