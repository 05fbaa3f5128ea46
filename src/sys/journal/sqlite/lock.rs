//! The lock as the one row of its table.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow};

use super::columns::{parse_json, to_json, to_value_error};
use crate::model::journal_record::LockRecord;
use crate::model::lock::Holder;

pub fn read(connection: &Connection) -> rusqlite::Result<Option<LockRecord>> {
    let beats =
        |row: &SqlRow<'_>| u64::try_from(row.get::<_, i64>(1)?).map_err(|error| to_value_error(1, &error));
    let read = |row: &SqlRow<'_>| Ok(LockRecord { holder: parse_json(row, 0)?, heartbeats: beats(row)? });
    connection.query_row("SELECT holder, beats FROM lock", [], read).optional()
}

pub fn replace(connection: &Connection, holder: &Holder) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO lock VALUES (1, ?1, 0)";
    connection.execute(sql, [to_json(holder)?]).map(|_| ())
}

pub fn count_heartbeat(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE lock SET beats = beats + 1", []).map(|_| ())
}

pub fn delete(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM lock", []).map(|_| ())
}
