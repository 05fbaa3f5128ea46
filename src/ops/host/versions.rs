//! The half about versions.

use async_trait::async_trait;

use super::InProcess;
use crate::model::deployment::Deployment;
use crate::model::forward::Changed;
use crate::model::name::ServiceName;
use crate::model::versions::{
    AccessRequest, AssignRequest, Assigned, DeployRequest, Deployed, KillRequest, Killed, LogsRequest,
    RollbackRequest, TrialEnd, UpdateRequest, VersionsView, WatchRequest,
};
use crate::ops::here;
use crate::world::link::{Heard, HostVersions, LinkError};

#[async_trait]
impl HostVersions for InProcess {
    async fn versions(&self) -> Result<VersionsView, LinkError> {
        Ok(here::view(&self.world).await?)
    }

    async fn deploy(&self, request: &DeployRequest) -> Result<Deployed, LinkError> {
        Ok(here::deploy(&self.world, request).await?)
    }

    async fn update(&self, request: &UpdateRequest) -> Result<Deployment, LinkError> {
        Ok(here::update(&self.world, request).await?)
    }

    async fn assign(&self, service: &ServiceName, request: &AssignRequest) -> Result<Assigned, LinkError> {
        here::is_of(&self.world, service, &request.which)?;
        Ok(here::assign(&self.world, request).await?)
    }

    async fn rollback(
        &self,
        service: &ServiceName,
        request: &RollbackRequest,
    ) -> Result<Assigned, LinkError> {
        Ok(here::rollback(&self.world, service, request).await?)
    }

    async fn watch(&self, service: &ServiceName, request: &WatchRequest) -> Result<TrialEnd, LinkError> {
        Ok(here::watch(&self.world, service, request).await?)
    }

    async fn kill(&self, request: &KillRequest) -> Result<Killed, LinkError> {
        Ok(here::kill(&self.world, request).await?)
    }

    async fn access(&self, service: &ServiceName, request: &AccessRequest) -> Result<Changed, LinkError> {
        Ok(here::access(&self.world, service, request).await?)
    }

    async fn logs(&self, request: &LogsRequest, heard: Heard) -> Result<(), LinkError> {
        Ok(here::logs(&self.world, request, heard).await?)
    }
}
