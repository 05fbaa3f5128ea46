//! The half about versions. A call that waits on the host may take as long as what is asked, and a little more.

use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;

use super::{ANSWER, HttpLink};
use crate::model::api::RunEnd;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, Assigned, DeployRequest, Deployed, KillRequest, Killed, LogsRequest,
    RollbackRequest, TrialEnd, UpdateRequest, VersionsView, WatchRequest,
};
use crate::model::deployment::Deployment;
use crate::model::forward::Changed;
use crate::model::name::ServiceName;
use crate::world::link::{Heard, HostVersions, LinkError};

/// Another main: its health is waited for, and that the kernel forgets the connections to the one before (10 s).
const MAIN: Duration = ANSWER.saturating_add(Duration::from_mins(1));

#[async_trait]
impl HostVersions for HttpLink {
    async fn versions(&self) -> Result<VersionsView, LinkError> {
        self.ask(Method::GET, "/v1/deployments", None::<&()>).await
    }

    async fn deploy(&self, request: &DeployRequest) -> Result<Deployed, LinkError> {
        let bound = ANSWER + request.health_timeout;
        self.ask_within(bound, Method::POST, "/v1/deployments", Some(request)).await
    }

    async fn update(&self, request: &UpdateRequest) -> Result<Deployment, LinkError> {
        let grace = request.how.as_ref().map_or(Duration::from_mins(1), |how| how.grace);
        let bound = ANSWER + request.health_timeout + request.drain_timeout + grace;
        let path = format!("/v1/deployments/{}", request.id);
        self.ask_within(bound, Method::PUT, &path, Some(request)).await
    }

    async fn assign(&self, service: &ServiceName, request: &AssignRequest) -> Result<Assigned, LinkError> {
        self.ask_within(MAIN, Method::PUT, &format!("/v1/services/{service}/main"), Some(request)).await
    }

    async fn rollback(
        &self,
        service: &ServiceName,
        request: &RollbackRequest,
    ) -> Result<Assigned, LinkError> {
        let path = format!("/v1/services/{service}/rollback");
        self.ask_within(MAIN, Method::POST, &path, Some(request)).await
    }

    /// Asked for a while at a time: what lies between may not stay silent for longer.
    async fn watch(&self, service: &ServiceName, request: &WatchRequest) -> Result<TrialEnd, LinkError> {
        let path = format!("/v1/services/{service}/watch");
        loop {
            let end: Option<TrialEnd> = self.ask(Method::POST, &path, Some(request)).await?;
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    async fn kill(&self, request: &KillRequest) -> Result<Killed, LinkError> {
        let bound = ANSWER + request.drain_timeout * 2 + Duration::from_mins(1);
        let path = format!("/v1/deployments/{}", request.id);
        self.ask_within(bound, Method::DELETE, &path, Some(request)).await
    }

    async fn access(&self, service: &ServiceName, request: &AccessRequest) -> Result<Changed, LinkError> {
        self.ask(Method::PATCH, &format!("/v1/services/{service}"), Some(request)).await
    }

    async fn logs(&self, request: &LogsRequest, heard: Heard) -> Result<(), LinkError> {
        let LogsRequest { id, tail, follow } = request;
        let tail = tail.map(|tail| format!("&tail={tail}")).unwrap_or_default();
        let path = format!("/v1/deployments/{id}/logs?follow={follow}{tail}");
        let _ended: RunEnd = self.stream(Method::GET, &path, None::<&()>, heard).await?;
        Ok(())
    }
}
