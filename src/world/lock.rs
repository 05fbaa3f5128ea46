//! The fleet's lock. It is in the same store as the journal, so that each write to the journal can check the holder.

use std::sync::Arc;

use super::journal_store::{Acquisition, JournalError, JournalStore};
use crate::model::journal_record::LockRecord;
use crate::model::lock::{Holder, Liveness, LockNote, LockPurpose, LockView};

/// The result of an attempt to take the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcquireResult {
    Acquired,
    Busy(Box<LockView>),
}

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
}

impl FleetLock {
    pub fn new(store: Arc<dyn JournalStore>, identity: Arc<dyn HolderIdentity>) -> Self {
        Self { store, identity }
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
