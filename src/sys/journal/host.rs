//! A journal store on another machine: SQLite there, kept by its switchman, over the link by which a host is driven.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::token::make_token;
use crate::model::api::journal::{JournalAnswer, JournalCall, JournalFailure, JournalRequest};
use crate::model::failure::ErrorCode;
use crate::model::journal_record::{LockRecord, Log, StoredEntry};
use crate::model::lock::{Holder, LockNote};
use crate::model::name::ServiceName;
use crate::model::ssh::SshFailure;
use crate::world::journal_store::{Acquisition, JournalError, JournalStore};
use crate::world::link::{HostLink, LinkError};

/// How long a call is repeated while the machine does not answer.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// How often the lock is read while a caller waits for it: each is a request to the other machine.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Makes a link to the machine, with connections of its own.
pub type Connect = Arc<dyn Fn() -> Arc<dyn HostLink> + Send + Sync>;

/// The journals and the lock of one service's fleet on another machine.
pub struct HostJournal {
    settings: HostJournalSettings,
    /// One call after another: all of them use one connection.
    link: Mutex<Arc<dyn HostLink>>,
    /// The machine did not answer the last call: the next one is not repeated, so that a command ends soon.
    is_down: AtomicBool,
}

/// How to reach the journal of a fleet.
#[derive(Clone)]
pub struct HostJournalSettings {
    /// The machine as the configuration names it.
    pub machine: String,
    pub service: ServiceName,
    /// `None`: the default of the machine.
    pub directory: Option<PathBuf>,
    pub connect: Connect,
}

impl HostJournal {
    pub fn new(settings: HostJournalSettings) -> Self {
        let link = Mutex::new((settings.connect)());
        Self { settings, link, is_down: AtomicBool::default() }
    }

    /// Sends one operation, again while the machine does not answer: it carries out each once.
    async fn call(&self, action: &'static str, call: JournalCall) -> Result<JournalAnswer, JournalError> {
        let request = JournalRequest { directory: self.settings.directory.clone(), call };
        let deadline = tokio::time::Instant::now() + RETRY_TIMEOUT;
        let link = self.link.lock().await;
        let error = loop {
            match link.call_journal(&self.settings.service, &request).await {
                Ok(JournalAnswer::Failed { failure }) => {
                    self.is_down.store(false, Ordering::Relaxed);
                    return Err(self.convert_failure(action, failure));
                }
                Ok(answer) => {
                    self.is_down.store(false, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => {
                    let is_last =
                        self.is_down.load(Ordering::Relaxed) || tokio::time::Instant::now() >= deadline;
                    if is_last || !may_pass(&error) {
                        break error;
                    }
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        };
        self.is_down.store(error.is_connection_lost(), Ordering::Relaxed);
        Err(self.explain_link_error(action, &request.call, &**link, error).await)
    }

    async fn explain_link_error(
        &self,
        action: &'static str,
        call: &JournalCall,
        link: &dyn HostLink,
        error: LinkError,
    ) -> JournalError {
        let store = self.label();
        match error {
            // A route, or an operation, that a switchman of another version does not know.
            LinkError::Refused { code: ErrorCode::NotFound | ErrorCode::BadRequest, message } => {
                let theirs = link.greet().await.map_or_else(|_| "?".to_owned(), |hello| hello.version);
                let reason = format!(
                    "switchman {theirs} there does not know the operation `{}` of switchman {} here ({message})",
                    call.name(),
                    env!("CARGO_PKG_VERSION"),
                );
                JournalError::OtherVersion { action, store, reason }
            }
            error @ LinkError::VersionMismatch { .. } => {
                JournalError::OtherVersion { action, store, reason: error.to_string() }
            }
            error @ LinkError::Refused { .. } => {
                JournalError::Refused { action, store, reason: error.to_string() }
            }
            LinkError::Unreachable { via, reason, ssh: Some(attempt) } => {
                let advice = attempt.advice();
                JournalError::NotConnected { action, store, reason: format!("{reason} ({via})"), advice }
            }
            error => JournalError::Unreachable { action, store, reason: error.to_string() },
        }
    }

    fn convert_failure(&self, action: &'static str, failure: JournalFailure) -> JournalError {
        let store = self.label();
        match failure {
            JournalFailure::Denied { directory, user, reason } => {
                JournalError::Denied { store, directory, user, reason }
            }
            JournalFailure::Newer { found, known } => JournalError::Newer { store, found, known },
            JournalFailure::Full => JournalError::Full { store },
            JournalFailure::Damaged { reason } => JournalError::Damaged { store, reason },
            JournalFailure::Failed { reason } => JournalError::Refused { action, store, reason },
        }
    }

    async fn write(&self, action: &'static str, call: JournalCall) -> Result<(), JournalError> {
        match self.call(action, call).await? {
            JournalAnswer::Done => Ok(()),
            JournalAnswer::LockLost { holder } => Err(JournalError::LockLost { holder }),
            _ => Err(self.unexpected(action)),
        }
    }

    async fn release_lock(&self, holder: &Holder) -> Result<(), JournalError> {
        let call = JournalCall::Release { holder: Box::new(holder.clone()), token: make_token() };
        self.write("release the lock", call).await
    }

    fn unexpected(&self, action: &'static str) -> JournalError {
        let reason = "its answer is that of another operation".to_owned();
        JournalError::Refused { action, store: self.label(), reason }
    }
}

/// Whether a later attempt may succeed without an action of an operator.
fn may_pass(error: &LinkError) -> bool {
    match error {
        LinkError::Unreachable { ssh: Some(attempt), .. } => {
            matches!(attempt.failure, SshFailure::TimedOut | SshFailure::Refused | SshFailure::Other)
        }
        LinkError::Unreachable { ssh: None, .. } | LinkError::Broken { .. } | LinkError::TimedOut { .. } => {
            true
        }
        LinkError::VersionMismatch { .. } | LinkError::Abandoned { .. } | LinkError::Refused { .. } => false,
    }
}

#[async_trait]
impl JournalStore for HostJournal {
    fn label(&self) -> String {
        match &self.settings.directory {
            Some(directory) => {
                format!("the journal in `{}` on {}", directory.display(), self.settings.machine)
            }
            None => format!("the journal on {}", self.settings.machine),
        }
    }

    async fn acquire(
        &self,
        holder: &Holder,
        instead_of: Option<&LockRecord>,
    ) -> Result<Acquisition, JournalError> {
        const ACTION: &str = "take the lock";
        let (holder, instead_of) = (Box::new(holder.clone()), instead_of.cloned().map(Box::new));
        match self.call(ACTION, JournalCall::Acquire { holder, instead_of }).await? {
            JournalAnswer::Done => Ok(Acquisition::Acquired),
            JournalAnswer::Busy { held } => Ok(Acquisition::Busy(held)),
            _ => Err(self.unexpected(ACTION)),
        }
    }

    async fn renew(&self, holder: &Holder) -> Result<(), JournalError> {
        self.write("renew the lock", JournalCall::Renew { holder: Box::new(holder.clone()) }).await
    }

    async fn release(&self, holder: &Holder) -> Result<(), JournalError> {
        self.release_lock(holder).await
    }

    fn release_at_exit(&self, holder: &Holder) {
        let (journal, holder) = (Self::new(self.settings.clone()), holder.clone());
        super::exit::run_at_exit(async move {
            if let Err(error) = journal.release_lock(&holder).await {
                log::debug!("{error}");
            }
        });
    }

    async fn read_lock(&self) -> Result<Option<LockRecord>, JournalError> {
        const ACTION: &str = "read the lock";
        match self.call(ACTION, JournalCall::ReadLock).await? {
            JournalAnswer::Lock { held } => Ok(held.map(|held| *held)),
            _ => Err(self.unexpected(ACTION)),
        }
    }

    async fn wait_for_lock_change(
        &self,
        seen: Option<&LockRecord>,
        timeout: Duration,
    ) -> Result<(), JournalError> {
        let deadline = tokio::time::Instant::now() + timeout;
        while self.read_lock().await?.as_ref() == seen && tokio::time::Instant::now() < deadline {
            let next = tokio::time::Instant::now() + LOCK_POLL_INTERVAL;
            tokio::time::sleep_until(next.min(deadline)).await;
        }
        Ok(())
    }

    async fn append(
        &self,
        holder: Option<&Holder>,
        log: Log,
        entry: &StoredEntry,
    ) -> Result<(), JournalError> {
        let (holder, entry) = (holder.cloned().map(Box::new), entry.clone());
        self.write("record a step", JournalCall::Append { holder, log, entry, token: make_token() }).await
    }

    async fn load(&self, log: Log, id: &str, skip: usize) -> Result<Vec<StoredEntry>, JournalError> {
        const ACTION: &str = "read the journal";
        let mut loaded = Vec::new();
        loop {
            let skip = u32::try_from(skip.saturating_add(loaded.len())).unwrap_or(u32::MAX);
            match self.call(ACTION, JournalCall::Load { log, id: id.to_owned(), skip }).await? {
                JournalAnswer::Entries { entries, has_more } => {
                    let is_end = !has_more || entries.is_empty();
                    loaded.extend(entries);
                    if is_end {
                        return Ok(loaded);
                    }
                }
                _ => return Err(self.unexpected(ACTION)),
            }
        }
    }

    async fn list(&self, log: Log, limit: u32) -> Result<Vec<String>, JournalError> {
        const ACTION: &str = "list the entries";
        match self.call(ACTION, JournalCall::List { log, limit }).await? {
            JournalAnswer::Ids { ids } => Ok(ids),
            _ => Err(self.unexpected(ACTION)),
        }
    }

    async fn add_note(&self, note: &LockNote) -> Result<(), JournalError> {
        let call = JournalCall::AddNote { note: note.clone(), token: make_token() };
        self.write("note what was done to the lock", call).await
    }

    async fn load_notes(&self, limit: u32) -> Result<Vec<LockNote>, JournalError> {
        const ACTION: &str = "read the notes on the lock";
        match self.call(ACTION, JournalCall::LoadNotes { limit }).await? {
            JournalAnswer::Notes { notes } => Ok(notes),
            _ => Err(self.unexpected(ACTION)),
        }
    }
}
