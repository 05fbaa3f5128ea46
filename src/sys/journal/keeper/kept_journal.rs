//! A journal that is kept for operators on other machines: the SQLite journal, with a lease for the lock and tokens of writes.
//!
//! The tables of both are added to the file of the journal. A switchman that opens the file as its own ignores them.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::BootTime;
use crate::model::api::journal::{JournalAnswer, JournalCall};
use crate::model::journal_record::StoredEntry;
use crate::model::lock::{Holder, LockPurpose};
use crate::sys::journal::sqlite::columns::to_json;
use crate::sys::journal::sqlite::schema::SCHEMA;
use crate::sys::journal::sqlite::{entries, lock, notes};
use crate::sys::sqlite::{Database, DbError};

/// How long the lock of a process outlives its last heartbeat, of which one comes every 2 s: longer than ssh takes to notice a dead
/// connection (15 s) and to make another one (10 s).
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// Tokens that are remembered; a client repeats a write for seconds.
const MAX_TOKENS: i64 = 10_000;
/// Bytes of entries in an answer, except for one larger entry.
const MAX_ANSWER_BYTES: usize = 512 * 1024;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS leases (holder TEXT PRIMARY KEY, boot_id TEXT NOT NULL, ends_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS tokens (number INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE) STRICT;";

#[derive(Debug)]
pub(super) struct KeptJournal {
    database: Database,
}

impl KeptJournal {
    pub fn new(file: PathBuf) -> Self {
        Self { database: Database::new(file, SCHEMA) }
    }

    pub fn carry_out(&self, call: &JournalCall, now: &BootTime) -> Result<JournalAnswer, DbError> {
        if call.is_write() {
            return self.database.write(call.name(), |transaction| {
                transaction.execute_batch(TABLES)?;
                end_lease(transaction, now)?;
                write(transaction, call, now)
            });
        }
        // What is read where there is no file is empty.
        let read = self.database.read(call.name(), |connection| {
            if matches!(call, JournalCall::ReadLock) && has_leases(connection)? {
                end_lease(connection, now)?;
            }
            read(connection, call).map(Some)
        })?;
        Ok(read.unwrap_or_else(|| make_empty_answer(call)))
    }
}

fn make_empty_answer(call: &JournalCall) -> JournalAnswer {
    match call {
        JournalCall::Load { .. } => JournalAnswer::Entries { entries: vec![], has_more: false },
        JournalCall::List { .. } => JournalAnswer::Ids { ids: vec![] },
        JournalCall::LoadNotes { .. } => JournalAnswer::Notes { notes: vec![] },
        _ => JournalAnswer::Lock { held: None },
    }
}

fn read(connection: &Connection, call: &JournalCall) -> rusqlite::Result<JournalAnswer> {
    Ok(match call {
        JournalCall::Load { log, id, skip } => {
            let skip = usize::try_from(*skip).unwrap_or(usize::MAX);
            limit_answer(entries::select(connection, *log, id, skip)?)
        }
        JournalCall::List { log, limit } => {
            JournalAnswer::Ids { ids: entries::select_ids(connection, *log, *limit)? }
        }
        JournalCall::LoadNotes { limit } => {
            JournalAnswer::Notes { notes: notes::select(connection, *limit)? }
        }
        _ => JournalAnswer::Lock { held: lock::read(connection)?.map(Box::new) },
    })
}

fn limit_answer(mut entries: Vec<StoredEntry>) -> JournalAnswer {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += entry.what.len();
        bytes <= MAX_ANSWER_BYTES
    });
    let count = fitting.count().max(1);
    let has_more = entries.len() > count;
    entries.truncate(count);
    JournalAnswer::Entries { entries, has_more }
}

fn write(
    transaction: &Transaction<'_>,
    call: &JournalCall,
    now: &BootTime,
) -> rusqlite::Result<JournalAnswer> {
    if let Some(token) = call.token()
        && !remember_token(transaction, token)?
    {
        return Ok(JournalAnswer::Done);
    }
    let held = lock::read(transaction)?;
    if let JournalCall::Acquire { holder, instead_of } = call {
        return match held {
            Some(held) if held.holder != **holder && Some(&held) != instead_of.as_deref() => {
                Ok(JournalAnswer::Busy { held: Box::new(held) })
            }
            held => {
                if held.is_none_or(|held| held.holder != **holder) {
                    lock::replace(transaction, holder)?;
                }
                renew_lease(transaction, holder, now)?;
                Ok(JournalAnswer::Done)
            }
        };
    }
    if let Some(holder) = call.holder()
        && held.as_ref().is_none_or(|held| held.holder != *holder)
    {
        forget_token(transaction, call)?;
        return Ok(JournalAnswer::LockLost { holder: held.map(|held| Box::new(held.holder)) });
    }
    match call {
        JournalCall::Renew { holder } => {
            lock::count_heartbeat(transaction)?;
            renew_lease(transaction, holder, now)?;
        }
        JournalCall::Release { .. } => lock::delete(transaction)?,
        JournalCall::Append { log, entry, .. } => entries::insert(transaction, *log, entry)?,
        JournalCall::AddNote { note, .. } => notes::insert(transaction, note)?,
        _ => {}
    }
    Ok(JournalAnswer::Done)
}

fn has_leases(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'leases'";
    connection.query_row(sql, [], |_| Ok(())).optional().map(|found| found.is_some())
}

/// Releases a lock whose lease has ended. A lease of an earlier boot has an unknown rest, and begins again.
fn end_lease(connection: &Connection, now: &BootTime) -> rusqlite::Result<()> {
    let ends = now.millis.saturating_add(lease_millis());
    connection.execute(
        "UPDATE leases SET boot_id = ?1, ends_ms = ?2 WHERE boot_id <> ?1",
        params![now.boot_id, ends],
    )?;
    let sql = "DELETE FROM lock WHERE holder IN (SELECT holder FROM leases WHERE ends_ms <= ?1)";
    connection.execute(sql, [now.millis]).map(|_| ())
}

/// Begins the lease of a process. A person's lock has no process that could renew it, and no lease.
fn renew_lease(transaction: &Transaction<'_>, holder: &Holder, now: &BootTime) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM leases", [])?;
    if matches!(holder.purpose, LockPurpose::Operator { .. }) {
        return Ok(());
    }
    let values = params![to_json(holder)?, now.boot_id, now.millis.saturating_add(lease_millis())];
    transaction.execute("INSERT INTO leases VALUES (?1, ?2, ?3)", values).map(|_| ())
}

fn lease_millis() -> i64 {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}

/// False when the token is known: the write was carried out, and its answer lost.
fn remember_token(transaction: &Transaction<'_>, token: &str) -> rusqlite::Result<bool> {
    let is_new = transaction.execute("INSERT OR IGNORE INTO tokens (token) VALUES (?1)", [token])? == 1;
    if is_new {
        let last = transaction.last_insert_rowid();
        transaction.execute("DELETE FROM tokens WHERE number <= ?1", [last - MAX_TOKENS])?;
    }
    Ok(is_new)
}

/// A write that was refused may succeed when it is sent again.
fn forget_token(transaction: &Transaction<'_>, call: &JournalCall) -> rusqlite::Result<()> {
    let Some(token) = call.token() else { return Ok(()) };
    transaction.execute("DELETE FROM tokens WHERE token = ?1", [token]).map(|_| ())
}

#[cfg(test)]
mod tests;
