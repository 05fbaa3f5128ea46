//! `world::journal` and `world::lock` in one SQLite file beside the configuration.

use std::fs;
use std::path::PathBuf;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::sqlite::{Database, DbError};
use crate::model::journal::{JournalEntry, JournalEntryKind};
use crate::model::lock::{Holder, Liveness, LockPurpose, LockView};
use crate::model::name::HostName;
use crate::model::roll::RollId;
use crate::world::journal::{Journal, JournalEntries, JournalError};
use crate::world::lock::{AcquireResult, FleetLock, LockNote};

mod promotions;
mod schema;

use schema::SCHEMA;

/// The journal of one service's fleet.
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
            DbError::Open { path, why } => Self::Open { path, why },
            DbError::Newer { path, found, known } => Self::Newer { path, found, known },
            DbError::Full { path } => Self::Full { path },
            DbError::Damaged { path, why } => Self::Damaged { path, why },
            DbError::Failed { what, path, why } => Self::Failed { action: what, path, why },
        }
    }
}

impl Journal for SqliteJournal {
    fn append(
        &self,
        holder: &Holder,
        roll: &RollId,
        host: Option<&HostName>,
        what: &JournalEntryKind,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        let written = self.database.write("record a step", |transaction| {
            let held = read_holder(transaction)?.map(|(holder, _)| holder);
            if held.as_ref() != Some(holder) {
                return Ok(Err(new_lock_lost_error(held)));
            }
            let (host, now) = (host.map(HostName::as_str), now.to_string());
            let values = params![roll.as_str(), now, host, to_json(what)?];
            transaction
                .execute("INSERT INTO journal (roll, at, host, what) VALUES (?1, ?2, ?3, ?4)", values)
                .map(|_| Ok(()))
        });
        written?
    }

    fn last_roll(&self) -> Result<Option<RollId>, JournalError> {
        Ok(self.list_rolls(1)?.pop())
    }

    fn rows(&self, roll: &RollId) -> Result<JournalEntries, JournalError> {
        Ok(self.database.read("read the journal", |connection| {
            let sql = "SELECT roll, at, host, what FROM journal WHERE roll = ?1 ORDER BY id";
            connection.prepare(sql)?.query_map([roll.as_str()], read_entry)?.collect()
        })?)
    }

    fn list_rolls(&self, limit: u32) -> Result<Vec<RollId>, JournalError> {
        Ok(self.database.read("list the rolls", |connection| {
            let sql = "SELECT roll FROM (SELECT roll, min(id) AS first FROM journal GROUP BY roll
                       ORDER BY first DESC LIMIT ?1) ORDER BY first";
            connection.prepare(sql)?.query_map([limit], |row| parse_column(row, 0))?.collect()
        })?)
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

    fn take(&self, holder: &Holder, instead_of: Option<&LockView>) -> Result<AcquireResult, JournalError> {
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

    fn beat(&self, holder: &Holder) -> Result<(), JournalError> {
        self.execute_as_holder(holder, "give a sign of life", "UPDATE lock SET beats = beats + 1")
    }

    fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.execute_as_holder(holder, "release the lock", "DELETE FROM lock")
    }

    fn view(&self) -> Result<Option<LockView>, JournalError> {
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
    fn execute_as_holder(&self, holder: &Holder, what: &'static str, sql: &str) -> Result<(), JournalError> {
        self.database.write(what, |transaction| {
            let held = read_holder(transaction)?.map(|(holder, _)| holder);
            if held.as_ref() != Some(holder) {
                return Ok(Err(new_lock_lost_error(held)));
            }
            transaction.execute(sql, []).map(|_| Ok(()))
        })?
    }
}

fn new_lock_lost_error(held: Option<Holder>) -> JournalError {
    JournalError::LockLost { holder: held.map(Box::new) }
}

fn read_holder(connection: &Connection) -> rusqlite::Result<Option<(Holder, u64)>> {
    let beats = |row: &SqlRow<'_>| {
        u64::try_from(row.get::<_, i64>(1)?).map_err(|error| to_value_error(1, error.to_string()))
    };
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

fn read_entry(row: &SqlRow<'_>) -> rusqlite::Result<JournalEntry> {
    let host: Option<String> = row.get(2)?;
    let host = host.map(|_| parse_column(row, 2)).transpose()?;
    Ok(JournalEntry {
        roll: parse_column(row, 0)?,
        at: parse_column(row, 1)?,
        host,
        kind: parse_json(row, 3)?,
    })
}

fn parse_column<T: std::str::FromStr<Err: std::fmt::Display>>(
    row: &SqlRow<'_>,
    at: usize,
) -> rusqlite::Result<T> {
    let text = row.get_ref(at)?.as_str()?;
    text.parse().map_err(|error: T::Err| to_value_error(at, error.to_string()))
}

fn parse_json<T: DeserializeOwned>(row: &SqlRow<'_>, at: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(at)?.as_str()?).map_err(|error| to_value_error(at, error.to_string()))
}

fn to_value_error(at: usize, why: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, Type::Text, why.into())
}

fn to_json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

#[cfg(test)]
mod tests;
