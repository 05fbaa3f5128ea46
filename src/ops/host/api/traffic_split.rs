//! The half about shadows and canaries.

use async_trait::async_trait;

use super::LocalHost;
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::proxy::ProxyStats;
use crate::model::traffic_split::{TrafficSplitRequest, TrafficSplitResponse};
use crate::ops::host::completion::run_to_completion;
use crate::ops::host::proxy;
use crate::world::link::{HostTrafficSplit, LinkResult};

#[async_trait]
impl HostTrafficSplit for LocalHost {
    async fn change_traffic_split(
        &self,
        service: &ServiceName,
        request: &TrafficSplitRequest,
    ) -> LinkResult<TrafficSplitResponse> {
        let (world, service, request) = (
            self.world.clone(),
            service.clone(),
            TrafficSplitRequest { actor: self.identify(&request.actor), ..request.clone() },
        );
        let change = async move { proxy::apply_split(&world, &service, &request).await };
        Ok(run_to_completion(&self.world, change).await?)
    }

    async fn read_proxy_stats(&self) -> LinkResult<Option<ProxyStats>> {
        Ok(proxy::read_stats(&self.world).await?)
    }

    async fn read_evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> LinkResult<Option<Evidence>> {
        Ok(proxy::read_evidence(&self.world, service, deployment).await?)
    }
}
