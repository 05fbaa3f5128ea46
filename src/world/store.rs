//! The host's recorded desired state and history.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::forward::{Intent, ServiceRecord, Trial};
use crate::model::history::{Actor, HistoryEntry, OperationId, Phase};
use crate::model::name::ServiceName;
use crate::model::registration::RegistrationState;

/// Why the record could not be read or written. After a failed write nothing of it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the state in `{path}`: {reason}")]
    Open { path: PathBuf, reason: String },
    #[error("the state `{path}` has schema {found}; this switchman reads up to {known}")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the disk that holds `{path}` is full")]
    Full { path: PathBuf },
    #[error("the state `{path}` is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("another switchman process is changing this host ({holder}): gave up after {}", crate::model::duration::format(*.waited))]
    Busy { holder: String, waited: Duration },
    #[error("cannot {action} in `{path}`: {reason}")]
    Failed { action: &'static str, path: PathBuf, reason: String },
}

/// What was read or recorded, or why it was not.
pub type StoreResult<T> = Result<T, StoreError>;

/// Something done that leaves the desired state as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryNote {
    pub service: ServiceName,
    pub actor: Actor,
    pub action: &'static str,
    pub detail: String,
}

impl HistoryNote {
    /// Returns the row that records the note.
    pub fn to_entry(&self, operation: OperationId, phase: Phase, now: jiff::Timestamp) -> HistoryEntry {
        HistoryEntry {
            operation,
            at: now,
            actor: self.actor.without_caller(),
            caller: self.actor.caller.clone(),
            service: self.service.clone(),
            action: self.action.to_owned(),
            phase,
            detail: self.detail.clone(),
        }
    }
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeOutcome {
    Done {
        detail: String,
    },
    /// The kernel is unchanged: the desired state goes back to `previous` (`None`: it was not recorded before).
    RolledBack {
        previous: Option<Box<ServiceRecord>>,
        reason: String,
    },
}

impl ChangeOutcome {
    /// Returns the row that records the end of a change, which began with this one.
    pub fn to_entry(&self, began: HistoryEntry, actor: &Actor, now: jiff::Timestamp) -> HistoryEntry {
        let (phase, detail) = match self {
            Self::Done { detail } => (Phase::Done, detail.clone()),
            Self::RolledBack { reason, .. } => (Phase::Failed, reason.clone()),
        };
        HistoryEntry {
            at: now,
            actor: actor.without_caller(),
            caller: actor.caller.clone(),
            phase,
            detail,
            ..began
        }
    }
}

/// Held while kernel and record are changed together; released on drop, and by the kernel when the process dies.
pub trait LockGuard: Send {}

/// Every write is durable when the call returns. Writes take well under a millisecond, so they block.
#[async_trait]
pub trait Store: Send + Sync {
    /// Serializes changes on a host: waits at most `patience` for another switchman process.
    async fn lock(&self, purpose: &str, patience: Duration) -> StoreResult<Box<dyn LockGuard>>;

    /// Serializes pushes of the proxy's configuration. This lock is separate from `lock`, so that a proxy that does not
    /// answer keeps no process from routing around it.
    async fn lock_proxy(&self, purpose: &str, patience: Duration) -> StoreResult<Box<dyn LockGuard>>;

    /// All services recorded on this host, by name.
    fn load_records(&self) -> StoreResult<Vec<ServiceRecord>>;

    /// The services whose main is on trial.
    fn load_trials(&self) -> StoreResult<Vec<(ServiceName, Trial)>> {
        let recorded = self.load_records()?;
        Ok(recorded.into_iter().filter_map(|record| Some((record.forward.service, record.trial?))).collect())
    }

    /// The services whose data path the proxy has, or had, a place in.
    fn places(&self) -> StoreResult<Vec<ServiceRecord>> {
        Ok(self.load_records()?.into_iter().filter(|record| record.layer7.place.is_some()).collect())
    }

    /// Records the new desired state and that the change began, as one transaction; gives back what is recorded now.
    fn begin(&self, intent: &Intent, now: jiff::Timestamp) -> StoreResult<(OperationId, ServiceRecord)>;

    /// Records how it ended, and takes the desired state back where it was undone, as one transaction.
    fn end(
        &self,
        operation: OperationId,
        actor: &Actor,
        outcome: &ChangeOutcome,
        now: jiff::Timestamp,
    ) -> StoreResult<()>;

    /// Adds one row that changes no desired state. Returns its operation: the one that an earlier row began, or a new one.
    fn add_phase(
        &self,
        note: &HistoryNote,
        phase: Phase,
        operation: Option<OperationId>,
        now: jiff::Timestamp,
    ) -> StoreResult<OperationId>;

    /// Adds one row that changes no desired state, such as a repair by `restore`.
    fn add_note(&self, note: &HistoryNote, now: jiff::Timestamp) -> StoreResult<()> {
        self.add_phase(note, Phase::Done, None, now).map(|_| ())
    }

    /// The number of rows that record a completed action, by service.
    fn done(&self, action: &str) -> StoreResult<BTreeMap<ServiceName, u64>> {
        let mut counts = BTreeMap::new();
        for entry in self.load_history(None, u32::MAX)? {
            if entry.action == action && entry.phase == Phase::Done {
                *counts.entry(entry.service).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// The registrations of this host's services in a catalogue, for those that an agent registers.
    fn load_registrations(&self) -> StoreResult<BTreeMap<ServiceName, RegistrationState>>;

    /// Changes what is recorded about a registration, as one transaction.
    fn update_registration(
        &self,
        service: &ServiceName,
        change: &dyn Fn(&mut RegistrationState),
    ) -> StoreResult<()>;

    /// The latest `limit` rows, oldest first; of one service when given.
    fn load_history(&self, service: Option<&ServiceName>, limit: u32) -> StoreResult<Vec<HistoryEntry>>;
}
