//! The half about versions.

use async_trait::async_trait;

use super::LocalHost;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, DeployRequest, DeployResponse, DeploymentsView,
    KillRequest, KillResponse, LogsRequest, RollbackRequest, TrialOutcome, UpdateRequest, WatchRequest,
};
use crate::model::deployment::Deployment;
use crate::model::forward::ChangeResult;
use crate::model::name::ServiceName;
use crate::ops::host::deployments;
use crate::world::link::{HostDeployments, LinkError, SharedLineSink};

#[async_trait]
impl HostDeployments for LocalHost {
    async fn list_deployments(&self) -> Result<DeploymentsView, LinkError> {
        Ok(deployments::read_view(&self.world).await?)
    }

    async fn deploy(&self, request: &DeployRequest) -> Result<DeployResponse, LinkError> {
        Ok(deployments::deploy(&self.world, request).await?)
    }

    async fn update(&self, request: &UpdateRequest) -> Result<Deployment, LinkError> {
        Ok(deployments::update(&self.world, request).await?)
    }

    async fn assign(
        &self,
        service: &ServiceName,
        request: &AssignRequest,
    ) -> Result<AssignResponse, LinkError> {
        deployments::check_service(&self.world, service, &request.which)?;
        Ok(deployments::assign(&self.world, request).await?)
    }

    async fn rollback(
        &self,
        service: &ServiceName,
        request: &RollbackRequest,
    ) -> Result<AssignResponse, LinkError> {
        Ok(deployments::rollback(&self.world, service, request).await?)
    }

    async fn watch_trial(
        &self,
        service: &ServiceName,
        request: &WatchRequest,
    ) -> Result<TrialOutcome, LinkError> {
        Ok(deployments::watch(&self.world, service, request).await?)
    }

    async fn kill(&self, request: &KillRequest) -> Result<KillResponse, LinkError> {
        Ok(deployments::kill(&self.world, request).await?)
    }

    async fn set_access(
        &self,
        service: &ServiceName,
        request: &AccessRequest,
    ) -> Result<ChangeResult, LinkError> {
        Ok(deployments::set_access(&self.world, service, request).await?)
    }

    async fn stream_logs(&self, request: &LogsRequest, heard: SharedLineSink) -> Result<(), LinkError> {
        Ok(deployments::stream_logs(&self.world, request, heard).await?)
    }
}
