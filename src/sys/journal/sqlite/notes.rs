//! The notes on the lock as rows of their table.

use rusqlite::{Connection, Row as SqlRow, params};

use super::columns::parse_column;
use crate::model::lock::LockNote;

pub fn insert(connection: &Connection, note: &LockNote) -> rusqlite::Result<()> {
    let values = params![note.at.to_string(), note.user, note.text];
    connection.execute("INSERT INTO notes (at, user, text) VALUES (?1, ?2, ?3)", values).map(|_| ())
}

/// Reads the latest notes, oldest first.
pub fn select(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<LockNote>> {
    let sql = "SELECT at, user, text FROM (SELECT * FROM notes ORDER BY id DESC LIMIT ?1) ORDER BY id";
    let note =
        |row: &SqlRow<'_>| Ok(LockNote { at: parse_column(row, 0)?, user: row.get(1)?, text: row.get(2)? });
    connection.prepare(sql)?.query_map([limit], note)?.collect()
}
