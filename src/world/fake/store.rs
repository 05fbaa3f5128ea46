//! A store in memory.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::forward::{Intent, Recorded};
use crate::model::history::{Actor, Entry, OperationId, Phase};
use crate::model::name::ServiceName;
use crate::world::store::{Exclusive, Note, Outcome, Store, StoreError};

#[derive(Default)]
pub struct FakeStore {
    pub recorded: Mutex<Vec<Recorded>>,
    pub history: Mutex<Vec<Entry>>,
    /// The next write fails like this; the second next in the same way.
    pub fail: Mutex<Option<StoreError>>,
    pub fail_later: Mutex<Option<StoreError>>,
    /// Every write fails like this.
    pub full: Mutex<Option<StoreError>>,
    /// Every read of the record fails like this.
    pub unreadable: Mutex<Option<StoreError>>,
    pub fuse: Mutex<crate::world::fake::fuse::Fuse>,
    lock: std::sync::Arc<tokio::sync::Mutex<()>>,
    proxy_lock: std::sync::Arc<tokio::sync::Mutex<()>>,
}

struct Held {
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl Exclusive for Held {}

impl FakeStore {
    fn may_write(&self) -> Result<(), StoreError> {
        if !self.fuse.lock().unwrap().burn() {
            return Err(StoreError::Failed { what: "write", path: "killed".into(), why: String::new() });
        }
        if let Some(full) = self.full.lock().unwrap().clone() {
            return Err(full);
        }
        let now = std::mem::replace(&mut *self.fail.lock().unwrap(), self.fail_later.lock().unwrap().take());
        now.map_or(Ok(()), Err)
    }

    fn put(&self, record: Recorded) {
        let mut recorded = self.recorded.lock().unwrap();
        recorded.retain(|other| other.forward.service != record.forward.service);
        recorded.push(record);
    }

    fn next_generation(&self, service: &ServiceName) -> u32 {
        let recorded = self.recorded.lock().unwrap();
        recorded
            .iter()
            .find(|record| &record.forward.service == service)
            .map_or(0, |record| record.generation)
            + 1
    }
}

async fn hold(
    lock: &std::sync::Arc<tokio::sync::Mutex<()>>,
    purpose: &str,
    patience: Duration,
) -> Result<Box<dyn Exclusive>, StoreError> {
    let held = tokio::time::timeout(patience, lock.clone().lock_owned()).await;
    let busy = |_| StoreError::Busy { holder: format!("pid 1: {purpose}"), waited: patience };
    held.map_err(busy).map(|guard| Box::new(Held { _guard: guard }) as Box<dyn Exclusive>)
}

#[async_trait]
impl Store for FakeStore {
    async fn lock(&self, purpose: &str, patience: Duration) -> Result<Box<dyn Exclusive>, StoreError> {
        hold(&self.lock, purpose, patience).await
    }

    async fn lock_proxy(&self, purpose: &str, patience: Duration) -> Result<Box<dyn Exclusive>, StoreError> {
        hold(&self.proxy_lock, purpose, patience).await
    }

    fn recorded(&self) -> Result<Vec<Recorded>, StoreError> {
        let unreadable = self.unreadable.lock().unwrap().clone();
        unreadable.map_or_else(|| Ok(self.recorded.lock().unwrap().clone()), Err)
    }

    fn begin(&self, intent: &Intent, now: jiff::Timestamp) -> Result<(OperationId, Recorded), StoreError> {
        self.may_write()?;
        let service = &intent.forward.service;
        let previous =
            self.recorded.lock().unwrap().iter().find(|one| &one.forward.service == service).cloned();
        let recorded = Recorded::after(previous.as_ref(), intent, now);
        self.put(recorded.clone());
        let mut history = self.history.lock().unwrap();
        let operation = OperationId(i64::try_from(history.len()).unwrap() + 1);
        history.push(Entry {
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
        outcome: &Outcome,
        now: jiff::Timestamp,
    ) -> Result<(), StoreError> {
        self.may_write()?;
        let began =
            self.history.lock().unwrap().iter().find(|entry| entry.operation == operation).cloned().unwrap();
        let (phase, detail) = match outcome {
            Outcome::Done { detail } => (Phase::Done, detail.clone()),
            Outcome::Undone { why, .. } => (Phase::Failed, why.clone()),
        };
        if let Outcome::Undone { previous, .. } = outcome {
            let generation = self.next_generation(&began.service);
            self.recorded.lock().unwrap().retain(|record| record.forward.service != began.service);
            if let Some(previous) = previous {
                self.put(Recorded { generation, ..*previous.clone() });
            }
        }
        self.history.lock().unwrap().push(Entry { at: now, actor: actor.clone(), phase, detail, ..began });
        Ok(())
    }

    fn note(&self, note: &Note, now: jiff::Timestamp) -> Result<(), StoreError> {
        self.may_write()?;
        let mut history = self.history.lock().unwrap();
        let operation = OperationId(i64::try_from(history.len()).unwrap() + 1);
        let (actor, service, detail) = (note.actor.clone(), note.service.clone(), note.detail.clone());
        let action = note.action.to_owned();
        history.push(Entry { operation, at: now, actor, service, action, phase: Phase::Done, detail });
        Ok(())
    }

    fn history(&self, _: Option<&ServiceName>, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let history = self.history.lock().unwrap();
        let skip = history.len().saturating_sub(usize::try_from(limit).unwrap());
        Ok(history[skip..].to_vec())
    }
}
