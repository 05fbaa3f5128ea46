//! The versions of a host of the site: which is main, what became of it.

use async_trait::async_trait;
use tokio::time::Instant;

use super::site::SiteHost;
use super::site_link::SiteLink;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, AssignScope, CloseIdleRequest, CloseIdleResponse,
    DeployRequest, DeployResponse, DeploymentRef, DeploymentView, DeploymentsView, KillRequest, KillResponse,
    LogsRequest, MergeRequest, RollbackRequest, TrialOutcome, UpdateRequest, WatchRequest,
};
use crate::model::deployment::{Access, Deployment, DeploymentStatus, ProcessState, Role, Stage};
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::forward::{ChangeResult, Route, Routes, ServiceRecord};
use crate::model::name::ServiceName;
use crate::model::observation::ObservationError;
use crate::model::port_forward::{Forward, Switch};
use crate::model::socket::SocketCount;
use crate::world::fake::MS;
use crate::world::link::{HostDeployments, LinkError, LinkResult, SharedLineSink};

pub(super) fn refuse_unsupported<T>() -> LinkResult<T> {
    Err(LinkError::Refused { code: ErrorCode::NotFound, message: "not on this site".to_owned() })
}

/// Each host has these, and nothing runs on them.
const INSTALLED: [(&str, u16); 3] = [("0.9.0", 20000), ("1.0.0", 20001), ("2.0.0", 20002)];

fn count_sockets(host: &SiteHost) -> Result<SocketCount, ObservationError> {
    if host.kernel_unreadable { Err(ObservationError::new("no answer")) } else { Ok(SocketCount::default()) }
}

fn build_view(host: &SiteHost) -> DeploymentsView {
    let view = |(version, at): &(&str, u16)| DeploymentView {
        deployment: example::deployment("shop", version, *at),
        role: if host.main == *version { Role::Main } else { Role::Shadow },
        backup: host.backup == *version,
        status: if host.main == *version { DeploymentStatus::Active } else { DeploymentStatus::Drained },
        process: Ok(ProcessState::External),
        sockets: count_sockets(host),
        via_main_port: count_sockets(host),
        instances: vec![],
    };
    let mut deployments: Vec<DeploymentView> = INSTALLED.iter().map(view).collect();
    if host.update_has_traffic.is_some() {
        let main = deployments.iter_mut().find(|one| one.role == Role::Main);
        main.unwrap().deployment.stage = Stage::Updating;
    }
    DeploymentsView { services: vec![build_record(host)], deployments, runner: "fake".to_owned() }
}

/// Both ports route to main, or to the new instance of its update.
fn build_record(host: &SiteHost) -> ServiceRecord {
    let (_, at) = INSTALLED.iter().find(|(version, _)| host.main == *version).unwrap();
    let target = example::port(if host.update_has_traffic == Some(true) { 20009 } else { *at });
    let (ports, deployment) = (example::make_ports(), example::deployment("shop", &host.main, *at));
    let leg = |port| Route::new(port, deployment.id.clone(), target);
    let routes = Routes::new(leg(ports.main), leg(ports.backup));
    ServiceRecord {
        forward: Forward { target, ..example::make_forward("shop") },
        generation: host.generation,
        routes: Some(routes),
        layer7: host.layer7.layer7(),
        access: if host.is_private { Access::Private } else { Access::Public },
        ..example::make_record("shop", Switch::On)
    }
}

fn build_change(host: &SiteHost) -> ChangeResult {
    ChangeResult { transactions: vec![], generation: host.generation, unfinished_history: None, packet: None }
}

impl SiteLink {
    fn build_assign_response(host: &SiteHost, was: &str) -> AssignResponse {
        let deployment = |version: &str| example::deployment("shop", version, 20000);
        AssignResponse {
            deployment: deployment(&host.main),
            previous: Some(deployment(was)),
            change: build_change(host),
            closed_connections: 0,
            all_closed: true,
        }
    }
}

#[async_trait]
impl HostDeployments for SiteLink {
    async fn list_deployments(&self) -> LinkResult<DeploymentsView> {
        self.read("list_deployments", |host| Ok(build_view(host))).await
    }

    async fn deploy(&self, _: &DeployRequest) -> LinkResult<DeployResponse> {
        self.record_call("deploy");
        refuse_unsupported()
    }

    /// Two seconds to come up, three to drain.
    async fn update(&self, request: &UpdateRequest) -> LinkResult<Deployment> {
        self.record_call("update");
        self.simulate_send().await?;
        for (updating, takes) in [(false, 2000), (true, 3000)] {
            self.site.of(&self.name, |host| host.update_has_traffic = Some(updating));
            tokio::time::sleep(MS * takes).await;
        }
        let updated = self.site.of(&self.name, |host| {
            host.update_has_traffic = None;
            host.updates.push(request.clone());
            example::deployment("shop", &host.main, 20009)
        });
        self.simulate_reply().await?;
        Ok(updated)
    }

    async fn assign(&self, _: &ServiceName, request: &AssignRequest) -> LinkResult<AssignResponse> {
        let DeploymentRef::Version { version, .. } = &request.which else { return refuse_unsupported() };
        let version = version.to_string();
        self.change("assign", |host| {
            if let Some(error) = host.assign_error.take() {
                return Err(error);
            }
            let was = host.main.clone();
            if request.scope == AssignScope::BackupOnly {
                host.backup = was.clone();
            } else {
                host.layer7.set_main(&example::deployment("shop", &version, 20000).id);
                host.main = version;
                host.is_healthy = !host.new_main_unhealthy;
                host.was_assigned_in_service |= host.forward;
            }
            let assigned = Self::build_assign_response(host, &was);
            if request.scope == AssignScope::MainAndBackup && host.rollback_reason.is_some() {
                host.main = was;
            }
            Ok(assigned)
        })
        .await
    }

    /// Back to the backup, or where that is main itself, further back.
    async fn rollback(&self, _: &ServiceName, request: &RollbackRequest) -> LinkResult<AssignResponse> {
        self.read("rollback", |host| {
            let was = host.main.clone();
            if request.from.as_ref().is_some_and(|from| from.to_string() != was) {
                let message = format!("{was} is main");
                return Err(LinkError::Refused { code: ErrorCode::Unprocessable, message });
            }
            let target = if host.backup == was { "0.9.0".to_owned() } else { host.backup.clone() };
            if request.dry_run {
                let mut after = host.clone();
                after.main = target;
                return Ok(Self::build_assign_response(&after, &was));
            }
            host.main = target;
            host.is_healthy = true;
            Ok(Self::build_assign_response(host, &was))
        })
        .await
    }

    async fn watch_trial(&self, _: &ServiceName, request: &WatchRequest) -> LinkResult<TrialOutcome> {
        self.change("watch_trial", |host| {
            host.watch_started_at.get_or_insert_with(Instant::now);
            let main = Box::new(example::deployment("shop", &host.main, 20000));
            Ok(match &host.rollback_reason {
                _ if main.id == request.id => TrialOutcome::Passed,
                Some(why) => TrialOutcome::RolledBack { previous: main, reason: why.clone() },
                None => TrialOutcome::Overtaken { main: Some(main), actor: None },
            })
        })
        .await
    }

    /// Nothing is open on these hosts.
    async fn close_idle(&self, _: &ServiceName, _: &CloseIdleRequest) -> LinkResult<CloseIdleResponse> {
        self.read("close_idle", |_| Ok(CloseIdleResponse { closed: 0, remaining: 0 })).await
    }

    async fn kill(&self, _: &KillRequest) -> LinkResult<KillResponse> {
        self.record_call("kill");
        refuse_unsupported()
    }

    async fn merge(&self, _: &MergeRequest) -> LinkResult<Deployment> {
        self.record_call("merge");
        refuse_unsupported()
    }

    async fn set_access(&self, _: &ServiceName, request: &AccessRequest) -> LinkResult<ChangeResult> {
        self.read("set_access", |host| {
            if !request.dry_run {
                host.is_private = !request.public;
            }
            Ok(build_change(host))
        })
        .await
    }

    async fn stream_logs(&self, _: &LogsRequest, heard: SharedLineSink) -> LinkResult<()> {
        self.record_call("stream_logs");
        self.simulate_send().await?;
        heard.write_line(&format!("{} writes", self.name)).await;
        self.simulate_send().await
    }
}
