//! The half about versions.

use async_trait::async_trait;

use super::InProcess;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, Assigned, DeployRequest, Deployed, KillRequest, Killed, LogsRequest,
    RollbackRequest, TrialEnd, UpdateRequest, VersionsView, WatchRequest,
};
use crate::model::deployment::Deployment;
use crate::model::forward::Changed;
use crate::model::name::ServiceName;
use crate::ops::host::deployments;
use crate::world::link::{Heard, HostVersions, LinkError};

#[async_trait]
impl HostVersions for InProcess {
    async fn versions(&self) -> Result<VersionsView, LinkError> {
        Ok(deployments::view(&self.world).await?)
    }

    async fn deploy(&self, request: &DeployRequest) -> Result<Deployed, LinkError> {
        Ok(deployments::deploy(&self.world, request).await?)
    }

    async fn update(&self, request: &UpdateRequest) -> Result<Deployment, LinkError> {
        Ok(deployments::update(&self.world, request).await?)
    }

    async fn assign(&self, service: &ServiceName, request: &AssignRequest) -> Result<Assigned, LinkError> {
        deployments::is_of(&self.world, service, &request.which)?;
        Ok(deployments::assign(&self.world, request).await?)
    }

    async fn rollback(
        &self,
        service: &ServiceName,
        request: &RollbackRequest,
    ) -> Result<Assigned, LinkError> {
        Ok(deployments::rollback(&self.world, service, request).await?)
    }

    async fn watch(&self, service: &ServiceName, request: &WatchRequest) -> Result<TrialEnd, LinkError> {
        Ok(deployments::watch(&self.world, service, request).await?)
    }

    async fn kill(&self, request: &KillRequest) -> Result<Killed, LinkError> {
        Ok(deployments::kill(&self.world, request).await?)
    }

    async fn access(&self, service: &ServiceName, request: &AccessRequest) -> Result<Changed, LinkError> {
        Ok(deployments::access(&self.world, service, request).await?)
    }

    async fn logs(&self, request: &LogsRequest, heard: Heard) -> Result<(), LinkError> {
        Ok(deployments::logs(&self.world, request, heard).await?)
    }
}
