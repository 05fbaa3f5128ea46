//! A SQLite file: write-ahead log, `synchronous=FULL`, so that a change is on disk when the call returns and a kill
//! between any two steps leaves either all of a write or none of it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// How long SQLite waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The schema of a file: the steps that make it, and the version that this program writes (`PRAGMA user_version`).
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    pub version: i64,
    /// Ends with setting `user_version`.
    pub create: &'static str,
    /// The first brings a file of version 1 to version 2, and so on; each ends with setting `user_version`.
    pub upgrades: &'static [&'static str],
}

/// Why a file could not be read or written. After a failed write nothing of it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DbError {
    Open { path: PathBuf, reason: String },
    Newer { path: PathBuf, found: i64, known: i64 },
    Full { path: PathBuf },
    Damaged { path: PathBuf, reason: String },
    Failed { what: &'static str, path: PathBuf, reason: String },
}

/// A file that is opened at its first use, and made at its first write.
#[derive(Debug)]
pub struct Database {
    file: PathBuf,
    schema: Schema,
    connection: Mutex<Option<Connection>>,
}

impl Database {
    pub fn new(file: PathBuf, schema: Schema) -> Self {
        Self { file, schema, connection: Mutex::new(None) }
    }

    /// The open connection; `None` when there is no file yet and none is to be made.
    fn open(&self, make: bool) -> Result<MutexGuard<'_, Option<Connection>>, DbError> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.has_file()?;
        if slot.is_none() && (make || there) {
            if let Some(dir) = self.file.parent() {
                make_dir(dir)?;
                if !there {
                    self.create_file(dir)?;
                }
            }
            *slot = Some(self.connect()?);
        }
        Ok(slot)
    }

    /// All of the work, or none of it.
    pub fn write<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, DbError> {
        let mut slot = self.open(true)?;
        let closed = || DbError::Failed { what, path: self.file.clone(), reason: "not open".to_owned() };
        let connection = slot.as_mut().ok_or_else(closed)?;
        let done = (|| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })();
        done.map_err(|error| to_db_error(what, &self.file, &error))
    }

    /// The default where there is no file.
    pub fn read<T: Default>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DbError> {
        match self.open(false)?.as_ref() {
            Some(connection) => work(connection).map_err(|error| to_db_error(what, &self.file, &error)),
            None => Ok(T::default()),
        }
    }

    /// Makes the whole file under another name first: while a new one changes to its write-ahead log, SQLite refuses any
    /// other process without waiting ("database is locked").
    fn create_file(&self, dir: &Path) -> Result<(), DbError> {
        let dir = fs::File::open(dir).map_err(|error| self.to_open_error(&error))?;
        // Where a directory cannot be locked, the last of two who come first wins.
        let _ = dir.lock();
        if self.has_file()? {
            return Ok(());
        }
        let beside = |end: &str| {
            let mut name = self.file.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let fresh = beside("-new");
        // The log of a file that was moved away would be read into this one.
        for stale in ["-new", "-new-wal", "-new-shm", "-wal", "-shm"] {
            let _ = fs::remove_file(beside(stale));
        }
        let made = (|| {
            let mut connection = Connection::open(&fresh)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            create_schema(&mut connection, self.schema.create)?;
            connection.close().map_err(|(_, error)| error)
        })();
        if let Err(error) = made {
            let _ = fs::remove_file(&fresh);
            return Err(to_db_error("set up the state", &self.file, &error));
        }
        // A name is on disk with its directory.
        let placed = fs::rename(&fresh, &self.file).and_then(|()| dir.sync_all());
        placed.map_err(|error| self.to_open_error(&error))
    }

    fn has_file(&self) -> Result<bool, DbError> {
        self.file.try_exists().map_err(|error| self.to_open_error(&error))
    }

    fn to_open_error(&self, error: &io::Error) -> DbError {
        DbError::Open { path: self.file.clone(), reason: error.to_string() }
    }

    fn connect(&self) -> Result<Connection, DbError> {
        let file = &self.file;
        let opened = (|| {
            let connection = Connection::open(file)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok((connection, version))
        })();
        let (mut connection, found) = opened.map_err(|error| to_db_error("open the state", file, &error))?;
        match found {
            found if found == self.schema.version => Ok(connection),
            0 => {
                let made = create_schema(&mut connection, self.schema.create);
                made.map(|()| connection).map_err(|error| to_db_error("set up the state", file, &error))
            }
            found if found > self.schema.version => {
                Err(DbError::Newer { path: file.clone(), found, known: self.schema.version })
            }
            _ => {
                let upgraded = upgrade(&mut connection, self.schema.upgrades);
                upgraded.map(|()| connection).map_err(|error| to_db_error("upgrade the state", file, &error))
            }
        }
    }
}

/// Two first runs at once: the second finds the schema made when it gets its turn.
fn create_schema(connection: &mut Connection, text: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(text)?;
    }
    transaction.commit()
}

/// Runs all steps or none; another process may have run them since the version was read.
fn upgrade(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for step in steps.iter().skip(usize::try_from(version - 1).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    transaction.commit()
}

pub fn make_dir(dir: &Path) -> Result<(), DbError> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(|error| DbError::Open { path: dir.to_owned(), reason: error.to_string() })
}

fn to_db_error(what: &'static str, file: &Path, error: &rusqlite::Error) -> DbError {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, DiskFull, NotADatabase, SystemIoFailure};
    let path = file.to_owned();
    match error.sqlite_error_code() {
        Some(DiskFull) => DbError::Full { path },
        // The write-ahead index is a shared mapping: without room for it SQLite knows only that I/O failed.
        Some(CannotOpen | SystemIoFailure) if is_disk_full(file) => DbError::Full { path },
        Some(DatabaseCorrupt | NotADatabase) => DbError::Damaged { path, reason: error.to_string() },
        Some(CannotOpen) => DbError::Open { path, reason: error.to_string() },
        _ => DbError::Failed { what, path, reason: error.to_string() },
    }
}

fn is_disk_full(file: &Path) -> bool {
    let Some(dir) = file.parent() else { return false };
    nix::sys::statvfs::statvfs(dir).is_ok_and(|disk| disk.blocks_available() == 0)
}
