//! The fleet's lock. It is in the same file as the journal, so that each write to the journal can check the holder.

use crate::model::lock::{Holder, LockPurpose, LockView};

use super::journal::JournalError;

/// The result of an attempt to take the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcquireResult {
    Acquired,
    Busy(Box<LockView>),
}

/// Something that was done to the lock, for the history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LockNote {
    pub at: jiff::Timestamp,
    pub user: String,
    pub text: String,
}

pub trait FleetLock: Send + Sync {
    /// This process, as the holder of a lock it may take.
    fn holder(&self, user: &str, purpose: LockPurpose, now: jiff::Timestamp) -> Holder;

    /// Takes the lock when it is free, or held exactly as in `instead_of`: of two who see the same stale lock one wins,
    /// and the loser removes nothing.
    fn acquire(&self, holder: &Holder, instead_of: Option<&LockView>) -> Result<AcquireResult, JournalError>;

    /// Writes a heartbeat. Fails when another holder has the lock by now.
    fn send_heartbeat(&self, holder: &Holder) -> Result<(), JournalError>;

    /// Releases the lock if this holder has it. Otherwise the error names the holder.
    fn release(&self, holder: &Holder) -> Result<(), JournalError>;

    fn read_holder(&self) -> Result<Option<LockView>, JournalError>;

    fn add_note(&self, note: &LockNote) -> Result<(), JournalError>;

    /// The latest `limit` notes, oldest first.
    fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError>;
}
