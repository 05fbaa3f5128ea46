//! The fleet's lock, in the same file as its journal: what one of them says, the other knows.

use crate::model::lock::{Holder, LockPurpose, LockView};

use super::journal::JournalError;

/// What came of trying to take the lock.
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
    fn take(&self, holder: &Holder, instead_of: Option<&LockView>) -> Result<AcquireResult, JournalError>;

    /// A sign of life; an error when the lock is somebody else's by now.
    fn beat(&self, holder: &Holder) -> Result<(), JournalError>;

    /// Gives the lock back if this holder has it; else the error says who does.
    fn release(&self, holder: &Holder) -> Result<(), JournalError>;

    fn view(&self) -> Result<Option<LockView>, JournalError>;

    fn add_note(&self, note: &LockNote) -> Result<(), JournalError>;

    /// The latest `limit` notes, oldest first.
    fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError>;
}
