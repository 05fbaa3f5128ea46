//! The fleet's journal: beside the configuration, shared by all who use that file.

use std::path::PathBuf;

use crate::model::journal::{JournalEntry, JournalEntryKind};
use crate::model::lock::Holder;
use crate::model::name::HostName;
use crate::model::roll::RollId;

/// Why the journal could not be read or written. After a failed write nothing of it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("cannot open the journal `{path}`: {why}")]
    Open { path: PathBuf, why: String },
    #[error("the journal `{path}` has schema {found}; this switchman reads up to {known}")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the disk that holds the journal `{path}` is full")]
    Full { path: PathBuf },
    #[error("the journal `{path}` is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("cannot {action} in `{path}`: {why}")]
    Failed { action: &'static str, path: PathBuf, why: String },
    /// An operator released the lock by force, or took it over.
    #[error("the fleet lock was lost: it is held by {}", .holder.as_ref().map_or("no process".to_owned(), ToString::to_string))]
    LockLost { holder: Option<Box<Holder>> },
}

/// The rows of one roll, oldest first.
pub type JournalEntries = Vec<JournalEntry>;

/// Every write is durable when the call returns. Writes take a millisecond, so they block.
pub trait Journal: Send + Sync {
    /// Adds one row if `holder` still holds the lock. A process that has lost the lock must not go on.
    fn append(
        &self,
        holder: &Holder,
        roll: &RollId,
        host: Option<&HostName>,
        subject: &JournalEntryKind,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError>;

    /// The latest roll.
    fn last_roll(&self) -> Result<Option<RollId>, JournalError>;

    fn rows(&self, roll: &RollId) -> Result<JournalEntries, JournalError>;

    /// The latest `limit` rolls, oldest first.
    fn list_rolls(&self, limit: u32) -> Result<Vec<RollId>, JournalError>;
}
