//! The fleet's journals, of rolls and of promotions: typed entries over a [`JournalStore`].

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::journal_store::{JournalError, JournalStore};
use crate::model::journal::RollEntry;
use crate::model::journal_record::{Log, StoredEntry};
use crate::model::lock::Holder;
use crate::model::name::HostName;
use crate::model::promote::{PromotionEntry, PromotionId, PromotionRequest};
use crate::model::roll::RollId;

/// An entry of a journal.
pub trait Record: Clone + Send + Sync + Sized + 'static {
    const LOG: Log;
    /// Identifies the roll or the promotion that an entry is about.
    type Id: Clone + PartialEq + fmt::Display + std::str::FromStr<Err: fmt::Display> + Send + Sync + 'static;
    /// Something that any operator may add, without the lock.
    type Request: Into<Self> + Send;
    type Kind: Serialize + DeserializeOwned;

    fn id(&self) -> &Self::Id;

    fn at(&self) -> jiff::Timestamp;

    fn host(&self) -> Option<&HostName>;

    fn kind(&self) -> &Self::Kind;

    fn from_parts(id: Self::Id, at: jiff::Timestamp, host: Option<HostName>, kind: Self::Kind) -> Self;
}

/// The entries of all rolls, or of all promotions, of a fleet.
pub struct Journal<R> {
    store: Arc<dyn JournalStore>,
    record: PhantomData<fn() -> R>,
}

impl<R> Clone for Journal<R> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), record: PhantomData }
    }
}

impl<R: Record> Journal<R> {
    pub fn new(store: Arc<dyn JournalStore>) -> Self {
        Self { store, record: PhantomData }
    }

    /// Adds an entry if `holder` still holds the lock. A process that has lost the lock must not go on.
    pub async fn append(&self, holder: &Holder, entry: &R) -> Result<(), JournalError> {
        self.store.append(Some(holder), R::LOG, &self.store_entry(entry)?).await
    }

    /// Adds an operator's request. It does not require the lock.
    pub async fn append_request(&self, request: R::Request) -> Result<(), JournalError> {
        self.store.append(None, R::LOG, &self.store_entry(&request.into())?).await
    }

    /// Returns the entries of one roll or promotion, oldest first, without the first `skip`.
    pub async fn load(&self, id: &R::Id, skip: usize) -> Result<Vec<R>, JournalError> {
        let stored = self.store.load(R::LOG, &id.to_string(), skip).await?;
        stored.into_iter().map(|entry| self.parse_entry(entry)).collect()
    }

    /// Returns the latest `limit` rolls or promotions, oldest first.
    pub async fn list(&self, limit: u32) -> Result<Vec<R::Id>, JournalError> {
        let ids = self.store.list(R::LOG, limit).await?;
        ids.iter()
            .map(|id| id.parse().map_err(|error| self.damaged(format!("the id `{id}`: {error}"))))
            .collect()
    }

    /// Returns the latest roll or promotion.
    pub async fn find_last(&self) -> Result<Option<R::Id>, JournalError> {
        Ok(self.list(1).await?.pop())
    }

    fn store_entry(&self, entry: &R) -> Result<StoredEntry, JournalError> {
        let what = serde_json::to_string(entry.kind()).map_err(|error| self.damaged(error.to_string()))?;
        Ok(StoredEntry { id: entry.id().to_string(), at: entry.at(), host: entry.host().cloned(), what })
    }

    fn parse_entry(&self, entry: StoredEntry) -> Result<R, JournalError> {
        let StoredEntry { id, at, host, what } = entry;
        let parsed = id.parse().map_err(|error: <R::Id as std::str::FromStr>::Err| error.to_string());
        let kind = serde_json::from_str(&what).map_err(|error| error.to_string());
        match (parsed, kind) {
            (Ok(id), Ok(kind)) => Ok(R::from_parts(id, at, host, kind)),
            (Err(error), _) | (_, Err(error)) => {
                Err(self.damaged(format!("an entry of `{id}` of {at}: {error}")))
            }
        }
    }

    fn damaged(&self, reason: String) -> JournalError {
        JournalError::Damaged { store: self.store.label(), reason }
    }
}

impl Record for RollEntry {
    const LOG: Log = Log::Rolls;
    type Id = RollId;
    /// Only the holder of the lock adds to a roll.
    type Request = Infallible;
    type Kind = crate::model::journal::RollEntryKind;

    fn id(&self) -> &RollId {
        &self.roll
    }

    fn at(&self) -> jiff::Timestamp {
        self.at
    }

    fn host(&self) -> Option<&HostName> {
        self.host.as_ref()
    }

    fn kind(&self) -> &Self::Kind {
        &self.kind
    }

    fn from_parts(roll: RollId, at: jiff::Timestamp, host: Option<HostName>, kind: Self::Kind) -> Self {
        Self { roll, at, host, kind }
    }
}

impl From<Infallible> for RollEntry {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Record for PromotionEntry {
    const LOG: Log = Log::Promotions;
    type Id = PromotionId;
    type Request = PromotionRequest;
    type Kind = crate::model::promote::PromotionEntryKind;

    fn id(&self) -> &PromotionId {
        &self.promotion
    }

    fn at(&self) -> jiff::Timestamp {
        self.at
    }

    fn host(&self) -> Option<&HostName> {
        None
    }

    fn kind(&self) -> &Self::Kind {
        &self.kind
    }

    fn from_parts(
        promotion: PromotionId,
        at: jiff::Timestamp,
        _: Option<HostName>,
        kind: Self::Kind,
    ) -> Self {
        Self { promotion, at, kind }
    }
}
