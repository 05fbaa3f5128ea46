//! `world::store` in one SQLite file of the host.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, Transaction, params};

use super::sqlite::{Database, DbError, Schema, make_dir};
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::forward::{Intent, ServiceRecord, Trial};
use crate::model::history::{Actor, HistoryEntry, OperationId, Phase};
use crate::model::name::ServiceName;
use crate::model::registration::RegistrationState;
use crate::world::deployments::DeploymentStore;
use crate::world::store::{ChangeOutcome, HistoryNote, LockGuard, Store, StoreError, StoreResult};

mod rows;

const SCHEMA: Schema = Schema {
    version: 8,
    create: CREATE,
    upgrades: &[
        UPGRADE_TO_2,
        UPGRADE_TO_3,
        UPGRADE_TO_4,
        UPGRADE_TO_5,
        UPGRADE_TO_6,
        UPGRADE_TO_7,
        UPGRADE_TO_8,
    ],
};

const CREATE: &str = "
    CREATE TABLE forwards (
        service TEXT PRIMARY KEY, check_port INTEGER NOT NULL, target_port INTEGER NOT NULL,
        switch TEXT NOT NULL CHECK (switch IN ('on', 'off')), from_self INTEGER NOT NULL,
        generation INTEGER NOT NULL, changed_at TEXT NOT NULL,
        routes TEXT, access TEXT NOT NULL DEFAULT 'public', trial TEXT, layer7 TEXT, owner TEXT) STRICT;
    CREATE TABLE deployments (
        id TEXT PRIMARY KEY, service TEXT NOT NULL, version TEXT NOT NULL, body TEXT NOT NULL,
        UNIQUE (service, version)) STRICT;
    CREATE TABLE history (
        id INTEGER PRIMARY KEY AUTOINCREMENT, operation INTEGER NOT NULL, at TEXT NOT NULL, user TEXT NOT NULL,
        pid INTEGER NOT NULL, service TEXT NOT NULL, action TEXT NOT NULL,
        phase TEXT NOT NULL CHECK (phase IN ('began', 'done', 'failed')), detail TEXT NOT NULL,
        machine TEXT NOT NULL DEFAULT '', purpose TEXT NOT NULL DEFAULT '', roll TEXT, caller TEXT) STRICT;
    CREATE TRIGGER history_is_append_only BEFORE UPDATE ON history
        BEGIN SELECT RAISE(ABORT, 'history is append-only'); END;
    CREATE TRIGGER history_is_kept BEFORE DELETE ON history
        BEGIN SELECT RAISE(ABORT, 'history is append-only'); END;
    CREATE INDEX trials ON forwards (service) WHERE trial IS NOT NULL;
    CREATE INDEX places ON forwards (service) WHERE layer7 IS NOT NULL;
    CREATE TABLE registrations (service TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    PRAGMA user_version = 8;";

/// Versions side by side: routes, access and trial as JSON; deployments.
const UPGRADE_TO_2: &str = "
    ALTER TABLE forwards ADD COLUMN routes TEXT;
    ALTER TABLE forwards ADD COLUMN access TEXT NOT NULL DEFAULT 'public';
    ALTER TABLE forwards ADD COLUMN trial TEXT;
    CREATE TABLE deployments (
        id TEXT PRIMARY KEY, service TEXT NOT NULL, version TEXT NOT NULL, body TEXT NOT NULL,
        UNIQUE (service, version)) STRICT;
    PRAGMA user_version = 2;";

/// Shadows and canaries as JSON.
const UPGRADE_TO_3: &str = "
    ALTER TABLE forwards ADD COLUMN layer7 TEXT;
    PRAGMA user_version = 3;";

/// Partial indexes: the queries that an agent sends every second read no row if there is none to find.
const UPGRADE_TO_4: &str = "
    CREATE INDEX trials ON forwards (service) WHERE trial IS NOT NULL;
    CREATE INDEX places ON forwards (service) WHERE layer7 IS NOT NULL;
    PRAGMA user_version = 4;";

/// The owner of a maintenance as JSON; the operator machine of each change.
const UPGRADE_TO_5: &str = "
    ALTER TABLE forwards ADD COLUMN owner TEXT;
    ALTER TABLE history ADD COLUMN machine TEXT NOT NULL DEFAULT '';
    PRAGMA user_version = 5;";

/// Why a change was made, and for which roll.
const UPGRADE_TO_6: &str = "
    ALTER TABLE history ADD COLUMN purpose TEXT NOT NULL DEFAULT '';
    ALTER TABLE history ADD COLUMN roll TEXT;
    PRAGMA user_version = 6;";

/// Registrations of services in a catalogue as JSON.
const UPGRADE_TO_7: &str = "
    CREATE TABLE registrations (service TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    PRAGMA user_version = 7;";

/// The client of each change as the host observed it, as JSON.
const UPGRADE_TO_8: &str = "
    ALTER TABLE history ADD COLUMN caller TEXT;
    PRAGMA user_version = 8;";

/// Interval between two attempts to take the lock of the host.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The state directory of this host. Nothing is made before the first write.
#[derive(Debug)]
pub struct SqliteStore {
    dir: PathBuf,
    database: Database,
}

impl SqliteStore {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let database = Database::new(dir.join("state.db"), SCHEMA);
        Self { dir, database }
    }

    fn write<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> StoreResult<T> {
        Ok(self.database.write(what, work)?)
    }

    fn read<T: Default>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> StoreResult<T> {
        Ok(self.database.read(what, work)?)
    }

    fn read_deployments(&self, select: &str, values: &[&dyn ToSql]) -> StoreResult<Vec<Deployment>> {
        self.read("read the deployments", |connection| {
            connection.prepare(select)?.query_map(values, |row| rows::parse_json(row, 0))?.collect()
        })
    }

    async fn acquire_lock(
        &self,
        name: &str,
        purpose: &str,
        patience: Duration,
    ) -> StoreResult<Box<dyn LockGuard>> {
        make_dir(&self.dir)?;
        let path = self.dir.join(name);
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(|error| to_store_error("open the lock", &path, &error))?;
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut held) => {
                    // Only for the words of the one who waits: the lock is the kernel's, not the text.
                    let _ = held.set_len(0).and_then(|()| held.rewind());
                    let _ = write!(held, "pid {}: {purpose}", std::process::id());
                    return Ok(Box::new(FileLockGuard { _lock: held }));
                }
                Err((mut back, nix::errno::Errno::EWOULDBLOCK)) => {
                    if tokio::time::Instant::now() >= deadline {
                        let mut holder = String::new();
                        let _ = back.rewind().and_then(|()| back.read_to_string(&mut holder));
                        return Err(StoreError::Busy { holder, waited: patience });
                    }
                    file = back;
                    tokio::time::sleep(LOCK_POLL_INTERVAL).await;
                }
                Err((_, error)) => return Err(to_store_error("lock", &path, &error.into())),
            }
        }
    }
}

impl From<DbError> for StoreError {
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

#[async_trait]
impl Store for SqliteStore {
    async fn lock(&self, purpose: &str, patience: Duration) -> StoreResult<Box<dyn LockGuard>> {
        self.acquire_lock("switch.lock", purpose, patience).await
    }

    async fn lock_proxy(&self, purpose: &str, patience: Duration) -> StoreResult<Box<dyn LockGuard>> {
        self.acquire_lock("proxy.lock", purpose, patience).await
    }

    fn load_records(&self) -> StoreResult<Vec<ServiceRecord>> {
        self.read("read the recorded forwards", |connection| {
            connection.prepare(rows::SELECT_FORWARDS)?.query_map([], rows::read_record)?.collect()
        })
    }

    /// The agent calls this every second: with none on trial, no row is read.
    fn load_trials(&self) -> StoreResult<Vec<(ServiceName, Trial)>> {
        self.read("read the mains on trial", |connection| {
            let trial = |row: &Row<'_>| Ok((rows::parse_text(row, 0)?, rows::parse_json(row, 1)?));
            connection.prepare(rows::SELECT_TRIALS)?.query_map([], trial)?.collect()
        })
    }

    /// The agent calls this often: without any proxy, no row is read.
    fn places(&self) -> StoreResult<Vec<ServiceRecord>> {
        let rows: Vec<ServiceRecord> = self.read("read the proxy's places", |connection| {
            connection.prepare(rows::SELECT_PROXIED)?.query_map([], rows::read_record)?.collect()
        })?;
        Ok(rows.into_iter().filter(|record| record.layer7.place.is_some()).collect())
    }

    fn begin(&self, intent: &Intent, now: jiff::Timestamp) -> StoreResult<(OperationId, ServiceRecord)> {
        self.write("record the change", |transaction| {
            let service = &intent.forward.service;
            let previous = rows::find_record(transaction, service)?;
            let recorded = ServiceRecord::from_intent(previous.as_ref(), intent, now);
            rows::put_record(transaction, &recorded)?;
            let operation = rows::read_next_operation(transaction)?;
            rows::append_entry(transaction, &intent.to_entry(operation, now))?;
            Ok((operation, recorded))
        })
    }

    fn end(
        &self,
        operation: OperationId,
        actor: &Actor,
        outcome: &ChangeOutcome,
        now: jiff::Timestamp,
    ) -> StoreResult<()> {
        self.write("record how the change ended", |transaction| {
            let began = rows::find_began_entry(transaction, operation)?;
            if let ChangeOutcome::RolledBack { previous, .. } = outcome {
                restore_previous(transaction, &began.service, previous.as_deref())?;
            }
            rows::append_entry(transaction, &outcome.to_entry(began, actor, now))
        })
    }

    fn add_phase(
        &self,
        note: &HistoryNote,
        phase: Phase,
        operation: Option<OperationId>,
        now: jiff::Timestamp,
    ) -> StoreResult<OperationId> {
        self.write("note what was done", |transaction| {
            let operation = operation.map_or_else(|| rows::read_next_operation(transaction), Ok)?;
            rows::append_entry(transaction, &note.to_entry(operation, phase, now))?;
            Ok(operation)
        })
    }

    fn done(&self, action: &str) -> StoreResult<BTreeMap<ServiceName, u64>> {
        self.read("count what was done", |connection| {
            let count = |row: &Row<'_>| {
                Ok((rows::parse_text(row, 0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default()))
            };
            connection.prepare(rows::COUNT_DONE)?.query_map([action], count)?.collect()
        })
    }

    fn load_registrations(&self) -> StoreResult<BTreeMap<ServiceName, RegistrationState>> {
        self.read("read the registrations", |connection| {
            let state = |row: &Row<'_>| Ok((rows::parse_text(row, 0)?, rows::parse_json(row, 1)?));
            connection.prepare(rows::SELECT_REGISTRATIONS)?.query_map([], state)?.collect()
        })
    }

    fn update_registration(
        &self,
        service: &ServiceName,
        change: &dyn Fn(&mut RegistrationState),
    ) -> StoreResult<()> {
        self.write("record a registration", |transaction| {
            let mut state = rows::find_registration(transaction, service)?;
            change(&mut state);
            rows::put_registration(transaction, service, &state)
        })
    }

    fn load_history(&self, service: Option<&ServiceName>, limit: u32) -> StoreResult<Vec<HistoryEntry>> {
        self.read("read the history", |connection| {
            let wanted = params![service.map(ServiceName::as_str), limit];
            connection.prepare(rows::SELECT_HISTORY)?.query_map(wanted, rows::read_entry)?.collect()
        })
    }
}

/// The generation goes on counting when a change is taken back: a waiting command sees that something happened.
fn restore_previous(
    transaction: &Transaction<'_>,
    service: &ServiceName,
    previous: Option<&ServiceRecord>,
) -> rusqlite::Result<()> {
    match previous {
        Some(previous) => {
            let generation = read_next_generation(transaction, service)?;
            rows::put_record(transaction, &ServiceRecord { generation, ..previous.clone() })
        }
        None => {
            transaction.execute("DELETE FROM forwards WHERE service = ?1", [service.as_str()]).map(|_| ())
        }
    }
}

fn read_next_generation(transaction: &Transaction<'_>, service: &ServiceName) -> rusqlite::Result<u32> {
    let sql = "SELECT generation FROM forwards WHERE service = ?1";
    let now: Option<u32> = transaction.query_row(sql, [service.as_str()], |row| row.get(0)).optional()?;
    Ok(now.unwrap_or(0) + 1)
}

#[async_trait]
impl DeploymentStore for SqliteStore {
    async fn lock_service(
        &self,
        service: &ServiceName,
        purpose: &str,
        patience: Duration,
    ) -> StoreResult<Box<dyn LockGuard>> {
        self.acquire_lock(&format!("deploy-{service}.lock"), purpose, patience).await
    }

    fn all(&self) -> StoreResult<Vec<Deployment>> {
        self.read_deployments("SELECT body FROM deployments ORDER BY service, id", &[])
    }

    fn of(&self, service: &ServiceName) -> StoreResult<Vec<Deployment>> {
        let select = "SELECT body FROM deployments WHERE service = ?1 ORDER BY id";
        self.read_deployments(select, &[&service.as_str()])
    }

    fn put(&self, deployment: &Deployment) -> StoreResult<()> {
        self.write("record a deployment", |transaction| rows::put_deployment(transaction, deployment))
    }

    fn rename(&self, from: &DeploymentId, renamed: &Deployment) -> StoreResult<()> {
        self.write("rename a deployment", |transaction| {
            transaction.execute("DELETE FROM deployments WHERE id = ?1", [from.as_str()])?;
            rows::put_deployment(transaction, renamed)?;
            match rows::find_record(transaction, &renamed.service)? {
                Some(record) => rows::put_record(transaction, &record.rename_deployment(from, &renamed.id)),
                None => Ok(()),
            }
        })
    }

    fn remove(&self, id: &DeploymentId) -> StoreResult<()> {
        self.write("forget a deployment", |transaction| {
            transaction.execute("DELETE FROM deployments WHERE id = ?1", [id.as_str()]).map(|_| ())
        })
    }
}

/// The lock of an open file, which is free when this is dropped.
pub(super) struct FileLockGuard {
    pub(super) _lock: Flock<File>,
}

impl LockGuard for FileLockGuard {}

fn to_store_error(what: &'static str, path: &Path, error: &std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full { path: path.to_owned() },
        _ => StoreError::Failed { action: what, path: path.to_owned(), reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
