//! A journal store in one SQLite file, by default beside the configuration.

use std::path::PathBuf;

use async_trait::async_trait;
use rusqlite::{Connection, Transaction};

use crate::model::journal_record::{LockRecord, Log, StoredEntry};
use crate::model::lock::{Holder, LockNote};
use crate::sys::sqlite::{Database, DbError};
use crate::world::journal_store::{Acquisition, JournalError, JournalStore};

pub(super) mod columns;
pub(super) mod entries;
pub(super) mod lock;
pub(super) mod notes;
pub(super) mod schema;

use schema::SCHEMA;

/// The journals and the lock of one service's fleet. A call blocks for about a millisecond.
#[derive(Debug)]
pub struct SqliteJournal {
    database: Database,
    file: PathBuf,
}

impl SqliteJournal {
    pub fn new(file: PathBuf) -> Self {
        Self { database: Database::new(file.clone(), SCHEMA), file }
    }
}

impl From<DbError> for JournalError {
    fn from(error: DbError) -> Self {
        let label = |path: PathBuf| format!("`{}`", path.display());
        match error {
            DbError::Open { path, reason } => Self::Open { path, reason },
            DbError::Newer { path, found, known } => Self::Newer { store: label(path), found, known },
            DbError::Full { path } => Self::Full { store: label(path) },
            DbError::Damaged { path, reason } => Self::Damaged { store: label(path), reason },
            DbError::Failed { what, path, reason } => {
                Self::Failed { action: what, store: label(path), reason }
            }
        }
    }
}

#[async_trait]
impl JournalStore for SqliteJournal {
    fn label(&self) -> String {
        format!("`{}`", self.file.display())
    }

    async fn acquire(
        &self,
        holder: &Holder,
        instead_of: Option<&LockRecord>,
    ) -> Result<Acquisition, JournalError> {
        Ok(self.database.write("take the lock", |transaction| match lock::read(transaction)? {
            Some(held) if held.holder == *holder => Ok(Acquisition::Acquired),
            Some(held) if Some(&held) != instead_of => Ok(Acquisition::Busy(Box::new(held))),
            _ => lock::replace(transaction, holder).map(|()| Acquisition::Acquired),
        })?)
    }

    async fn renew(&self, holder: &Holder) -> Result<(), JournalError> {
        self.write_as_holder(holder, "renew the lock", |transaction| lock::count_heartbeat(transaction))
    }

    async fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.write_as_holder(holder, "release the lock", |transaction| lock::delete(transaction))
    }

    fn release_at_exit(&self, holder: &Holder) {
        let released =
            self.write_as_holder(holder, "release the lock", |transaction| lock::delete(transaction));
        if let Err(error) = released {
            log::debug!("{error}");
        }
    }

    async fn read_lock(&self) -> Result<Option<LockRecord>, JournalError> {
        Ok(self.database.read("read the lock", lock::read)?)
    }

    async fn append(
        &self,
        holder: Option<&Holder>,
        log: Log,
        entry: &StoredEntry,
    ) -> Result<(), JournalError> {
        match holder {
            Some(holder) => self.write_as_holder(holder, "record a step", |transaction| {
                entries::insert(transaction, log, entry)
            }),
            None => Ok(self.database.write("record the request of an operator", |transaction| {
                entries::insert(transaction, log, entry)
            })?),
        }
    }

    async fn load(&self, log: Log, id: &str, skip: usize) -> Result<Vec<StoredEntry>, JournalError> {
        let select = |connection: &Connection| entries::select(connection, log, id, skip);
        Ok(self.database.read("read the journal", select)?)
    }

    async fn list(&self, log: Log, limit: u32) -> Result<Vec<String>, JournalError> {
        let select = |connection: &Connection| entries::select_ids(connection, log, limit);
        Ok(self.database.read("list the entries", select)?)
    }

    async fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        let insert = |transaction: &Transaction<'_>| notes::insert(transaction, note);
        Ok(self.database.write("note what was done to the lock", insert)?)
    }

    async fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError> {
        let select = |connection: &Connection| notes::select(connection, limit);
        Ok(self.database.read("read the notes on the lock", select)?)
    }
}

impl SqliteJournal {
    /// Writes in the same transaction in which the lock is found to be the holder's.
    fn write_as_holder(
        &self,
        holder: &Holder,
        action: &'static str,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), JournalError> {
        self.database.write(action, |transaction| {
            let held = lock::read(transaction)?.map(|held| held.holder);
            if held.as_ref() != Some(holder) {
                return Ok(Err(JournalError::LockLost { holder: held.map(Box::new) }));
            }
            write(transaction).map(Ok)
        })?
    }
}

#[cfg(test)]
mod tests;
