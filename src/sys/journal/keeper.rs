//! `world::journal_keeper`: a SQLite journal for each fleet, in directories of the user that switchman runs as.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use nix::unistd::{User, access, geteuid};

use crate::model::api::journal::{JournalAnswer, JournalFailure, JournalRequest};
use crate::model::name::ServiceName;
use crate::sys::sqlite::DbError;
use crate::world::journal_keeper::JournalKeeper;

mod boot_time;
mod kept_journal;

use boot_time::BootTime;
use kept_journal::KeptJournal;

/// Open journals; more are opened again at each operation.
const MAX_OPEN: usize = 32;

/// The journals that this machine keeps.
#[derive(Debug)]
pub struct DirKeeper {
    default_dir: PathBuf,
    open: Mutex<BTreeMap<PathBuf, OpenJournal>>,
}

/// A journal with the device and the inode of its file.
#[derive(Debug, Clone)]
struct OpenJournal {
    /// `None`: there was no file yet.
    inode: Option<(u64, u64)>,
    journal: Arc<KeptJournal>,
}

impl DirKeeper {
    /// `default_dir` is for fleets whose configuration names no directory.
    pub fn new(default_dir: PathBuf) -> Self {
        Self { default_dir, open: Mutex::default() }
    }

    /// Returns the journal of a file, opened again where another file is at the path than before: one that was moved away or replaced
    /// takes no more entries.
    fn find_journal(&self, file: PathBuf) -> Arc<KeptJournal> {
        let inode = file.metadata().ok().map(|found| (found.dev(), found.ino()));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        if let Some(known) = open.get(&file)
            && known.inode.is_some()
            && known.inode == inode
        {
            return known.journal.clone();
        }
        let journal = Arc::new(KeptJournal::new(file.clone()));
        open.insert(file, OpenJournal { inode, journal: journal.clone() });
        journal
    }
}

#[async_trait]
impl JournalKeeper for DirKeeper {
    async fn carry_out(&self, service: &ServiceName, request: &JournalRequest) -> JournalAnswer {
        let dir = request.directory.clone().unwrap_or_else(|| self.default_dir.clone());
        if !dir.is_absolute() {
            let reason = format!("the directory `{}` is not absolute", dir.display());
            return JournalAnswer::Failed { failure: JournalFailure::Failed { reason } };
        }
        let journal = self.find_journal(dir.join(format!("{service}.db")));
        let call = request.call.clone();
        // A write waits for the disk, and up to 5 s for another writer. It ends even when the caller has disconnected.
        let work = move || {
            let prepared = if call.is_write() { prepare_dir(&dir) } else { check_dir(&dir) };
            prepared.and_then(|()| journal.carry_out(&call, &BootTime::read()).map_err(to_failure))
        };
        let worked = tokio::task::spawn_blocking(work).await;
        let ended = worked.unwrap_or_else(|error| Err(JournalFailure::Failed { reason: error.to_string() }));
        ended.unwrap_or_else(|failure| JournalAnswer::Failed { failure })
    }
}

/// Makes the directory for its user alone: a user who can write there can forge the journal and remove the lock.
fn prepare_dir(dir: &Path) -> Result<(), JournalFailure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| to_dir_failure(dir, &error))?;
    check_dir(dir)
}

/// Checks that the user may use the directory; one that is not there yet is an empty journal.
fn check_dir(dir: &Path) -> Result<(), JournalFailure> {
    use nix::unistd::AccessFlags;
    match access(dir, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(to_dir_failure(dir, &errno.into())),
    }
}

fn to_dir_failure(dir: &Path, error: &std::io::Error) -> JournalFailure {
    if error.kind() == ErrorKind::StorageFull {
        return JournalFailure::Full;
    }
    let uid = geteuid();
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    JournalFailure::Denied { directory: dir.to_owned(), user, reason: error.to_string() }
}

fn to_failure(error: DbError) -> JournalFailure {
    match error {
        DbError::Newer { found, known, .. } => JournalFailure::Newer { found, known },
        DbError::Full { .. } => JournalFailure::Full,
        DbError::Damaged { reason, .. } => JournalFailure::Damaged { reason },
        DbError::Open { path, reason } => {
            JournalFailure::Failed { reason: format!("cannot open `{}`: {reason}", path.display()) }
        }
        DbError::Failed { reason, .. } => JournalFailure::Failed { reason },
    }
}

#[cfg(test)]
mod tests;
