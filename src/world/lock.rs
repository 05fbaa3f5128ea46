//! The fleet's lock. It is in the same store as the journal, so that each write to the journal can check the holder.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::journal_store::{Acquisition, JournalError, JournalStore};
use crate::model::journal_record::LockRecord;
use crate::model::lock::{Holder, Liveness, LockNote, LockPurpose, LockView};

/// The result of an attempt to take the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcquireResult {
    Acquired,
    Busy(Box<LockView>),
}

/// How often a holder of this machine is looked up while a command waits for its lock.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(500);

/// Knows this process, and which other processes run on this machine.
pub trait HolderIdentity: Send + Sync {
    /// This process, as the holder of a lock it may take.
    fn holder(&self, user: &str, purpose: LockPurpose, now: jiff::Timestamp) -> Holder;

    fn detect_liveness(&self, holder: &Holder) -> Liveness;
}

/// The lock of a fleet, as this process sees it.
#[derive(Clone)]
pub struct FleetLock {
    store: Arc<dyn JournalStore>,
    identity: Arc<dyn HolderIdentity>,
    /// The rest of the time that this command may wait for the lock. A command that takes it twice has one limit.
    wait_budget: Arc<Mutex<Duration>>,
}

impl FleetLock {
    pub fn new(store: Arc<dyn JournalStore>, identity: Arc<dyn HolderIdentity>) -> Self {
        Self { store, identity, wait_budget: Arc::default() }
    }

    /// The same lock for a command that may wait for it.
    #[must_use]
    pub fn with_wait_limit(self, limit: Duration) -> Self {
        Self { wait_budget: Arc::new(Mutex::new(limit)), ..self }
    }

    /// The rest of the time that this command may wait.
    pub fn wait_budget(&self) -> Duration {
        *self.wait_budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a wait off the budget.
    pub fn spend_wait(&self, waited: Duration) {
        let mut budget = self.wait_budget.lock().unwrap_or_else(PoisonError::into_inner);
        *budget = budget.saturating_sub(waited);
    }

    /// Returns when the lock may differ from `seen`, when its holder is a dead process of this machine, and at the latest after
    /// `timeout`.
    pub async fn wait_for_change(&self, seen: &LockView, timeout: Duration) -> Result<(), JournalError> {
        let record = to_record(seen);
        tokio::select! {
            changed = self.store.wait_for_lock_change(Some(&record), timeout) => changed,
            () = self.wait_for_death(&seen.holder) => Ok(()),
        }
    }

    async fn wait_for_death(&self, holder: &Holder) {
        while self.identity.detect_liveness(holder) != Liveness::Dead {
            tokio::time::sleep(LIVENESS_INTERVAL).await;
        }
    }

    /// The store of the lock, which keeps the journals too.
    pub fn store(&self) -> &Arc<dyn JournalStore> {
        &self.store
    }

    /// This process, as the holder of a lock it may take.
    pub fn holder(&self, user: &str, purpose: LockPurpose, now: jiff::Timestamp) -> Holder {
        self.identity.holder(user, purpose, now)
    }

    /// Takes the lock when it is free, or held exactly as in `instead_of`.
    pub async fn acquire(
        &self,
        holder: &Holder,
        instead_of: Option<&LockView>,
    ) -> Result<AcquireResult, JournalError> {
        let expected = instead_of.map(to_record);
        match self.store.acquire(holder, expected.as_ref()).await? {
            Acquisition::Acquired => Ok(AcquireResult::Acquired),
            Acquisition::Busy(held) => Ok(AcquireResult::Busy(Box::new(self.view(*held)))),
        }
    }

    /// Writes a heartbeat. Fails when another holder has the lock by now.
    pub async fn send_heartbeat(&self, holder: &Holder) -> Result<(), JournalError> {
        self.store.renew(holder).await
    }

    /// Releases the lock if this holder has it. Otherwise the error names the holder.
    pub async fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.store.release(holder).await
    }

    /// Releases the lock of a process that is about to end.
    pub fn release_at_exit(&self, holder: &Holder) {
        self.store.release_at_exit(holder);
    }

    pub async fn read_holder(&self) -> Result<Option<LockView>, JournalError> {
        Ok(self.store.read_lock().await?.map(|held| self.view(held)))
    }

    pub async fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        self.store.add_note(note).await
    }

    /// The latest `limit` notes, oldest first.
    pub async fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError> {
        self.store.load_notes(limit).await
    }

    fn view(&self, held: LockRecord) -> LockView {
        let liveness = self.identity.detect_liveness(&held.holder);
        LockView { holder: held.holder, heartbeats: held.heartbeats, liveness }
    }
}

fn to_record(view: &LockView) -> LockRecord {
    LockRecord { holder: view.holder.clone(), heartbeats: view.heartbeats }
}
