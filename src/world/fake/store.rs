//! A store in memory.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::forward::{Intent, ServiceRecord};
use crate::model::history::{Actor, HistoryEntry, OperationId, Phase};
use crate::model::name::ServiceName;
use crate::world::store::{ChangeOutcome, HistoryNote, LockGuard, Store, StoreError};

#[derive(Default)]
pub struct FakeStore {
    pub records: Mutex<Vec<ServiceRecord>>,
    pub history: Mutex<Vec<HistoryEntry>>,
    /// The next write fails like this; the second next in the same way.
    pub next_error: Mutex<Option<StoreError>>,
    pub later_error: Mutex<Option<StoreError>>,
    /// Every write fails like this.
    pub write_error: Mutex<Option<StoreError>>,
    /// Every read of the record fails like this.
    pub read_error: Mutex<Option<StoreError>>,
    pub fuse: Mutex<crate::world::fake::fuse::FailurePoint>,
    lock: std::sync::Arc<tokio::sync::Mutex<()>>,
    proxy_lock: std::sync::Arc<tokio::sync::Mutex<()>>,
}

struct FakeLockGuard {
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl LockGuard for FakeLockGuard {}

impl FakeStore {
    fn check_write(&self) -> Result<(), StoreError> {
        if !self.fuse.lock().unwrap().try_proceed() {
            return Err(StoreError::Failed { action: "write", path: "killed".into(), reason: String::new() });
        }
        if let Some(full) = self.write_error.lock().unwrap().clone() {
            return Err(full);
        }
        let now =
            std::mem::replace(&mut *self.next_error.lock().unwrap(), self.later_error.lock().unwrap().take());
        now.map_or(Ok(()), Err)
    }

    fn put_record(&self, record: ServiceRecord) {
        let mut recorded = self.records.lock().unwrap();
        recorded.retain(|other| other.forward.service != record.forward.service);
        recorded.push(record);
    }

    fn next_generation(&self, service: &ServiceName) -> u32 {
        let recorded = self.records.lock().unwrap();
        recorded
            .iter()
            .find(|record| &record.forward.service == service)
            .map_or(0, |record| record.generation)
            + 1
    }
}

async fn acquire_lock(
    lock: &std::sync::Arc<tokio::sync::Mutex<()>>,
    purpose: &str,
    patience: Duration,
) -> Result<Box<dyn LockGuard>, StoreError> {
    let held = tokio::time::timeout(patience, lock.clone().lock_owned()).await;
    let busy = |_| StoreError::Busy { holder: format!("pid 1: {purpose}"), waited: patience };
    held.map_err(busy).map(|guard| Box::new(FakeLockGuard { _guard: guard }) as Box<dyn LockGuard>)
}

#[async_trait]
impl Store for FakeStore {
    async fn lock(&self, purpose: &str, patience: Duration) -> Result<Box<dyn LockGuard>, StoreError> {
        acquire_lock(&self.lock, purpose, patience).await
    }

    async fn lock_proxy(&self, purpose: &str, patience: Duration) -> Result<Box<dyn LockGuard>, StoreError> {
        acquire_lock(&self.proxy_lock, purpose, patience).await
    }

    fn load_records(&self) -> Result<Vec<ServiceRecord>, StoreError> {
        let unreadable = self.read_error.lock().unwrap().clone();
        unreadable.map_or_else(|| Ok(self.records.lock().unwrap().clone()), Err)
    }

    fn begin(
        &self,
        intent: &Intent,
        now: jiff::Timestamp,
    ) -> Result<(OperationId, ServiceRecord), StoreError> {
        self.check_write()?;
        let service = &intent.forward.service;
        let previous =
            self.records.lock().unwrap().iter().find(|one| &one.forward.service == service).cloned();
        let recorded = ServiceRecord::from_intent(previous.as_ref(), intent, now);
        self.put_record(recorded.clone());
        let mut history = self.history.lock().unwrap();
        let operation = OperationId(i64::try_from(history.len()).unwrap() + 1);
        history.push(HistoryEntry {
            operation,
            at: now,
            actor: intent.actor.clone(),
            service: intent.forward.service.clone(),
            action: intent.action.clone(),
            phase: Phase::Began,
            detail: intent.detail.clone(),
        });
        Ok((operation, recorded))
    }

    fn end(
        &self,
        operation: OperationId,
        actor: &Actor,
        outcome: &ChangeOutcome,
        now: jiff::Timestamp,
    ) -> Result<(), StoreError> {
        self.check_write()?;
        let began =
            self.history.lock().unwrap().iter().find(|entry| entry.operation == operation).cloned().unwrap();
        let (phase, detail) = match outcome {
            ChangeOutcome::Done { detail } => (Phase::Done, detail.clone()),
            ChangeOutcome::RolledBack { reason, .. } => (Phase::Failed, reason.clone()),
        };
        if let ChangeOutcome::RolledBack { previous, .. } = outcome {
            let generation = self.next_generation(&began.service);
            self.records.lock().unwrap().retain(|record| record.forward.service != began.service);
            if let Some(previous) = previous {
                self.put_record(ServiceRecord { generation, ..*previous.clone() });
            }
        }
        self.history.lock().unwrap().push(HistoryEntry {
            at: now,
            actor: actor.clone(),
            phase,
            detail,
            ..began
        });
        Ok(())
    }

    fn add_note(&self, note: &HistoryNote, now: jiff::Timestamp) -> Result<(), StoreError> {
        self.check_write()?;
        let mut history = self.history.lock().unwrap();
        let operation = OperationId(i64::try_from(history.len()).unwrap() + 1);
        let (actor, service, detail) = (note.actor.clone(), note.service.clone(), note.detail.clone());
        let action = note.action.to_owned();
        history.push(HistoryEntry { operation, at: now, actor, service, action, phase: Phase::Done, detail });
        Ok(())
    }

    fn load_history(&self, _: Option<&ServiceName>, limit: u32) -> Result<Vec<HistoryEntry>, StoreError> {
        let history = self.history.lock().unwrap();
        let skip = history.len().saturating_sub(usize::try_from(limit).unwrap());
        Ok(history[skip..].to_vec())
    }
}
