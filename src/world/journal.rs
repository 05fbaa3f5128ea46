//! The fleet's journals, of rolls and of promotions: in a file beside the configuration, shared by all who use that file.

use std::convert::Infallible;
use std::path::PathBuf;

use crate::model::journal::RollEntry;
use crate::model::lock::Holder;
use crate::model::promote::{PromotionEntry, PromotionId, PromotionRequest};
use crate::model::roll::RollId;

/// Why the journal could not be read or written. After a failed write nothing of it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("cannot open the journal `{path}`: {reason}")]
    Open { path: PathBuf, reason: String },
    #[error("the journal `{path}` has schema {found}; this switchman reads up to {known}")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the disk that holds the journal `{path}` is full")]
    Full { path: PathBuf },
    #[error("the journal `{path}` is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("cannot {action} in `{path}`: {reason}")]
    Failed { action: &'static str, path: PathBuf, reason: String },
    /// An operator released the lock by force, or took it over.
    #[error("the fleet lock was lost: it is held by {}", .holder.as_ref().map_or("no process".to_owned(), ToString::to_string))]
    LockLost { holder: Option<Box<Holder>> },
}

/// An entry of a journal.
pub trait Record: Clone + Send + Sync + 'static {
    /// Identifies the roll or the promotion that an entry is about.
    type Id: Clone + PartialEq + Send + Sync + 'static;
    /// Something that any operator may add, without the lock.
    type Request: Into<Self>;

    fn id(&self) -> &Self::Id;
}

/// Every write is durable when the call returns. Writes take a millisecond, so they block.
pub trait Journal<R: Record>: Send + Sync {
    /// Adds an entry if `holder` still holds the lock. A process that has lost the lock must not go on.
    fn append(&self, holder: &Holder, entry: &R) -> Result<(), JournalError>;

    /// Adds an operator's request. It does not require the lock.
    fn append_request(&self, request: R::Request) -> Result<(), JournalError>;

    /// Returns the entries of one roll or promotion, oldest first, without the first `skip`.
    fn load(&self, id: &R::Id, skip: usize) -> Result<Vec<R>, JournalError>;

    /// Returns the latest `limit` rolls or promotions, oldest first.
    fn list(&self, limit: u32) -> Result<Vec<R::Id>, JournalError>;

    /// Returns the latest roll or promotion.
    fn find_last(&self) -> Result<Option<R::Id>, JournalError> {
        Ok(self.list(1)?.pop())
    }
}

impl Record for RollEntry {
    type Id = RollId;
    /// Only the holder of the lock adds to a roll.
    type Request = Infallible;

    fn id(&self) -> &RollId {
        &self.roll
    }
}

impl From<Infallible> for RollEntry {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Record for PromotionEntry {
    type Id = PromotionId;
    type Request = PromotionRequest;

    fn id(&self) -> &PromotionId {
        &self.promotion
    }
}
