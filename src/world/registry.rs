//! A service catalogue with a key-value store, in which a host registers itself and claims its slots.

use async_trait::async_trait;

use crate::model::name::HostName;
use crate::model::registration::{CatalogEntry, HostIdentity, Registration, SlotClaim};

/// Why the catalogue did not answer, or refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct RegistryError {
    pub reason: String,
}

pub type RegistryResult<T> = Result<T, RegistryError>;

/// Every call is bounded in time by the adapter.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Its name and address in messages.
    fn label(&self) -> String;

    /// The registrations that switchman made for this host, as the local agent of the catalogue has them.
    async fn list_registrations(&self, host: &HostName) -> RegistryResult<Vec<Registration>>;

    /// Adds a registration with its check, or replaces both in one step.
    async fn register(&self, registration: &Registration) -> RegistryResult<()>;

    /// Sends the state of the check of a registration, and renews it.
    async fn renew_check(&self, registration: &Registration) -> RegistryResult<()>;

    async fn deregister(&self, id: &str) -> RegistryResult<()>;

    /// All instances of a service, those of failed nodes among them.
    async fn list_entries(&self, catalog_name: &str) -> RegistryResult<Vec<CatalogEntry>>;

    /// Removes the entry of a failed node.
    async fn remove_entry(&self, entry: &CatalogEntry) -> RegistryResult<()>;

    async fn list_claims(&self, catalog_name: &str) -> RegistryResult<Vec<SlotClaim>>;

    /// Opens a session that ends when this node fails, and only then.
    async fn open_session(&self, host: &HostName) -> RegistryResult<String>;

    /// Acquires a slot: `false` where another session holds it, or held it until a moment ago.
    async fn acquire_slot(
        &self,
        catalog_name: &str,
        slot: u16,
        session: &str,
        owner: &HostIdentity,
    ) -> RegistryResult<bool>;

    /// Deletes the claim, unless it has changed since it was read.
    async fn release_slot(&self, catalog_name: &str, claim: &SlotClaim) -> RegistryResult<()>;
}
