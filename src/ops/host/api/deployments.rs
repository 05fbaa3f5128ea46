//! The half about versions. No answer has the value of a variable of an instance's environment.

use async_trait::async_trait;

use super::LocalHost;
use super::caller::run_for_caller;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, CloseIdleRequest, CloseIdleResponse, DeployRequest,
    DeployResponse, DeploymentsView, KillRequest, KillResponse, LogsRequest, MergeRequest, RollbackRequest,
    TrialOutcome, UpdateRequest, WatchRequest,
};
use crate::model::deployment::Deployment;
use crate::model::forward::ChangeResult;
use crate::model::name::ServiceName;
use crate::ops::host::completion::run_to_completion;
use crate::ops::host::deployments;
use crate::world::link::{HostDeployments, LinkResult, SharedLineSink};

#[async_trait]
impl HostDeployments for LocalHost {
    async fn list_deployments(&self) -> LinkResult<DeploymentsView> {
        Ok(deployments::read_view(&self.world).await?.redact())
    }

    async fn deploy(&self, request: &DeployRequest) -> LinkResult<DeployResponse> {
        let request = DeployRequest { actor: self.identify(&request.actor), ..request.clone() };
        run_for_caller(&self.world, move |world| async move { deployments::deploy(&world, &request).await })
            .await
            .map(DeployResponse::redact)
    }

    async fn update(&self, request: &UpdateRequest) -> LinkResult<Deployment> {
        let request = UpdateRequest { actor: self.identify(&request.actor), ..request.clone() };
        run_for_caller(&self.world, move |world| async move { deployments::update(&world, &request).await })
            .await
            .map(Deployment::redact)
    }

    async fn assign(&self, service: &ServiceName, request: &AssignRequest) -> LinkResult<AssignResponse> {
        deployments::check_service(&self.world, service, &request.which)?;
        let (world, request) =
            (self.world.clone(), AssignRequest { actor: self.identify(&request.actor), ..request.clone() });
        let change = async move { deployments::assign(&world, &request).await };
        Ok(run_to_completion(&self.world, change).await?.redact())
    }

    async fn rollback(&self, service: &ServiceName, request: &RollbackRequest) -> LinkResult<AssignResponse> {
        let (world, service, request) = (
            self.world.clone(),
            service.clone(),
            RollbackRequest { actor: self.identify(&request.actor), ..request.clone() },
        );
        let change = async move { deployments::rollback(&world, &service, &request).await };
        Ok(run_to_completion(&self.world, change).await?.redact())
    }

    async fn watch_trial(&self, service: &ServiceName, request: &WatchRequest) -> LinkResult<TrialOutcome> {
        let request = WatchRequest { actor: self.identify(&request.actor), ..request.clone() };
        Ok(deployments::watch(&self.world, service, &request).await?.redact())
    }

    async fn close_idle(
        &self,
        service: &ServiceName,
        request: &CloseIdleRequest,
    ) -> LinkResult<CloseIdleResponse> {
        Ok(deployments::close_backup_connections(&self.world, service, request).await?)
    }

    async fn kill(&self, request: &KillRequest) -> LinkResult<KillResponse> {
        let request = KillRequest { actor: self.identify(&request.actor), ..request.clone() };
        run_for_caller(&self.world, move |world| async move { deployments::kill(&world, &request).await })
            .await
            .map(KillResponse::redact)
    }

    async fn merge(&self, request: &MergeRequest) -> LinkResult<Deployment> {
        let (world, request) =
            (self.world.clone(), MergeRequest { actor: self.identify(&request.actor), ..request.clone() });
        let change = async move { deployments::merge(&world, &request).await };
        Ok(run_to_completion(&self.world, change).await?.redact())
    }

    async fn set_access(&self, service: &ServiceName, request: &AccessRequest) -> LinkResult<ChangeResult> {
        let (world, service, request) = (
            self.world.clone(),
            service.clone(),
            AccessRequest { actor: self.identify(&request.actor), ..request.clone() },
        );
        let change = async move { deployments::set_access(&world, &service, &request).await };
        Ok(run_to_completion(&self.world, change).await?)
    }

    async fn stream_logs(&self, request: &LogsRequest, heard: SharedLineSink) -> LinkResult<()> {
        Ok(deployments::stream_logs(&self.world, request, heard).await?)
    }
}
