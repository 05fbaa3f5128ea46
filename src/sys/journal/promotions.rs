//! `world::promotions`, beside the journal of rolls and the lock.

use rusqlite::{OptionalExtension, Row as SqlRow, Transaction, params};

use super::{
    SqliteJournal, new_lock_lost_error, parse_column, parse_json, read_holder, to_json, to_value_error,
};
use crate::model::history::Actor;
use crate::model::lock::Holder;
use crate::model::promote::{OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionId};
use crate::world::journal::JournalError;
use crate::world::promotions::PromotionJournal;

impl PromotionJournal for SqliteJournal {
    fn append(
        &self,
        holder: &Holder,
        promotion: &PromotionId,
        what: &PromotionEntryKind,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        let written = self.database.write("record a step", |transaction| {
            let held = read_holder(transaction)?.map(|(holder, _)| holder);
            if held.as_ref() != Some(holder) {
                return Ok(Err(new_lock_lost_error(held)));
            }
            insert_entry(transaction, promotion, what, now).map(Ok)
        });
        written?
    }

    fn ask(
        &self,
        promotion: &PromotionId,
        ask: OperatorRequest,
        actor: &Actor,
        now: jiff::Timestamp,
    ) -> Result<(), JournalError> {
        let what = PromotionEntryKind::Requested { ask, actor: actor.clone() };
        let write = |transaction: &Transaction<'_>| insert_entry(transaction, promotion, &what, now);
        Ok(self.database.write("record the request of an operator", write)?)
    }

    fn last_promotion(&self) -> Result<Option<PromotionId>, JournalError> {
        Ok(self.database.read("find the last promotion", |connection| {
            let sql = "SELECT promotion FROM promotions GROUP BY promotion ORDER BY min(number) DESC LIMIT 1";
            connection.query_row(sql, [], |row| parse_column(row, 0)).optional()
        })?)
    }

    fn rows(&self, promotion: &PromotionId, after: u64) -> Result<Vec<PromotionEntry>, JournalError> {
        Ok(self.database.read("read the journal", |connection| {
            let sql = "SELECT number, promotion, at, what FROM promotions
                       WHERE promotion = ?1 AND number > ?2 ORDER BY number";
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            connection.prepare(sql)?.query_map(params![promotion.as_str(), after], read_entry)?.collect()
        })?)
    }
}

fn insert_entry(
    transaction: &Transaction<'_>,
    promotion: &PromotionId,
    what: &PromotionEntryKind,
    now: jiff::Timestamp,
) -> rusqlite::Result<()> {
    let values = params![promotion.as_str(), now.to_string(), to_json(what)?];
    let sql = "INSERT INTO promotions (promotion, at, what) VALUES (?1, ?2, ?3)";
    transaction.execute(sql, values).map(|_| ())
}

fn read_entry(row: &SqlRow<'_>) -> rusqlite::Result<PromotionEntry> {
    let number = row.get::<_, i64>(0)?;
    let number = u64::try_from(number).map_err(|error| to_value_error(0, error.to_string()))?;
    Ok(PromotionEntry {
        number,
        promotion: parse_column(row, 1)?,
        at: parse_column(row, 2)?,
        kind: parse_json(row, 3)?,
    })
}
