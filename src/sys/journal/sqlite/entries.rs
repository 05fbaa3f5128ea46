//! The entries of rolls and of promotions as rows of their tables.

use rusqlite::{Connection, Row as SqlRow, params};

use super::columns::parse_column;
use crate::model::journal_record::{Log, StoredEntry};

/// The table of a journal that is shared, or was. A switchman that does not know it ignores it.
const OUTPUTS: &str = "
    CREATE TABLE IF NOT EXISTS outputs (
        number INTEGER PRIMARY KEY AUTOINCREMENT, roll TEXT NOT NULL, at TEXT NOT NULL, host TEXT, what TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS outputs_by_roll ON outputs (roll, number)";

fn has_table(connection: &Connection, log: Log) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'outputs'";
    Ok(log != Log::Outputs || connection.query_row(sql, [], |row| row.get::<_, i64>(0))? > 0)
}

pub fn insert(connection: &Connection, log: Log, entry: &StoredEntry) -> rusqlite::Result<()> {
    let StoredEntry { id, at, host, what } = entry;
    let host = host.as_ref().map(ToString::to_string);
    let at = at.to_string();
    match log {
        Log::Rolls => connection.execute(
            "INSERT INTO journal (roll, at, host, what) VALUES (?1, ?2, ?3, ?4)",
            params![id, at, host, what],
        ),
        Log::Promotions => connection.execute(
            "INSERT INTO promotions (promotion, at, what) VALUES (?1, ?2, ?3)",
            params![id, at, what],
        ),
        Log::Outputs => {
            connection.execute_batch(OUTPUTS)?;
            connection.execute(
                "INSERT INTO outputs (roll, at, host, what) VALUES (?1, ?2, ?3, ?4)",
                params![id, at, host, what],
            )
        }
    }
    .map(|_| ())
}

/// Reads the entries of one id, oldest first, without the first `skip`.
pub fn select(
    connection: &Connection,
    log: Log,
    id: &str,
    skip: usize,
) -> rusqlite::Result<Vec<StoredEntry>> {
    if !has_table(connection, log)? {
        return Ok(vec![]);
    }
    // A table of entries only grows, so that the first ones stay the first ones.
    let sql = match log {
        Log::Rolls => {
            "SELECT roll, at, host, what FROM journal WHERE roll = ?1 ORDER BY id LIMIT -1 OFFSET ?2"
        }
        Log::Promotions => {
            "SELECT promotion, at, NULL, what FROM promotions WHERE promotion = ?1 ORDER BY number LIMIT -1 OFFSET ?2"
        }
        Log::Outputs => {
            "SELECT roll, at, host, what FROM outputs WHERE roll = ?1 ORDER BY number LIMIT -1 OFFSET ?2"
        }
    };
    let skip = i64::try_from(skip).unwrap_or(i64::MAX);
    connection.prepare(sql)?.query_map(params![id, skip], read_entry)?.collect()
}

fn read_entry(row: &SqlRow<'_>) -> rusqlite::Result<StoredEntry> {
    let host: Option<String> = row.get(2)?;
    let host = host.map(|_| parse_column(row, 2)).transpose()?;
    Ok(StoredEntry { id: row.get(0)?, at: parse_column(row, 1)?, host, what: row.get(3)? })
}

/// Reads the latest ids, oldest first.
pub fn select_ids(connection: &Connection, log: Log, limit: u32) -> rusqlite::Result<Vec<String>> {
    if !has_table(connection, log)? {
        return Ok(vec![]);
    }
    let (table, key, number) = match log {
        Log::Rolls => ("journal", "roll", "id"),
        Log::Promotions => ("promotions", "promotion", "number"),
        Log::Outputs => ("outputs", "roll", "number"),
    };
    let sql = format!(
        "SELECT {key} FROM (SELECT {key}, min({number}) AS first FROM {table} GROUP BY {key}
         ORDER BY first DESC LIMIT ?1) ORDER BY first"
    );
    connection.prepare(&sql)?.query_map([limit], |row| row.get(0))?.collect()
}
