//! `world::rollouts`, beside the journal of rolls and the lock.

use rusqlite::{OptionalExtension, Row as SqlRow, Transaction, params};

use super::{SqliteJournal, from_json, held, json, lost, parse, unexpected};
use crate::model::history::Actor;
use crate::model::lock::Holder;
use crate::model::promote::{Ask, RolloutId, RolloutRow, RolloutWhat};
use crate::world::journal::JournalError;
use crate::world::promotions::Rollouts;

/// What a file of before there were roll-outs lacks.
pub(super) const TO_2: &str = "
    CREATE TABLE rollouts (
        number INTEGER PRIMARY KEY AUTOINCREMENT, rollout TEXT NOT NULL, at TEXT NOT NULL, what TEXT NOT NULL) STRICT;
    CREATE INDEX rollouts_by_rollout ON rollouts (rollout, number);
    CREATE TRIGGER rollouts_are_append_only BEFORE UPDATE ON rollouts
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TRIGGER rollouts_are_kept BEFORE DELETE ON rollouts
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    PRAGMA user_version = 2;";

impl Rollouts for SqliteJournal {
    fn append(
        &self,
        holder: &Holder,
        rollout: &RolloutId,
        what: &RolloutWhat,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        let written = self.database.write("record a step", |transaction| {
            let held = held(transaction)?.map(|(holder, _)| holder);
            if held.as_ref() != Some(holder) {
                return Ok(Err(lost(held)));
            }
            insert(transaction, rollout, what, now).map(Ok)
        });
        written?
    }

    fn ask(
        &self,
        rollout: &RolloutId,
        ask: Ask,
        actor: &Actor,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        let what = RolloutWhat::Asked { ask, actor: actor.clone() };
        let write = |transaction: &Transaction<'_>| insert(transaction, rollout, &what, now);
        Ok(self.database.write("record what is asked", write)?)
    }

    fn last(&self) -> Result<Option<RolloutId>, JournalError> {
        Ok(self.database.read("find the last roll-out", |connection| {
            let sql = "SELECT rollout FROM rollouts GROUP BY rollout ORDER BY min(number) DESC LIMIT 1";
            connection.query_row(sql, [], |row| parse(row, 0)).optional()
        })?)
    }

    fn rows(&self, rollout: &RolloutId, after: u64) -> Result<Vec<RolloutRow>, JournalError> {
        Ok(self.database.read("read the journal", |connection| {
            let sql = "SELECT number, rollout, at, what FROM rollouts
                       WHERE rollout = ?1 AND number > ?2 ORDER BY number";
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            connection.prepare(sql)?.query_map(params![rollout.as_str(), after], row)?.collect()
        })?)
    }
}

fn insert(
    transaction: &Transaction<'_>,
    rollout: &RolloutId,
    what: &RolloutWhat,
    now: jiff::Timestamp,
) -> rusqlite::Result<()> {
    let values = params![rollout.as_str(), now.to_string(), json(what)?];
    let sql = "INSERT INTO rollouts (rollout, at, what) VALUES (?1, ?2, ?3)";
    transaction.execute(sql, values).map(|_| ())
}

fn row(row: &SqlRow<'_>) -> rusqlite::Result<RolloutRow> {
    let number = row.get::<_, i64>(0)?;
    let number = u64::try_from(number).map_err(|error| unexpected(0, error.to_string()))?;
    Ok(RolloutRow { number, rollout: parse(row, 1)?, at: parse(row, 2)?, what: from_json(row, 3)? })
}
