//! The half about shadows and canaries.

use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;

use super::{ANSWER, HttpLink};
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::proxy::ProxyStats;
use crate::model::traffic_split::{Split, SplitRequest};
use crate::world::link::{HostSplits, LinkError};

/// A proxy is started, asked and let in; each step has its own bound on the host.
const STARTS: Duration = Duration::from_secs(30);

#[async_trait]
impl HostSplits for HttpLink {
    async fn split(&self, service: &ServiceName, request: &SplitRequest) -> Result<Split, LinkError> {
        let path = format!("/v1/services/{service}/splits");
        self.ask_within(ANSWER + STARTS, Method::PUT, &path, Some(request)).await
    }

    async fn proxy(&self) -> Result<Option<ProxyStats>, LinkError> {
        self.ask(Method::GET, "/v1/proxy", None::<&()>).await
    }

    async fn evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> Result<Option<Evidence>, LinkError> {
        let path = format!("/v1/services/{service}/evidence/{deployment}");
        self.ask(Method::GET, &path, None::<&()>).await
    }
}
