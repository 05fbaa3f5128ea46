//! A store in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::forward::{Intent, ServiceRecord};
use crate::model::history::{Actor, HistoryEntry, OperationId, Phase};
use crate::model::name::ServiceName;
use crate::model::registration::RegistrationState;
use crate::world::store::{ChangeOutcome, HistoryNote, LockGuard, Store, StoreError, StoreResult};

/// A witness of what is read and recorded.
pub trait StoreObserver: Send + Sync {
    /// Called before the records are read: what happened elsewhere may be added to them.
    fn prepare_read(&self, records: &mut [ServiceRecord]);

    /// Called when a change has begun or ended.
    fn notice_change(&self, records: &[ServiceRecord]);
}

#[derive(Default)]
pub struct FakeStore {
    observer: Option<Box<dyn StoreObserver>>,
    pub records: Mutex<Vec<ServiceRecord>>,
    pub history: Mutex<Vec<HistoryEntry>>,
    pub registrations: Mutex<BTreeMap<ServiceName, RegistrationState>>,
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
    fn check_write(&self) -> StoreResult<()> {
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

    pub fn with_observer(record: ServiceRecord, observer: impl StoreObserver + 'static) -> Self {
        Self { records: Mutex::new(vec![record]), observer: Some(Box::new(observer)), ..Self::default() }
    }

    fn notify_change(&self) {
        if let Some(observer) = &self.observer {
            let records = self.records.lock().unwrap().clone();
            observer.notice_change(&records);
        }
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
) -> StoreResult<Box<dyn LockGuard>> {
    let held = tokio::time::timeout(patience, lock.clone().lock_owned()).await;
    let busy = |_| StoreError::Busy { holder: format!("pid 1: {purpose}"), waited: patience };
    held.map_err(busy).map(|guard| Box::new(FakeLockGuard { _guard: guard }) as Box<dyn LockGuard>)
}

#[async_trait]
impl Store for FakeStore {
    async fn lock(&self, purpose: &str, patience: Duration) -> StoreResult<Box<dyn LockGuard>> {
        acquire_lock(&self.lock, purpose, patience).await
    }

    async fn lock_proxy(&self, purpose: &str, patience: Duration) -> StoreResult<Box<dyn LockGuard>> {
        acquire_lock(&self.proxy_lock, purpose, patience).await
    }

    fn load_records(&self) -> StoreResult<Vec<ServiceRecord>> {
        if let Some(observer) = &self.observer {
            observer.prepare_read(&mut self.records.lock().unwrap());
        }
        let unreadable = self.read_error.lock().unwrap().clone();
        unreadable.map_or_else(|| Ok(self.records.lock().unwrap().clone()), Err)
    }

    fn begin(&self, intent: &Intent, now: jiff::Timestamp) -> StoreResult<(OperationId, ServiceRecord)> {
        self.check_write()?;
        let service = &intent.forward.service;
        let previous =
            self.records.lock().unwrap().iter().find(|one| &one.forward.service == service).cloned();
        let recorded = ServiceRecord::from_intent(previous.as_ref(), intent, now);
        self.put_record(recorded.clone());
        let mut history = self.history.lock().unwrap();
        let operation = OperationId(i64::try_from(history.len()).unwrap() + 1);
        history.push(intent.to_entry(operation, now));
        self.notify_change();
        Ok((operation, recorded))
    }

    fn end(
        &self,
        operation: OperationId,
        actor: &Actor,
        outcome: &ChangeOutcome,
        now: jiff::Timestamp,
    ) -> StoreResult<()> {
        self.check_write()?;
        let began =
            self.history.lock().unwrap().iter().find(|entry| entry.operation == operation).cloned().unwrap();
        if let ChangeOutcome::RolledBack { previous, .. } = outcome {
            let generation = self.next_generation(&began.service);
            self.records.lock().unwrap().retain(|record| record.forward.service != began.service);
            if let Some(previous) = previous {
                self.put_record(ServiceRecord { generation, ..*previous.clone() });
            }
        }
        self.history.lock().unwrap().push(outcome.to_entry(began, actor, now));
        self.notify_change();
        Ok(())
    }

    fn add_phase(
        &self,
        note: &HistoryNote,
        phase: Phase,
        operation: Option<OperationId>,
        now: jiff::Timestamp,
    ) -> StoreResult<OperationId> {
        self.check_write()?;
        let mut history = self.history.lock().unwrap();
        let next = OperationId(i64::try_from(history.len()).unwrap() + 1);
        let operation = operation.unwrap_or(next);
        history.push(note.to_entry(operation, phase, now));
        Ok(operation)
    }

    fn load_registrations(&self) -> StoreResult<BTreeMap<ServiceName, RegistrationState>> {
        Ok(self.registrations.lock().unwrap().clone())
    }

    fn update_registration(
        &self,
        service: &ServiceName,
        change: &dyn Fn(&mut RegistrationState),
    ) -> StoreResult<()> {
        self.check_write()?;
        change(self.registrations.lock().unwrap().entry(service.clone()).or_default());
        Ok(())
    }

    fn load_history(&self, _: Option<&ServiceName>, limit: u32) -> StoreResult<Vec<HistoryEntry>> {
        let history = self.history.lock().unwrap();
        let skip = history.len().saturating_sub(usize::try_from(limit).unwrap());
        Ok(history[skip..].to_vec())
    }
}
