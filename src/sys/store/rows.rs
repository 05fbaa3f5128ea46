//! Rows <-> values. A value in the file that is not one of ours is an error, never a guess.

use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::model::caller::Caller;
use crate::model::deployment::{Access, Deployment};
use crate::model::forward::ServiceRecord;
use crate::model::history::{Actor, HistoryEntry, OperationId, Phase};
use crate::model::name::ServiceName;
use crate::model::port_forward::{Forward, Switch};
use crate::model::ports::Port;
use crate::model::proxy::Layer7;
use crate::model::registration::RegistrationState;
use crate::model::roll::RollId;

pub(super) const SELECT_FORWARDS: &str = "SELECT service, check_port, target_port, switch, from_self, generation, changed_at, routes, access, trial, layer7, owner FROM forwards ORDER BY service";

pub(super) const SELECT_PROXIED: &str = "SELECT service, check_port, target_port, switch, from_self, generation, changed_at, routes, access, trial, layer7, owner FROM forwards WHERE layer7 IS NOT NULL ORDER BY service";

pub(super) const SELECT_TRIALS: &str =
    "SELECT service, trial FROM forwards WHERE trial IS NOT NULL ORDER BY service";

pub(super) const SELECT_REGISTRATIONS: &str = "SELECT service, body FROM registrations ORDER BY service";

/// ?1: service or NULL for all; ?2: how many.
pub(super) const SELECT_HISTORY: &str = "SELECT * FROM (
    SELECT id, operation, at, user, pid, service, action, phase, detail, machine, purpose, roll, caller FROM history
    WHERE ?1 IS NULL OR service = ?1 ORDER BY id DESC LIMIT ?2) ORDER BY id";

/// ?1: the action. The history is read whole, a few rows a day of it.
pub(super) const COUNT_DONE: &str =
    "SELECT service, count(*) FROM history WHERE action = ?1 AND phase = 'done' GROUP BY service";

pub(super) fn read_record(row: &Row<'_>) -> rusqlite::Result<ServiceRecord> {
    let forward =
        Forward { service: parse_text(row, 0)?, check: parse_port(row, 1)?, target: parse_port(row, 2)? };
    let switch = match row.get_ref(3)?.as_str()? {
        "on" => Switch::On,
        "off" => Switch::Off,
        other => return Err(to_value_error(3, other)),
    };
    Ok(ServiceRecord {
        forward,
        switch,
        balancer_is_local: row.get(4)?,
        generation: row.get(5)?,
        changed_at: parse_text(row, 6)?,
        routes: parse_optional_json(row, 7)?,
        access: match row.get_ref(8)?.as_str()? {
            "public" => Access::Public,
            "private" => Access::Private,
            other => return Err(to_value_error(8, other)),
        },
        trial: parse_optional_json(row, 9)?,
        layer7: parse_optional_json(row, 10)?.unwrap_or_default(),
        owner: parse_optional_json(row, 11)?,
    })
}

/// The record of one service.
pub(super) fn find_record(
    connection: &Connection,
    service: &ServiceName,
) -> rusqlite::Result<Option<ServiceRecord>> {
    let all =
        connection.prepare(SELECT_FORWARDS)?.query_map([], read_record)?.collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().find(|record| &record.forward.service == service))
}

pub(super) fn put_deployment(connection: &Connection, deployment: &Deployment) -> rusqlite::Result<()> {
    let Deployment { id, service, version, .. } = deployment;
    let body = to_json(deployment)?;
    // A version that is there under another id is an error of the caller: UNIQUE (service, version).
    let sql = "INSERT INTO deployments VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE SET body = ?4";
    connection.execute(sql, params![id.as_str(), service.as_str(), version.to_string(), body]).map(|_| ())
}

pub(super) fn find_registration(
    connection: &Connection,
    service: &ServiceName,
) -> rusqlite::Result<RegistrationState> {
    let sql = "SELECT body FROM registrations WHERE service = ?1";
    let found = connection.query_row(sql, [service.as_str()], |row| parse_json(row, 0)).optional()?;
    Ok(found.unwrap_or_default())
}

pub(super) fn put_registration(
    connection: &Connection,
    service: &ServiceName,
    state: &RegistrationState,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO registrations VALUES (?1, ?2)";
    connection.execute(sql, params![service.as_str(), to_json(state)?]).map(|_| ())
}

fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn parse_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let found = row.get_ref(column)?.as_str()?;
    serde_json::from_str(found).map_err(|error| to_value_error(column, &format!("{found} ({error})")))
}

fn parse_optional_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => parse_json(row, column).map(Some),
    }
}

pub(super) fn put_record(connection: &Connection, recorded: &ServiceRecord) -> rusqlite::Result<()> {
    let ServiceRecord {
        forward,
        switch,
        balancer_is_local: from_self,
        generation,
        changed_at,
        routes,
        access,
        trial,
        layer7,
        owner,
    } = recorded;
    let layer7 = (*layer7 != Layer7::default()).then_some(layer7);
    let access = if *access == Access::Public { "public" } else { "private" };
    connection
        .execute(
            "INSERT OR REPLACE INTO forwards VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                forward.service.as_str(),
                forward.check.get(),
                forward.target.get(),
                switch.as_str(),
                from_self,
                generation,
                changed_at.to_string(),
                routes.as_ref().map(to_json).transpose()?,
                access,
                trial.as_ref().map(to_json).transpose()?,
                layer7.map(to_json).transpose()?,
                owner.as_ref().map(to_json).transpose()?,
            ],
        )
        .map(|_| ())
}

pub(super) fn append_entry(connection: &Connection, entry: &HistoryEntry) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO history (operation, at, user, pid, service, action, phase, detail, machine,
                 purpose, roll, caller)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                entry.operation.0,
                entry.at.to_string(),
                entry.actor.user,
                entry.actor.pid,
                entry.service.as_str(),
                entry.action,
                entry.phase.as_str(),
                entry.detail,
                entry.actor.machine,
                entry.actor.purpose,
                entry.actor.roll.as_ref().map(RollId::to_string),
                entry.caller.as_ref().map(to_json).transpose()?,
            ],
        )
        .map(|_| ())
}

/// An operation is called by the id of its first row.
pub(super) fn read_next_operation(connection: &Connection) -> rusqlite::Result<OperationId> {
    connection
        .query_row("SELECT coalesce(max(id), 0) + 1 FROM history", [], |row| row.get(0))
        .map(OperationId)
}

pub(super) fn find_began_entry(
    connection: &Connection,
    operation: OperationId,
) -> rusqlite::Result<HistoryEntry> {
    connection.query_row(
        "SELECT id, operation, at, user, pid, service, action, phase, detail, machine, purpose, roll, caller FROM history
         WHERE operation = ?1 AND phase = 'began'",
        [operation.0],
        read_entry,
    )
}

pub(super) fn read_entry(row: &Row<'_>) -> rusqlite::Result<HistoryEntry> {
    let phase = match row.get_ref(7)?.as_str()? {
        "began" => Phase::Began,
        "done" => Phase::Done,
        "failed" => Phase::Failed,
        other => return Err(to_value_error(7, other)),
    };
    let caller: Option<Caller> = parse_optional_json(row, 12)?;
    Ok(HistoryEntry {
        operation: OperationId(row.get(1)?),
        at: parse_text(row, 2)?,
        actor: Actor {
            machine: row.get(9)?,
            purpose: row.get(10)?,
            roll: row.get::<_, Option<String>>(11)?.map(|_| parse_text(row, 11)).transpose()?,
            ..Actor::new(row.get::<_, String>(3)?, row.get(4)?)
        },
        caller,
        service: parse_text(row, 5)?,
        action: row.get(6)?,
        phase,
        detail: row.get(8)?,
    })
}

pub(super) fn parse_text<T: FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let found = row.get_ref(column)?.as_str()?;
    found.parse().map_err(|_| to_value_error(column, found))
}

fn parse_port(row: &Row<'_>, column: usize) -> rusqlite::Result<Port> {
    let number: u16 = row.get(column)?;
    Port::new(number).ok_or_else(|| to_value_error(column, "0"))
}

fn to_value_error(column: usize, found: &str) -> rusqlite::Error {
    let error = FromSqlError::Other(format!("unexpected value `{found}`").into());
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
