//! The link to a host of the site: it takes a moment, may be cut, and may lose an answer. At its other end is the real host.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::site::{SharedSite, SiteHost};
use crate::model::api::{
    ForwardRequest, Hello, HostRelease, HostView, ProbeRequest, ProbeResult, RunOutcome, RunRequest,
    ServiceActivity, StatusRequest,
};
use crate::model::deployment::Digest;
use crate::model::forward::ChangeResult;
use crate::model::history::HistoryEntry;
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::Port;
use crate::ops::host::api::LocalHost;
use crate::world::fake::MS;
use crate::world::link::{HostLink, LinkError, SharedLineSink};

#[derive(Clone)]
pub(super) struct SiteLink {
    pub(super) name: HostName,
    pub(super) site: SharedSite,
    pub(super) host: Arc<LocalHost>,
}

pub fn build_broken_link_error() -> LinkError {
    LinkError::Broken { via: "ssh fake".into(), reason: "cut".into() }
}

impl SiteLink {
    pub(super) fn record_call(&self, name: &'static str) {
        self.site.of(&self.name, |host| host.calls.push(name));
    }

    /// Half of the way; what happens in between happens on the host.
    pub(super) async fn simulate_send(&self) -> Result<(), LinkError> {
        tokio::time::sleep(MS * 2).await;
        if self.site.of(&self.name, |host| host.is_reachable) {
            Ok(())
        } else {
            Err(build_broken_link_error())
        }
    }

    /// The answer may be lost.
    pub(super) async fn simulate_reply(&self) -> Result<(), LinkError> {
        self.simulate_send().await?;
        let lost = self.site.of(&self.name, |host| {
            let left = host.lost_answers.checked_sub(1);
            host.lost_answers = left.unwrap_or_default();
            left.is_some()
        });
        if lost { Err(build_broken_link_error()) } else { Ok(()) }
    }

    pub(super) async fn run_round_trip<T>(
        &self,
        act: impl FnOnce(&mut SiteHost) -> T + Send,
    ) -> Result<T, LinkError>
    where
        T: Send,
    {
        self.call(async { Ok(self.site.of(&self.name, act)) }).await
    }

    /// A call of the real host. Its answer is not lost: only a change counts for that.
    async fn call<T>(&self, call: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
        self.simulate_send().await?;
        let answer = call.await;
        self.simulate_send().await?;
        answer
    }
}

#[async_trait]
impl HostLink for SiteLink {
    fn transport_label(&self) -> String {
        format!("ssh {}", self.name)
    }

    async fn greet(&self) -> Result<Hello, LinkError> {
        self.record_call("greet");
        self.call(self.host.greet()).await
    }

    async fn fetch_status(&self, question: &StatusRequest) -> Result<HostView, LinkError> {
        self.record_call("fetch_status");
        self.call(self.host.fetch_status(question)).await
    }

    async fn fetch_activity(&self, service: &ServiceName, port: Port) -> Result<ServiceActivity, LinkError> {
        self.record_call("fetch_activity");
        self.call(self.host.fetch_activity(service, port)).await
    }

    async fn probe(&self, request: &ProbeRequest) -> Result<ProbeResult, LinkError> {
        self.record_call("probe");
        self.call(self.host.probe(request)).await
    }

    /// Delivers a request that is on its way, even when its sender no longer waits for the answer.
    async fn set_forward(&self, request: &ForwardRequest) -> Result<ChangeResult, LinkError> {
        self.record_call("set_forward");
        if let Some(error) = self.site.of(&self.name, |host| host.switch_error.clone()) {
            return Err(error);
        }
        let (link, request) = (self.clone(), request.clone());
        let arrives = async move {
            link.simulate_send().await?;
            link.host.set_forward(&request).await
        };
        let changed = tokio::spawn(arrives).await.unwrap()?;
        self.simulate_reply().await?;
        Ok(changed)
    }

    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> Result<RunOutcome, LinkError> {
        self.record_call("run");
        self.call(self.host.run(request, heard)).await
    }

    async fn load_history(
        &self,
        service: Option<&ServiceName>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, LinkError> {
        self.record_call("load_history");
        self.call(self.host.load_history(service, limit)).await
    }

    async fn upload_release(
        &self,
        service: &ServiceName,
        release: &str,
        archive: &Path,
    ) -> Result<Digest, LinkError> {
        self.record_call("upload_release");
        self.call(self.host.upload_release(service, release, archive)).await
    }

    async fn list_releases(&self, service: &ServiceName) -> Result<Vec<HostRelease>, LinkError> {
        self.record_call("list_releases");
        self.call(self.host.list_releases(service)).await
    }
}
