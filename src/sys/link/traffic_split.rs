//! The half about shadows and canaries.

use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;

use super::{ANSWER_TIMEOUT, HttpLink};
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::proxy::ProxyStats;
use crate::model::traffic_split::{TrafficSplitRequest, TrafficSplitResponse};
use crate::world::link::{HostTrafficSplit, LinkError};

/// The host starts a proxy, checks its health and routes traffic to it; each step has its own timeout on the host.
const PROXY_START_TIMEOUT: Duration = Duration::from_secs(30);

#[async_trait]
impl HostTrafficSplit for HttpLink {
    async fn split(
        &self,
        service: &ServiceName,
        request: &TrafficSplitRequest,
    ) -> Result<TrafficSplitResponse, LinkError> {
        let path = format!("/v1/services/{service}/splits");
        self.request_json_within(ANSWER_TIMEOUT + PROXY_START_TIMEOUT, Method::PUT, &path, Some(request))
            .await
    }

    async fn read_proxy_stats(&self) -> Result<Option<ProxyStats>, LinkError> {
        self.request_json(Method::GET, "/v1/proxy", None::<&()>).await
    }

    async fn read_evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> Result<Option<Evidence>, LinkError> {
        let path = format!("/v1/services/{service}/evidence/{deployment}");
        self.request_json(Method::GET, &path, None::<&()>).await
    }
}
