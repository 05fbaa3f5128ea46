//! A journal store in one SQLite file, by default beside the configuration.

use std::path::PathBuf;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, Transaction, params};

use crate::model::lock::{Holder, LockNote};
use crate::sys::sqlite::{Database, DbError};
use crate::world::journal_store::{Acquisition, JournalError, JournalStore, LockRecord, Log, StoredEntry};

mod columns;
mod entries;
mod schema;

use columns::{parse_column, parse_json, to_json, to_value_error};
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
        Ok(self.database.write("take the lock", |transaction| match read_lock(transaction)? {
            Some(held) if held.holder == *holder => Ok(Acquisition::Acquired),
            Some(held) if Some(&held) != instead_of => Ok(Acquisition::Busy(Box::new(held))),
            _ => {
                let sql = "INSERT OR REPLACE INTO lock VALUES (1, ?1, 0)";
                transaction.execute(sql, [to_json(holder)?]).map(|_| Acquisition::Acquired)
            }
        })?)
    }

    async fn renew(&self, holder: &Holder) -> Result<(), JournalError> {
        self.execute_as_holder(holder, "give a sign of life", "UPDATE lock SET beats = beats + 1")
    }

    async fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.execute_as_holder(holder, "release the lock", "DELETE FROM lock")
    }

    fn release_at_exit(&self, holder: &Holder) {
        if let Err(error) = self.execute_as_holder(holder, "release the lock", "DELETE FROM lock") {
            log::debug!("{error}");
        }
    }

    async fn read_lock(&self) -> Result<Option<LockRecord>, JournalError> {
        Ok(self.database.read("read the lock", read_lock)?)
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
        Ok(self.database.read("list the journal", select)?)
    }

    async fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        Ok(self.database.write("note what was done to the lock", |transaction| {
            let values = params![note.at.to_string(), note.user, note.text];
            transaction.execute("INSERT INTO notes (at, user, text) VALUES (?1, ?2, ?3)", values).map(|_| ())
        })?)
    }

    async fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError> {
        Ok(self.database.read("read the notes on the lock", |connection| {
            let sql =
                "SELECT at, user, text FROM (SELECT * FROM notes ORDER BY id DESC LIMIT ?1) ORDER BY id";
            let note = |row: &SqlRow<'_>| {
                Ok(LockNote { at: parse_column(row, 0)?, user: row.get(1)?, text: row.get(2)? })
            };
            connection.prepare(sql)?.query_map([limit], note)?.collect()
        })?)
    }
}

impl SqliteJournal {
    fn execute_as_holder(
        &self,
        holder: &Holder,
        action: &'static str,
        sql: &str,
    ) -> Result<(), JournalError> {
        self.write_as_holder(holder, action, |transaction| transaction.execute(sql, []).map(|_| ()))
    }

    /// Writes in the same transaction in which the lock is found to be the holder's.
    fn write_as_holder(
        &self,
        holder: &Holder,
        action: &'static str,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), JournalError> {
        self.database.write(action, |transaction| {
            let held = read_lock(transaction)?.map(|held| held.holder);
            if held.as_ref() != Some(holder) {
                return Ok(Err(JournalError::LockLost { holder: held.map(Box::new) }));
            }
            write(transaction).map(Ok)
        })?
    }
}

fn read_lock(connection: &Connection) -> rusqlite::Result<Option<LockRecord>> {
    let beats =
        |row: &SqlRow<'_>| u64::try_from(row.get::<_, i64>(1)?).map_err(|error| to_value_error(1, &error));
    let read = |row: &SqlRow<'_>| Ok(LockRecord { holder: parse_json(row, 0)?, heartbeats: beats(row)? });
    connection.query_row("SELECT holder, beats FROM lock", [], read).optional()
}

#[cfg(test)]
mod tests;
