//! The recorded deployments of this host.

use std::time::Duration;

use async_trait::async_trait;

use super::store::{LockGuard, StoreResult};
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::name::ServiceName;

/// Every write is durable when the call returns.
#[async_trait]
pub trait DeploymentStore: Send + Sync {
    /// Serializes deploys, updates and kills of a service: waits at most `patience` for another switchman process. A change
    /// of main does not need this lock.
    async fn lock_service(
        &self,
        service: &ServiceName,
        purpose: &str,
        patience: Duration,
    ) -> StoreResult<Box<dyn LockGuard>>;

    /// All deployments, by service and age.
    fn all(&self) -> StoreResult<Vec<Deployment>>;

    /// The deployments of one service, by age.
    fn of(&self, service: &ServiceName) -> StoreResult<Vec<Deployment>> {
        Ok(self.all()?.into_iter().filter(|one| one.service == *service).collect())
    }

    /// Adds a deployment, or replaces the one recorded under its id. A second deployment of a service's version is an
    /// error.
    fn put(&self, deployment: &Deployment) -> StoreResult<()>;

    /// Replaces an id wherever it is recorded, as one transaction: in the deployment, and in the routes, the trial and the
    /// traffic split of its service.
    fn rename(&self, from: &DeploymentId, renamed: &Deployment) -> StoreResult<()>;

    fn remove(&self, id: &DeploymentId) -> StoreResult<()>;
}
