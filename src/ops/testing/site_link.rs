//! The link to a host of the site: it takes a moment, may be cut, and may lose an answer. At its other end is the real host.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::site::{SharedSite, SiteHost};
use crate::model::api::deployments::WithdrawRequest;
use crate::model::api::journal::{JournalAnswer, JournalRequest};
use crate::model::api::{
    ForwardRequest, Hello, HostRelease, HostView, ProbeRequest, ProbeResult, RunOutcome, RunRequest,
    ServiceActivity, StatusRequest,
};
use crate::model::deployment::Digest;
use crate::model::failure::ErrorCode;
use crate::model::forward::ChangeResult;
use crate::model::history::HistoryEntry;
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::Port;
use crate::model::registration::RegistrationState;
use crate::model::release::ReleaseCheck;
use crate::ops::host::api::LocalHost;
use crate::world::fake::MS;
use crate::world::link::{HostLink, LinkError, LinkResult, SharedLineSink};

#[derive(Clone)]
pub(super) struct SiteLink {
    pub(super) name: HostName,
    pub(super) site: SharedSite,
    pub(super) host: Arc<LocalHost>,
}

pub fn build_broken_link_error() -> LinkError {
    LinkError::Broken { via: "ssh fake".into(), reason: "cut".into() }
}

/// The refusal of a host whose rules another program holds.
pub fn build_locked_error() -> LinkError {
    LinkError::Refused { code: ErrorCode::RulesLocked, message: "xtables is locked".into() }
}

impl SiteLink {
    pub(super) fn record_call(&self, name: &'static str) {
        self.site.of(&self.name, |host| host.calls.push(name));
    }

    /// Half of the way; what happens in between happens on the host.
    pub(super) async fn simulate_send(&self) -> LinkResult<()> {
        tokio::time::sleep(MS * 2).await;
        if self.site.of(&self.name, |host| host.is_reachable) {
            Ok(())
        } else {
            Err(build_broken_link_error())
        }
    }

    /// The answer may be lost.
    pub(super) async fn simulate_reply(&self) -> LinkResult<()> {
        self.simulate_send().await?;
        let lost = self.site.of(&self.name, |host| {
            let left = host.lost_answers.checked_sub(1);
            host.lost_answers = left.unwrap_or_default();
            left.is_some()
        });
        if lost { Err(build_broken_link_error()) } else { Ok(()) }
    }

    /// A call that reads a fact of the site. Its answer is not lost: only a change counts for that.
    pub(super) async fn read<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&mut SiteHost) -> LinkResult<T>,
    ) -> LinkResult<T> {
        self.call(name, async { self.site.of(&self.name, read) }).await
    }

    /// A call that changes a fact of the site, whose answer may be lost.
    pub(super) async fn change<T>(
        &self,
        name: &'static str,
        change: impl FnOnce(&mut SiteHost) -> LinkResult<T>,
    ) -> LinkResult<T> {
        self.record_call(name);
        self.simulate_send().await?;
        let changed = self.site.of(&self.name, change)?;
        self.simulate_reply().await?;
        Ok(changed)
    }

    /// A call of the real host.
    async fn call<T>(&self, name: &'static str, call: impl Future<Output = LinkResult<T>>) -> LinkResult<T> {
        self.record_call(name);
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

    async fn greet(&self) -> LinkResult<Hello> {
        self.call("greet", self.host.greet()).await
    }

    async fn fetch_status(&self, question: &StatusRequest) -> LinkResult<HostView> {
        self.call("fetch_status", self.host.fetch_status(question)).await
    }

    async fn fetch_activity(&self, service: &ServiceName, port: Port) -> LinkResult<ServiceActivity> {
        self.call("fetch_activity", self.host.fetch_activity(service, port)).await
    }

    async fn list_listeners(&self, service: &ServiceName, port: Port) -> LinkResult<Vec<SocketAddr>> {
        self.call("list_listeners", self.host.list_listeners(service, port)).await
    }

    async fn probe(&self, request: &ProbeRequest) -> LinkResult<ProbeResult> {
        self.call("probe", self.host.probe(request)).await
    }

    /// Delivers a request that is on its way, even when its sender no longer waits for the answer.
    async fn set_forward(&self, request: &ForwardRequest) -> LinkResult<ChangeResult> {
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

    async fn withdraw(
        &self,
        service: &ServiceName,
        request: &WithdrawRequest,
    ) -> LinkResult<RegistrationState> {
        self.call("withdraw", self.host.withdraw(service, request)).await
    }

    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> LinkResult<RunOutcome> {
        self.call("run", self.host.run(request, heard)).await
    }

    async fn load_history(&self, service: Option<&ServiceName>, limit: u32) -> LinkResult<Vec<HistoryEntry>> {
        self.call("load_history", self.host.load_history(service, limit)).await
    }

    async fn upload_release(
        &self,
        service: &ServiceName,
        release: &str,
        archive: &Path,
    ) -> LinkResult<Digest> {
        self.call("upload_release", self.host.upload_release(service, release, archive)).await
    }

    async fn list_releases(&self, service: &ServiceName) -> LinkResult<Vec<HostRelease>> {
        self.call("list_releases", self.host.list_releases(service)).await
    }

    async fn verify_release(&self, service: &ServiceName, release: &str) -> LinkResult<ReleaseCheck> {
        self.call("verify_release", self.host.verify_release(service, release)).await
    }

    async fn call_journal(
        &self,
        service: &ServiceName,
        request: &JournalRequest,
    ) -> LinkResult<JournalAnswer> {
        self.call("call_journal", self.host.call_journal(service, request)).await
    }
}
