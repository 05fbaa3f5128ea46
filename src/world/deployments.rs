//! What is recorded of the deployments on this host.

use std::time::Duration;

use async_trait::async_trait;

use super::store::{LockGuard, StoreError};
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::name::ServiceName;

/// Every write is durable when the call returns.
#[async_trait]
pub trait DeploymentStore: Send + Sync {
    /// One deploy, update or kill of a service at a time: waits at most `patience` for another switchman. A change of main
    /// does not need it.
    async fn lock_service(
        &self,
        service: &ServiceName,
        purpose: &str,
        patience: Duration,
    ) -> Result<Box<dyn LockGuard>, StoreError>;

    /// All of them, by service and age.
    fn all(&self) -> Result<Vec<Deployment>, StoreError>;

    /// Those of one service, by age.
    fn of(&self, service: &ServiceName) -> Result<Vec<Deployment>, StoreError> {
        Ok(self.all()?.into_iter().filter(|one| one.service == *service).collect())
    }

    /// Adds one, or replaces what is recorded under its id. A second deployment of a service's version is an error.
    fn put(&self, deployment: &Deployment) -> Result<(), StoreError>;

    fn remove(&self, id: &DeploymentId) -> Result<(), StoreError>;
}
