//! The place that keeps a fleet's journals and its lock: a file, another machine, or a server that several operators share.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::journal_record::{LockRecord, Log, StoredEntry};
use crate::model::lock::{Holder, LockNote};

/// How often the lock is read while a caller waits for it.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Why the journal could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("cannot open the journal `{path}`: {reason}")]
    Open { path: PathBuf, reason: String },
    #[error("the journal {store} has schema {found}; this switchman reads up to {known}")]
    Newer { store: String, found: i64, known: i64 },
    #[error("the disk that holds the journal {store} is full")]
    Full { store: String },
    #[error("the journal {store} is damaged: {reason}")]
    Damaged { store: String, reason: String },
    /// After a failed write nothing of it is recorded.
    #[error("cannot {action} in {store}: {reason}")]
    Failed { action: &'static str, store: String, reason: String },
    /// A server answered, and refused. Nothing is recorded.
    #[error("cannot {action} in {store}: {reason}")]
    Refused { action: &'static str, store: String, reason: String },
    /// A write that was under way may or may not be recorded.
    #[error("cannot {action} in {store}: no answer: {reason}")]
    Unreachable { action: &'static str, store: String, reason: String },
    /// The machine that keeps the journal was not reached by ssh. A write that was under way before may or may not be recorded.
    #[error("cannot {action} in {store}: {reason}")]
    NotConnected { action: &'static str, store: String, reason: String, advice: String },
    /// The machine that keeps the journal has a switchman of another version. Nothing is recorded.
    #[error("cannot {action} in {store}: {reason}")]
    OtherVersion { action: &'static str, store: String, reason: String },
    /// The machine that keeps the journal does not let its user have the directory. Nothing is recorded.
    #[error("cannot use `{}` of {store} as the user `{user}`: {reason}", .directory.display())]
    Denied { store: String, directory: PathBuf, user: String, reason: String },
    /// An operator released the lock by force, or took it over, or it expired.
    #[error("the fleet lock was lost: it is held by {}", .holder.as_ref().map_or("no process".to_owned(), ToString::to_string))]
    LockLost { holder: Option<Box<Holder>> },
}

/// The result of an attempt to take the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquisition {
    Acquired,
    Busy(Box<LockRecord>),
}

/// Every call is bounded in time by the adapter. A write is durable when the call returns, and whole or not there at all.
///
/// The holder is the fencing token: it names one process of one boot of one machine at one time, and no write of a holder is
/// accepted after the lock is free or another's.
#[async_trait]
pub trait JournalStore: Send + Sync {
    /// The store for people: `` `.switchman/shop.db` ``, `PostgreSQL at db1`.
    fn label(&self) -> String;

    /// Takes the lock when it is free, or held exactly as in `instead_of`: of two who see the same stale lock one wins, and the
    /// loser removes nothing. Idempotent for the holder that has it already.
    async fn acquire(
        &self,
        holder: &Holder,
        instead_of: Option<&LockRecord>,
    ) -> Result<Acquisition, JournalError>;

    /// Counts the heartbeats up. Fails when another holder has the lock by now.
    async fn renew(&self, holder: &Holder) -> Result<(), JournalError>;

    /// Releases the lock if this holder has it. Otherwise the error names the holder.
    async fn release(&self, holder: &Holder) -> Result<(), JournalError>;

    /// Releases the lock of a process that is about to end, within 2 s and without the caller's runtime. A store that cannot
    /// do so leaves the lock to be found silent.
    fn release_at_exit(&self, holder: &Holder);

    async fn read_lock(&self) -> Result<Option<LockRecord>, JournalError>;

    /// Returns when the lock may differ from `seen`, and at the latest after `timeout`. A store that cannot tell reads it again
    /// and again.
    async fn wait_for_lock_change(
        &self,
        seen: Option<&LockRecord>,
        timeout: Duration,
    ) -> Result<(), JournalError> {
        let deadline = tokio::time::Instant::now() + timeout;
        while self.read_lock().await?.as_ref() == seen && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOCK_POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Adds an entry; with a holder, only if it has the lock in the same transaction.
    async fn append(
        &self,
        holder: Option<&Holder>,
        log: Log,
        entry: &StoredEntry,
    ) -> Result<(), JournalError>;

    /// Returns the entries of one id, oldest first, without the first `skip`.
    async fn load(&self, log: Log, id: &str, skip: usize) -> Result<Vec<StoredEntry>, JournalError>;

    /// Returns the latest `limit` ids by their first entry, oldest first.
    async fn list(&self, log: Log, limit: u32) -> Result<Vec<String>, JournalError>;

    async fn add_note(&self, note: &LockNote) -> Result<(), JournalError>;

    /// The latest `limit` notes, oldest first.
    async fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError>;
}
