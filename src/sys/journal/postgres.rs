//! A journal store in a PostgreSQL database, in tables of the schema `switchman` that all fleets share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, IsolationLevel, Row, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::token::make_token;
use crate::model::journal_record::{LockRecord, Log, StoredEntry};
use crate::model::lock::{Holder, LockNote};
use crate::sys::certificate_error::is_certificate_error;
use crate::world::journal_store::{Acquisition, JournalError, JournalStore};

/// Limit of one call, with a new connection where that is needed.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call is repeated while the server does not answer, as when another one takes its place.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The version of the tables.
const SCHEMA_VERSION: i64 = 1;
/// The advisory lock under which tables are made: of two who come first, the second finds them.
const SETUP_LOCK: i64 = 0x7377_6d6a_6f75;

/// A session that is cut in the middle holds no lock for long; the server's default isolation does not matter.
const SESSION: &str = "SET statement_timeout = '5s'; SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '10s'";

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS switchman.schema_version (version BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS switchman.entries (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, fleet TEXT NOT NULL, log TEXT NOT NULL, id TEXT NOT NULL,
        at TEXT NOT NULL, host TEXT, what TEXT NOT NULL, token TEXT NOT NULL UNIQUE);
    CREATE INDEX IF NOT EXISTS entries_by_id ON switchman.entries (fleet, log, id, number);
    CREATE TABLE IF NOT EXISTS switchman.locks (
        fleet TEXT PRIMARY KEY, holder TEXT NOT NULL, heartbeats BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS switchman.notes (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, fleet TEXT NOT NULL, note TEXT NOT NULL, token TEXT NOT NULL UNIQUE);
    INSERT INTO switchman.schema_version SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM switchman.schema_version)";

/// How to reach a database.
#[derive(Clone)]
pub struct PostgresSettings {
    pub config: Config,
    pub tls: Arc<rustls::ClientConfig>,
}

impl PostgresSettings {
    /// With `roots`, by which a server's certificate is verified where the connection uses TLS.
    pub fn new(config: Config, roots: rustls::RootCertStore) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let tls = builder.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { config, tls: Arc::new(tls) })
    }
}

/// The journals and the lock of one service's fleet.
pub struct PostgresJournal {
    settings: PostgresSettings,
    fleet: String,
    connection: Mutex<Option<Connection>>,
    /// The last call had no answer: the next one is not repeated, so that a command ends soon.
    is_down: AtomicBool,
}

struct Connection {
    client: Client,
    has_tables: bool,
}

/// Why a call failed.
enum CallError {
    /// Without an answer; it may or may not have been carried out.
    NoAnswer(String),
    Failed(tokio_postgres::Error),
    Journal(JournalError),
}

impl From<tokio_postgres::Error> for CallError {
    fn from(error: tokio_postgres::Error) -> Self {
        let lost = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::TOO_MANY_CONNECTIONS,
        ];
        match error.code() {
            None if is_certificate_error(&error) => Self::Failed(error),
            None => Self::NoAnswer(describe(&error)),
            Some(code) if lost.contains(code) => Self::NoAnswer(describe(&error)),
            Some(_) => Self::Failed(error),
        }
    }
}

/// The server's message, or the innermost reason.
fn describe(error: &tokio_postgres::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    reason.to_string()
}

/// What a call does to the database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Makes no tables; what is read where there are none is empty.
    Read,
    Write,
}

/// Runs the work in a transaction, again while the server does not answer: the work is to be repeatable. A macro, because the
/// future of a closure that borrows the transaction is not known to be `Send`.
macro_rules! call {
    ($journal:expr, $action:expr, $access:expr, |$transaction:ident| $work:expr) => {{
        let deadline = tokio::time::Instant::now() + RETRY_TIMEOUT;
        loop {
            let mut slot = $journal.connection.lock().await;
            let attempt = async {
                let Some(client) = $journal.prepare(&mut slot, $access).await? else {
                    return Ok(Default::default());
                };
                let builder = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
                let started = builder.read_only($access == Access::Read).start().await?;
                let $transaction = &started;
                let value = $work;
                started.commit().await?;
                Ok(value)
            };
            let called = tokio::time::timeout(CALL_TIMEOUT, attempt).await;
            if let Some(ended) = $journal.conclude($action, called, deadline, &mut slot) {
                break ended;
            }
            drop(slot);
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }};
}

impl PostgresJournal {
    pub fn new(settings: PostgresSettings, fleet: &str) -> Self {
        Self {
            settings,
            fleet: fleet.to_owned(),
            connection: Mutex::default(),
            is_down: AtomicBool::default(),
        }
    }

    /// A connection for a call; `None` for a read where there are no tables.
    async fn prepare<'s>(
        &self,
        slot: &'s mut Option<Connection>,
        access: Access,
    ) -> Result<Option<&'s mut Client>, CallError> {
        if slot.as_ref().is_none_or(|connection| connection.client.is_closed()) {
            *slot = Some(Connection { client: self.connect().await?, has_tables: false });
        }
        let Some(connection) = slot.as_mut() else { return Ok(None) };
        if !connection.has_tables {
            connection.has_tables = self.find_tables(&connection.client).await?;
            if !connection.has_tables && access == Access::Read {
                return Ok(None);
            }
            if !connection.has_tables {
                create_tables(&mut connection.client).await?;
                connection.has_tables = true;
            }
        }
        Ok(Some(&mut connection.client))
    }

    /// `None`: the call is to be repeated.
    fn conclude<T>(
        &self,
        action: &'static str,
        called: Result<Result<T, CallError>, tokio::time::error::Elapsed>,
        deadline: tokio::time::Instant,
        slot: &mut Option<Connection>,
    ) -> Option<Result<T, JournalError>> {
        let silent = |_| Err(CallError::NoAnswer(format!("nothing within {} s", CALL_TIMEOUT.as_secs())));
        let called = called.unwrap_or_else(silent);
        if !matches!(called, Err(CallError::NoAnswer(_))) {
            self.is_down.store(false, Ordering::Relaxed);
        }
        match called {
            Ok(value) => Some(Ok(value)),
            Err(CallError::Journal(error)) => Some(Err(error)),
            Err(CallError::Failed(error)) => {
                let reason = describe(&error);
                Some(Err(JournalError::Refused { action, store: self.label(), reason }))
            }
            Err(CallError::NoAnswer(reason)) => {
                // What is left of the call is on this connection.
                *slot = None;
                let is_over = self.is_down.load(Ordering::Relaxed) || tokio::time::Instant::now() >= deadline;
                self.is_down.store(is_over, Ordering::Relaxed);
                is_over.then(|| Err(JournalError::Unreachable { action, store: self.label(), reason }))
            }
        }
    }

    async fn connect(&self) -> Result<Client, CallError> {
        let tls = MakeRustlsConnect::new((*self.settings.tls).clone());
        let (client, connection) = self.settings.config.connect(tls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                log::debug!("the connection to PostgreSQL ended: {error}");
            }
        });
        client.batch_execute(SESSION).await?;
        Ok(client)
    }

    async fn find_tables(&self, client: &Client) -> Result<bool, CallError> {
        let sql = "SELECT to_regclass('switchman.schema_version') IS NOT NULL";
        if !client.query_typed(sql, &[]).await?.first().is_some_and(|row| row.get(0)) {
            return Ok(false);
        }
        let rows = client.query_typed("SELECT version FROM switchman.schema_version", &[]).await?;
        match rows.first().map(|row| row.get::<_, i64>(0)) {
            Some(found) if found > SCHEMA_VERSION => {
                let store = self.label();
                Err(CallError::Journal(JournalError::Newer { store, found, known: SCHEMA_VERSION }))
            }
            found => Ok(found.is_some()),
        }
    }

    /// Locks the row of the lock until the transaction's end, if there is one.
    async fn read_lock_row(
        &self,
        transaction: &Transaction<'_>,
        suffix: &str,
    ) -> Result<Option<LockRecord>, CallError> {
        let sql = format!("SELECT holder, heartbeats FROM switchman.locks WHERE fleet = $1{suffix}");
        let rows = transaction.query_typed(&sql, &[(&self.fleet, Type::TEXT)]).await?;
        rows.first().map(|row| self.parse_lock(row)).transpose()
    }

    fn parse_lock(&self, row: &Row) -> Result<LockRecord, CallError> {
        let holder = self.parse_json(row.get(0))?;
        Ok(LockRecord { holder, heartbeats: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0) })
    }

    fn parse_json<T: serde::de::DeserializeOwned>(&self, text: &str) -> Result<T, CallError> {
        serde_json::from_str(text).map_err(|error| self.damaged(&error.to_string()))
    }

    fn to_json(&self, value: &impl serde::Serialize) -> Result<String, JournalError> {
        serde_json::to_string(value)
            .map_err(|error| JournalError::Damaged { store: self.label(), reason: error.to_string() })
    }

    fn damaged(&self, reason: &str) -> CallError {
        CallError::Journal(JournalError::Damaged { store: self.label(), reason: reason.to_owned() })
    }

    /// Locks the row of the lock, if this holder has it.
    async fn require_lock(
        &self,
        transaction: &Transaction<'_>,
        holder: &Holder,
    ) -> Result<LockRecord, CallError> {
        match self.read_lock_row(transaction, " FOR UPDATE").await? {
            Some(held) if held.holder == *holder => Ok(held),
            held => Err(CallError::Journal(JournalError::LockLost {
                holder: held.map(|held| Box::new(held.holder)),
            })),
        }
    }

    /// One writer of a fleet at a time: numbers appear in their order, so that a reader misses none.
    async fn serialize_writers(&self, transaction: &Transaction<'_>) -> Result<(), CallError> {
        let sql = "SELECT pg_advisory_xact_lock(hashtextextended($1, 7239))";
        transaction.query_typed(sql, &[(&self.fleet, Type::TEXT)]).await?;
        Ok(())
    }

    async fn insert_entry(
        &self,
        transaction: &Transaction<'_>,
        log: Log,
        entry: &StoredEntry,
        token: &str,
    ) -> Result<(), CallError> {
        let at = entry.at.to_string();
        let host = entry.host.as_ref().map(ToString::to_string);
        // A repeated call finds its own entry.
        let sql = "INSERT INTO switchman.entries (fleet, log, id, at, host, what, token) VALUES ($1, $2, $3, $4, $5, $6, $7)
                   ON CONFLICT (token) DO NOTHING";
        let values: [&(dyn ToSql + Sync); 7] =
            [&self.fleet, &log.name(), &entry.id, &at, &host, &entry.what, &token];
        transaction.execute_typed(sql, &values.map(|value| (value, Type::TEXT))).await?;
        Ok(())
    }

    fn parse_entry(&self, row: &Row) -> Result<StoredEntry, CallError> {
        let at: &str = row.get(1);
        let host: Option<&str> = row.get(2);
        Ok(StoredEntry {
            id: row.get(0),
            at: at.parse().map_err(|error: jiff::Error| self.damaged(&error.to_string()))?,
            host: host
                .map(|host| host.parse().map_err(|_| self.damaged(&format!("the host name `{host}`"))))
                .transpose()?,
            what: row.get(3),
        })
    }

    async fn release_lock(&self, holder: &Holder) -> Result<(), JournalError> {
        let mut has_tried = false;
        call!(self, "release the lock", Access::Write, |transaction| {
            match self.require_lock(transaction, holder).await {
                // An earlier try was carried out.
                Err(CallError::Journal(JournalError::LockLost { holder: None })) if has_tried => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    has_tried = true;
                    let sql = "DELETE FROM switchman.locks WHERE fleet = $1";
                    transaction.execute_typed(sql, &[(&self.fleet, Type::TEXT)]).await?;
                }
            }
        })
    }

    async fn try_acquire(
        &self,
        transaction: &Transaction<'_>,
        value: &str,
        holder: &Holder,
        instead_of: Option<&LockRecord>,
    ) -> Result<Acquisition, CallError> {
        self.serialize_writers(transaction).await?;
        match self.read_lock_row(transaction, " FOR UPDATE").await? {
            Some(held) if held.holder == *holder => Ok(Acquisition::Acquired),
            Some(held) if Some(&held) != instead_of => Ok(Acquisition::Busy(Box::new(held))),
            _ => {
                let sql = "INSERT INTO switchman.locks VALUES ($1, $2, 0)
                           ON CONFLICT (fleet) DO UPDATE SET holder = $2, heartbeats = 0";
                let values: [&(dyn ToSql + Sync); 2] = [&self.fleet, &value];
                transaction.execute_typed(sql, &values.map(|value| (value, Type::TEXT))).await?;
                Ok(Acquisition::Acquired)
            }
        }
    }
}

async fn create_tables(client: &mut Client) -> Result<(), CallError> {
    let transaction = client.transaction().await?;
    let sql = "SELECT pg_advisory_xact_lock($1)";
    transaction.query_typed(sql, &[(&SETUP_LOCK, Type::INT8)]).await?;
    // Who may use the schema need not be allowed to make one: `IF NOT EXISTS` requires that right also where it exists.
    let sql = "SELECT to_regnamespace('switchman') IS NOT NULL";
    if !transaction.query_typed(sql, &[]).await?.first().is_some_and(|row| row.get(0)) {
        transaction.batch_execute("CREATE SCHEMA switchman").await?;
    }
    transaction.batch_execute(TABLES).await?;
    transaction.commit().await?;
    Ok(())
}

#[async_trait]
impl JournalStore for PostgresJournal {
    /// Without user and password.
    fn label(&self) -> String {
        let config = &self.settings.config;
        let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
            let ports = config.get_ports();
            let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(dir) => dir.display().to_string(),
            }
        });
        let hosts: Vec<String> = hosts.collect();
        format!("PostgreSQL at {}", hosts.join(", "))
    }

    async fn acquire(
        &self,
        holder: &Holder,
        instead_of: Option<&LockRecord>,
    ) -> Result<Acquisition, JournalError> {
        let value = self.to_json(holder)?;
        let acquired = call!(self, "take the lock", Access::Write, |transaction| {
            Some(self.try_acquire(transaction, &value, holder, instead_of).await?)
        })?;
        // There is nothing only for a read without tables.
        Ok(acquired.unwrap_or(Acquisition::Acquired))
    }

    async fn renew(&self, holder: &Holder) -> Result<(), JournalError> {
        call!(self, "renew the lock", Access::Write, |transaction| {
            self.require_lock(transaction, holder).await?;
            let sql = "UPDATE switchman.locks SET heartbeats = heartbeats + 1 WHERE fleet = $1";
            transaction.execute_typed(sql, &[(&self.fleet, Type::TEXT)]).await?;
        })
    }

    async fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.release_lock(holder).await
    }

    fn release_at_exit(&self, holder: &Holder) {
        let journal = Self::new(self.settings.clone(), &self.fleet);
        let holder = holder.clone();
        super::exit::run_at_exit(async move {
            if let Err(error) = journal.release_lock(&holder).await {
                log::debug!("{error}");
            }
        });
    }

    async fn read_lock(&self) -> Result<Option<LockRecord>, JournalError> {
        call!(self, "read the lock", Access::Read, |transaction| {
            self.read_lock_row(transaction, "").await?
        })
    }

    async fn append(
        &self,
        holder: Option<&Holder>,
        log: Log,
        entry: &StoredEntry,
    ) -> Result<(), JournalError> {
        let token = make_token();
        call!(self, "record a step", Access::Write, |transaction| {
            self.serialize_writers(transaction).await?;
            if let Some(holder) = holder {
                self.require_lock(transaction, holder).await?;
            }
            self.insert_entry(transaction, log, entry, &token).await?;
        })
    }

    async fn load(&self, log: Log, id: &str, skip: usize) -> Result<Vec<StoredEntry>, JournalError> {
        let skip = i64::try_from(skip).unwrap_or(i64::MAX);
        call!(self, "read the journal", Access::Read, |transaction| {
            let sql =
                "SELECT id, at, host, what FROM switchman.entries WHERE fleet = $1 AND log = $2 AND id = $3
                       ORDER BY number OFFSET $4";
            let values: [(&(dyn ToSql + Sync), Type); 4] = [
                (&self.fleet, Type::TEXT),
                (&log.name(), Type::TEXT),
                (&id, Type::TEXT),
                (&skip, Type::INT8),
            ];
            let rows = transaction.query_typed(sql, &values).await?;
            rows.iter().map(|row| self.parse_entry(row)).collect::<Result<Vec<_>, _>>()?
        })
    }

    async fn list(&self, log: Log, limit: u32) -> Result<Vec<String>, JournalError> {
        call!(self, "list the entries", Access::Read, |transaction| {
            let sql = "SELECT id FROM (SELECT id, min(number) AS first FROM switchman.entries
                       WHERE fleet = $1 AND log = $2 GROUP BY id ORDER BY first DESC LIMIT $3) AS latest ORDER BY first";
            let values: [(&(dyn ToSql + Sync), Type); 3] =
                [(&self.fleet, Type::TEXT), (&log.name(), Type::TEXT), (&i64::from(limit), Type::INT8)];
            let rows = transaction.query_typed(sql, &values).await?;
            rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
        })
    }

    async fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        let (value, token) = (self.to_json(note)?, make_token());
        call!(self, "note what was done to the lock", Access::Write, |transaction| {
            self.serialize_writers(transaction).await?;
            let sql = "INSERT INTO switchman.notes (fleet, note, token) VALUES ($1, $2, $3) ON CONFLICT (token) DO NOTHING";
            let values: [&(dyn ToSql + Sync); 3] = [&self.fleet, &value, &token];
            transaction.execute_typed(sql, &values.map(|value| (value, Type::TEXT))).await?;
        })
    }

    async fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError> {
        call!(self, "read the notes on the lock", Access::Read, |transaction| {
            let sql = "SELECT note FROM (SELECT number, note FROM switchman.notes WHERE fleet = $1
                       ORDER BY number DESC LIMIT $2) AS latest ORDER BY number";
            let values: [(&(dyn ToSql + Sync), Type); 2] =
                [(&self.fleet, Type::TEXT), (&i64::from(limit), Type::INT8)];
            let rows = transaction.query_typed(sql, &values).await?;
            rows.iter().map(|row| self.parse_json(row.get(0))).collect::<Result<Vec<_>, _>>()?
        })
    }
}
