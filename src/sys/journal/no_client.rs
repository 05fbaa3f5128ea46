//! A client of a key-value server whose settings are wrong: every call says so.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::kv::{KvClient, KvError, KvPage, KvPair, KvTransaction, LeaseId};

/// The client, or one whose calls fail with the reason.
pub fn client_or_failure<C: KvClient + 'static>(
    built: Result<C, String>,
    label: String,
) -> Arc<dyn KvClient> {
    match built {
        Ok(client) => Arc::new(client),
        Err(reason) => Arc::new(NoClient { label, reason }),
    }
}

/// In place of a client that could not be made.
struct NoClient {
    label: String,
    reason: String,
}

impl NoClient {
    fn refuse<T>(&self) -> Result<T, KvError> {
        Err(KvError::Refused(self.reason.clone()))
    }
}

#[async_trait]
impl KvClient for NoClient {
    fn label(&self) -> String {
        self.label.clone()
    }

    async fn get(&self, _: &str) -> Result<Option<KvPair>, KvError> {
        self.refuse()
    }

    async fn scan(&self, _: &str, _: &str) -> Result<KvPage, KvError> {
        self.refuse()
    }

    async fn transact(&self, _: &KvTransaction) -> Result<bool, KvError> {
        self.refuse()
    }

    async fn grant_lease(&self, _: Duration) -> Result<LeaseId, KvError> {
        self.refuse()
    }

    async fn renew_lease(&self, _: &LeaseId) -> Result<bool, KvError> {
        self.refuse()
    }

    async fn revoke_lease(&self, _: &LeaseId) -> Result<(), KvError> {
        self.refuse()
    }

    async fn wait_for_change(&self, _: &str, _: Option<u64>, _: Duration) -> Result<(), KvError> {
        self.refuse()
    }

    fn reconnect(&self) -> Arc<dyn KvClient> {
        Arc::new(Self { label: self.label.clone(), reason: self.reason.clone() })
    }
}
