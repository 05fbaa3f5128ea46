//! The calls about versions. A call that waits on the host may take as long as the request allows, and a little more.

use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;

use super::{ANSWER_TIMEOUT, HttpLink};
use crate::model::api::RunOutcome;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, DeployRequest, DeployResponse, DeploymentsView,
    KillRequest, KillResponse, LogsRequest, RollbackRequest, TrialOutcome, UpdateRequest, WatchRequest,
};
use crate::model::deployment::Deployment;
use crate::model::forward::ChangeResult;
use crate::model::name::ServiceName;
use crate::world::link::{HostDeployments, LinkError, SharedLineSink};

/// Another main: its health is waited for, and that the kernel forgets the connections to the one before (10 s).
const ASSIGN_TIMEOUT: Duration = ANSWER_TIMEOUT.saturating_add(Duration::from_mins(1));

#[async_trait]
impl HostDeployments for HttpLink {
    async fn versions(&self) -> Result<DeploymentsView, LinkError> {
        self.request_json(Method::GET, "/v1/deployments", None::<&()>).await
    }

    async fn deploy(&self, request: &DeployRequest) -> Result<DeployResponse, LinkError> {
        let bound = ANSWER_TIMEOUT + request.health_timeout;
        self.request_json_within(bound, Method::POST, "/v1/deployments", Some(request)).await
    }

    async fn update(&self, request: &UpdateRequest) -> Result<Deployment, LinkError> {
        let grace = request.how.as_ref().map_or(Duration::from_mins(1), |how| how.grace);
        let bound = ANSWER_TIMEOUT + request.health_timeout + request.drain_timeout + grace;
        let path = format!("/v1/deployments/{}", request.id);
        self.request_json_within(bound, Method::PUT, &path, Some(request)).await
    }

    async fn assign(
        &self,
        service: &ServiceName,
        request: &AssignRequest,
    ) -> Result<AssignResponse, LinkError> {
        self.request_json_within(
            ASSIGN_TIMEOUT,
            Method::PUT,
            &format!("/v1/services/{service}/main"),
            Some(request),
        )
        .await
    }

    async fn rollback(
        &self,
        service: &ServiceName,
        request: &RollbackRequest,
    ) -> Result<AssignResponse, LinkError> {
        let path = format!("/v1/services/{service}/rollback");
        self.request_json_within(ASSIGN_TIMEOUT, Method::POST, &path, Some(request)).await
    }

    /// Waits for a limited time per request: the connection may not stay silent for longer.
    async fn watch_trial(
        &self,
        service: &ServiceName,
        request: &WatchRequest,
    ) -> Result<TrialOutcome, LinkError> {
        let path = format!("/v1/services/{service}/watch");
        loop {
            let end: Option<TrialOutcome> = self.request_json(Method::POST, &path, Some(request)).await?;
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    async fn kill(&self, request: &KillRequest) -> Result<KillResponse, LinkError> {
        let bound = ANSWER_TIMEOUT + request.drain_timeout * 2 + Duration::from_mins(1);
        let path = format!("/v1/deployments/{}", request.id);
        self.request_json_within(bound, Method::DELETE, &path, Some(request)).await
    }

    async fn set_access(
        &self,
        service: &ServiceName,
        request: &AccessRequest,
    ) -> Result<ChangeResult, LinkError> {
        self.request_json(Method::PATCH, &format!("/v1/services/{service}"), Some(request)).await
    }

    async fn stream_logs(&self, request: &LogsRequest, heard: SharedLineSink) -> Result<(), LinkError> {
        let LogsRequest { id, tail, follow } = request;
        let tail = tail.map(|tail| format!("&tail={tail}")).unwrap_or_default();
        let path = format!("/v1/deployments/{id}/logs?follow={follow}{tail}");
        let _ended: RunOutcome = self.stream_lines(Method::GET, &path, None::<&()>, heard).await?;
        Ok(())
    }
}
