//! The journals that this machine keeps for fleets whose operators are on other machines.

use async_trait::async_trait;

use crate::model::api::journal::{JournalAnswer, JournalRequest};
use crate::model::name::ServiceName;

#[async_trait]
pub trait JournalKeeper: Send + Sync {
    /// Carries out one operation, all of it or nothing. Bounded by the limit of SQLite's wait for another writer.
    async fn carry_out(&self, service: &ServiceName, request: &JournalRequest) -> JournalAnswer;
}
