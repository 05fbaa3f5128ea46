//! The calls of the host API: each is one row of the table of endpoints.

use std::net::SocketAddr;
use std::path::Path;

use async_trait::async_trait;

use super::HttpLink;
use crate::model::api::deployments::WithdrawRequest;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, CloseIdleRequest, CloseIdleResponse, DeployRequest,
    DeployResponse, DeploymentsView, KillRequest, KillResponse, LogsRequest, MergeRequest, RollbackRequest,
    TrialOutcome, UpdateRequest, WatchRequest,
};
use crate::model::api::endpoint::{Endpoint, NoBody, NoQuery, PathValues};
use crate::model::api::endpoints::{
    ACCESS, ACTIVITY, ASSIGN, CLOSE_IDLE, DEPLOY, DEPLOYMENTS, EVIDENCE, FORWARD, HELLO, HISTORY,
    HistoryQuery, JOURNAL, KILL, KillQuery, LISTENERS, LOGS, LogsQuery, MERGE, PROBE, PROXY_STATS, PortQuery,
    RELEASES, ROLLBACK, RUN, STATUS, TRAFFIC_SPLIT, UPDATE, VERIFY_RELEASE, WATCH, WITHDRAW,
};
use crate::model::api::journal::{JournalAnswer, JournalRequest};
use crate::model::api::{
    ForwardRequest, Hello, HostRelease, HostView, ProbeRequest, ProbeResult, RunOutcome, RunRequest,
    ServiceActivity, StatusRequest,
};
use crate::model::deployment::{Deployment, DeploymentId, Digest};
use crate::model::evidence::Evidence;
use crate::model::forward::ChangeResult;
use crate::model::history::HistoryEntry;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::ProxyStats;
use crate::model::registration::RegistrationState;
use crate::model::release::ReleaseCheck;
use crate::model::traffic_split::{TrafficSplitRequest, TrafficSplitResponse};
use crate::world::link::{HostDeployments, HostLink, HostTrafficSplit, LinkResult, SharedLineSink};

impl HttpLink {
    async fn get<P: PathValues, R: serde::de::DeserializeOwned>(
        &self,
        endpoint: &Endpoint<P, NoQuery, NoBody, R>,
        path: &P,
    ) -> LinkResult<R> {
        self.call(endpoint, path, &NoQuery {}, &NoBody).await
    }
}

#[async_trait]
impl HostLink for HttpLink {
    fn transport_label(&self) -> String {
        self.transport.to_string()
    }

    async fn greet(&self) -> LinkResult<Hello> {
        self.get(&HELLO, &()).await
    }

    async fn fetch_status(&self, question: &StatusRequest) -> LinkResult<HostView> {
        self.call(&STATUS, &(), &NoQuery {}, question).await
    }

    async fn fetch_activity(&self, service: &ServiceName, port: Port) -> LinkResult<ServiceActivity> {
        self.call(&ACTIVITY, service, &PortQuery { port: port.get() }, &NoBody).await
    }

    async fn list_listeners(&self, service: &ServiceName, port: Port) -> LinkResult<Vec<SocketAddr>> {
        self.call(&LISTENERS, service, &PortQuery { port: port.get() }, &NoBody).await
    }

    async fn probe(&self, request: &ProbeRequest) -> LinkResult<ProbeResult> {
        self.call(&PROBE, &(), &NoQuery {}, request).await
    }

    async fn set_forward(&self, request: &ForwardRequest) -> LinkResult<ChangeResult> {
        self.call(&FORWARD, &request.forward.service, &NoQuery {}, request).await
    }

    async fn withdraw(
        &self,
        service: &ServiceName,
        request: &WithdrawRequest,
    ) -> LinkResult<RegistrationState> {
        self.call(&WITHDRAW, service, &NoQuery {}, request).await
    }

    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> LinkResult<RunOutcome> {
        self.stream_lines(&RUN, &(), &NoQuery {}, request, heard).await
    }

    async fn load_history(&self, service: Option<&ServiceName>, limit: u32) -> LinkResult<Vec<HistoryEntry>> {
        let query = HistoryQuery { limit, service: service.cloned() };
        self.call(&HISTORY, &(), &query, &NoBody).await
    }

    async fn upload_release(
        &self,
        service: &ServiceName,
        release: &str,
        archive: &Path,
    ) -> LinkResult<Digest> {
        self.upload(service, release, archive).await
    }

    async fn list_releases(&self, service: &ServiceName) -> LinkResult<Vec<HostRelease>> {
        self.get(&RELEASES, service).await
    }

    async fn verify_release(&self, service: &ServiceName, release: &str) -> LinkResult<ReleaseCheck> {
        self.get(&VERIFY_RELEASE, &(service.clone(), release.to_owned())).await
    }

    async fn call_journal(
        &self,
        service: &ServiceName,
        request: &JournalRequest,
    ) -> LinkResult<JournalAnswer> {
        self.call(&JOURNAL, service, &NoQuery {}, request).await
    }
}

#[async_trait]
impl HostDeployments for HttpLink {
    async fn list_deployments(&self) -> LinkResult<DeploymentsView> {
        self.get(&DEPLOYMENTS, &()).await
    }

    async fn deploy(&self, request: &DeployRequest) -> LinkResult<DeployResponse> {
        self.call(&DEPLOY, &(), &NoQuery {}, request).await
    }

    async fn update(&self, request: &UpdateRequest) -> LinkResult<Deployment> {
        self.call(&UPDATE, &request.id, &NoQuery {}, request).await
    }

    async fn assign(&self, service: &ServiceName, request: &AssignRequest) -> LinkResult<AssignResponse> {
        self.call(&ASSIGN, service, &NoQuery {}, request).await
    }

    async fn rollback(&self, service: &ServiceName, request: &RollbackRequest) -> LinkResult<AssignResponse> {
        self.call(&ROLLBACK, service, &NoQuery {}, request).await
    }

    /// Waits for a limited time per request: the connection may not stay silent for longer.
    async fn watch_trial(&self, service: &ServiceName, request: &WatchRequest) -> LinkResult<TrialOutcome> {
        loop {
            if let Some(end) = self.call(&WATCH, service, &NoQuery {}, request).await? {
                return Ok(end);
            }
        }
    }

    async fn close_idle(
        &self,
        service: &ServiceName,
        request: &CloseIdleRequest,
    ) -> LinkResult<CloseIdleResponse> {
        self.call(&CLOSE_IDLE, service, &NoQuery {}, request).await
    }

    async fn kill(&self, request: &KillRequest) -> LinkResult<KillResponse> {
        self.call(&KILL, &request.id, &KillQuery::default(), request).await
    }

    async fn merge(&self, request: &MergeRequest) -> LinkResult<Deployment> {
        self.call(&MERGE, &request.id, &NoQuery {}, request).await
    }

    async fn set_access(&self, service: &ServiceName, request: &AccessRequest) -> LinkResult<ChangeResult> {
        self.call(&ACCESS, service, &NoQuery {}, request).await
    }

    async fn stream_logs(&self, request: &LogsRequest, heard: SharedLineSink) -> LinkResult<()> {
        let query = LogsQuery { tail: request.tail, follow: Some(request.follow) };
        let _ended: RunOutcome = self.stream_lines(&LOGS, &request.id, &query, &NoBody, heard).await?;
        Ok(())
    }
}

#[async_trait]
impl HostTrafficSplit for HttpLink {
    async fn change_traffic_split(
        &self,
        service: &ServiceName,
        request: &TrafficSplitRequest,
    ) -> LinkResult<TrafficSplitResponse> {
        self.call(&TRAFFIC_SPLIT, service, &NoQuery {}, request).await
    }

    async fn read_proxy_stats(&self) -> LinkResult<Option<ProxyStats>> {
        self.get(&PROXY_STATS, &()).await
    }

    async fn read_evidence(
        &self,
        service: &ServiceName,
        deployment: &DeploymentId,
    ) -> LinkResult<Option<Evidence>> {
        self.get(&EVIDENCE, &(service.clone(), deployment.clone())).await
    }
}

#[cfg(test)]
mod tests;
