//! `world::journal` and `world::lock` in one SQLite file beside the configuration.

use std::fs;
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, Transaction, params};

use super::sqlite::{Database, DbError};
use crate::model::lock::{Holder, Liveness, LockPurpose, LockView};
use crate::world::journal::{Journal, JournalError};
use crate::world::lock::{AcquireResult, FleetLock, LockNote};

mod columns;
mod records;
mod schema;

use columns::{parse_column, parse_json, to_json, to_value_error};
use records::StoredRecord;
use schema::SCHEMA;

/// The journals and the lock of one service's fleet.
#[derive(Debug)]
pub struct SqliteJournal {
    database: Database,
}

impl SqliteJournal {
    pub fn new(file: PathBuf) -> Self {
        Self { database: Database::new(file, SCHEMA) }
    }
}

impl From<DbError> for JournalError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Open { path, reason } => Self::Open { path, reason },
            DbError::Newer { path, found, known } => Self::Newer { path, found, known },
            DbError::Full { path } => Self::Full { path },
            DbError::Damaged { path, reason } => Self::Damaged { path, reason },
            DbError::Failed { what, path, reason } => Self::Failed { action: what, path, reason },
        }
    }
}

impl<R: StoredRecord> Journal<R> for SqliteJournal {
    fn append(&self, holder: &Holder, entry: &R) -> Result<(), JournalError> {
        self.write_as_holder(holder, "record a step", |transaction| records::insert(transaction, entry))
    }

    fn append_request(&self, request: R::Request) -> Result<(), JournalError> {
        let entry: R = request.into();
        let write = |transaction: &Transaction<'_>| records::insert(transaction, &entry);
        Ok(self.database.write("record the request of an operator", write)?)
    }

    fn load(&self, id: &R::Id, skip: usize) -> Result<Vec<R>, JournalError> {
        let select = |connection: &Connection| records::select(connection, id, skip);
        Ok(self.database.read("read the journal", select)?)
    }

    fn list(&self, limit: u32) -> Result<Vec<R::Id>, JournalError> {
        let select = |connection: &Connection| records::select_ids::<R>(connection, limit);
        Ok(self.database.read("list the journal", select)?)
    }
}

impl FleetLock for SqliteJournal {
    fn holder(&self, user: &str, purpose: LockPurpose, now: jiff::Timestamp) -> Holder {
        let pid = std::process::id();
        Holder {
            user: user.to_owned(),
            machine: read_machine_name(),
            boot_id: read_boot_id(),
            pid,
            start_ticks: read_start_time(pid).unwrap_or(0),
            purpose,
            since: now,
        }
    }

    fn acquire(&self, holder: &Holder, instead_of: Option<&LockView>) -> Result<AcquireResult, JournalError> {
        Ok(self.database.write("take the lock", |transaction| {
            let expected = instead_of.map(|view| (view.holder.clone(), view.heartbeats));
            match read_holder(transaction)? {
                Some(held) if Some(&held) != expected.as_ref() => {
                    Ok(AcquireResult::Busy(Box::new(build_lock_view(held))))
                }
                _ => {
                    let sql = "INSERT OR REPLACE INTO lock VALUES (1, ?1, 0)";
                    transaction.execute(sql, [to_json(holder)?]).map(|_| AcquireResult::Acquired)
                }
            }
        })?)
    }

    fn send_heartbeat(&self, holder: &Holder) -> Result<(), JournalError> {
        self.execute_as_holder(holder, "give a sign of life", "UPDATE lock SET beats = beats + 1")
    }

    fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.execute_as_holder(holder, "release the lock", "DELETE FROM lock")
    }

    fn read_holder(&self) -> Result<Option<LockView>, JournalError> {
        Ok(self.database.read("read the lock", read_holder)?.map(build_lock_view))
    }

    fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        Ok(self.database.write("note what was done to the lock", |transaction| {
            let values = params![note.at.to_string(), note.user, note.text];
            transaction.execute("INSERT INTO notes (at, user, text) VALUES (?1, ?2, ?3)", values).map(|_| ())
        })?)
    }

    fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError> {
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
            let held = read_holder(transaction)?.map(|(holder, _)| holder);
            if held.as_ref() != Some(holder) {
                return Ok(Err(JournalError::LockLost { holder: held.map(Box::new) }));
            }
            write(transaction).map(Ok)
        })?
    }
}

fn read_holder(connection: &Connection) -> rusqlite::Result<Option<(Holder, u64)>> {
    let beats =
        |row: &SqlRow<'_>| u64::try_from(row.get::<_, i64>(1)?).map_err(|error| to_value_error(1, &error));
    let read = |row: &SqlRow<'_>| Ok((parse_json(row, 0)?, beats(row)?));
    connection.query_row("SELECT holder, beats FROM lock", [], read).optional()
}

fn build_lock_view((holder, beats): (Holder, u64)) -> LockView {
    let life = detect_life(&holder);
    LockView { holder, heartbeats: beats, liveness: life }
}

fn detect_life(holder: &Holder) -> Liveness {
    match &holder.purpose {
        LockPurpose::Operator { .. } => Liveness::Live,
        _ if holder.machine != read_machine_name() => Liveness::Remote,
        _ if holder.boot_id == read_boot_id() && read_start_time(holder.pid) == Some(holder.start_ticks) => {
            Liveness::Live
        }
        _ => Liveness::Dead,
    }
}

fn read_machine_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// proc(5): field 22 of /proc/PID/stat, counted behind the name, which may hold blanks and brackets.
fn read_start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    // A zombie does nothing any more.
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests;
