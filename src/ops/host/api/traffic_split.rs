//! The half about shadows and canaries.

use async_trait::async_trait;

use super::InProcess;
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::name::ServiceName;
use crate::model::proxy::ProxyStats;
use crate::model::traffic_split::{Split, SplitRequest};
use crate::ops::host::proxy;
use crate::world::link::{HostSplits, LinkError};

#[async_trait]
impl HostSplits for InProcess {
    async fn split(&self, service: &ServiceName, request: &SplitRequest) -> Result<Split, LinkError> {
        Ok(proxy::split(&self.world, service, request).await?)
    }

    async fn proxy(&self) -> Result<Option<ProxyStats>, LinkError> {
        Ok(proxy::counted(&self.world).await?)
    }

    async fn evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> Result<Option<Evidence>, LinkError> {
        Ok(proxy::evidence(&self.world, service, deployment).await?)
    }
}
