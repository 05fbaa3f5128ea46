//! The entries of rolls and of promotions as rows of their tables.

use std::fmt::Display;
use std::str::FromStr;

use rusqlite::types::Value;
use rusqlite::{Connection, Row as SqlRow, params_from_iter};

use super::columns::{parse_column, parse_json, to_json};
use crate::model::journal::RollEntry;
use crate::model::promote::PromotionEntry;
use crate::world::journal::Record;

/// An entry that is a row of a table.
pub trait StoredRecord: Record<Id: Display + FromStr<Err: Display>> {
    const TABLE: &'static str;
    /// The column that orders the entries.
    const NUMBER: &'static str;
    /// The column of [`Record::id`].
    const KEY: &'static str;
    /// All columns but the number, in the order of the values.
    const COLUMNS: &'static [&'static str];

    fn to_values(&self) -> rusqlite::Result<Vec<Value>>;

    fn from_row(row: &SqlRow<'_>) -> rusqlite::Result<Self>;
}

impl StoredRecord for RollEntry {
    const TABLE: &'static str = "journal";
    const NUMBER: &'static str = "id";
    const KEY: &'static str = "roll";
    const COLUMNS: &'static [&'static str] = &["roll", "at", "host", "what"];

    fn to_values(&self) -> rusqlite::Result<Vec<Value>> {
        let host = self.host.as_ref().map(ToString::to_string);
        Ok(vec![
            self.roll.to_string().into(),
            self.at.to_string().into(),
            host.into(),
            to_json(&self.kind)?.into(),
        ])
    }

    fn from_row(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        let host: Option<String> = row.get(2)?;
        let host = host.map(|_| parse_column(row, 2)).transpose()?;
        Ok(Self { roll: parse_column(row, 0)?, at: parse_column(row, 1)?, host, kind: parse_json(row, 3)? })
    }
}

impl StoredRecord for PromotionEntry {
    const TABLE: &'static str = "promotions";
    const NUMBER: &'static str = "number";
    const KEY: &'static str = "promotion";
    const COLUMNS: &'static [&'static str] = &["promotion", "at", "what"];

    fn to_values(&self) -> rusqlite::Result<Vec<Value>> {
        Ok(vec![self.promotion.to_string().into(), self.at.to_string().into(), to_json(&self.kind)?.into()])
    }

    fn from_row(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        Ok(Self { promotion: parse_column(row, 0)?, at: parse_column(row, 1)?, kind: parse_json(row, 2)? })
    }
}

pub(super) fn insert<R: StoredRecord>(connection: &Connection, entry: &R) -> rusqlite::Result<()> {
    let values = entry.to_values()?;
    let (table, columns, marks) = (R::TABLE, R::COLUMNS.join(", "), vec!["?"; values.len()].join(", "));
    let sql = format!("INSERT INTO {table} ({columns}) VALUES ({marks})");
    connection.execute(&sql, params_from_iter(values)).map(|_| ())
}

/// Reads the entries of one id, oldest first, without the first `skip`.
pub(super) fn select<R: StoredRecord>(
    connection: &Connection,
    id: &R::Id,
    skip: usize,
) -> rusqlite::Result<Vec<R>> {
    let (table, key, number, columns) = (R::TABLE, R::KEY, R::NUMBER, R::COLUMNS.join(", "));
    // A table of entries only grows, so that the first ones stay the first ones.
    let sql = format!("SELECT {columns} FROM {table} WHERE {key} = ?1 ORDER BY {number} LIMIT -1 OFFSET ?2");
    let skip = i64::try_from(skip).unwrap_or(i64::MAX);
    connection.prepare(&sql)?.query_map((id.to_string(), skip), R::from_row)?.collect()
}

/// Reads the latest ids, oldest first.
pub(super) fn select_ids<R: StoredRecord>(
    connection: &Connection,
    limit: u32,
) -> rusqlite::Result<Vec<R::Id>> {
    let (table, key, number) = (R::TABLE, R::KEY, R::NUMBER);
    let sql = format!(
        "SELECT {key} FROM (SELECT {key}, min({number}) AS first FROM {table} GROUP BY {key}
         ORDER BY first DESC LIMIT ?1) ORDER BY first"
    );
    connection.prepare(&sql)?.query_map([limit], |row| parse_column(row, 0))?.collect()
}
