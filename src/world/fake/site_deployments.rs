//! The versions of a host of the site: which is main, what became of it.

use async_trait::async_trait;
use tokio::time::Instant;

use super::MS;
use super::site::{SiteHost, SiteLink};
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, Assigned, DeployRequest, Deployed, DeploymentView, KillRequest, Killed,
    LogsRequest, Part, RollbackRequest, TrialEnd, UpdateRequest, VersionsView, WatchRequest, Which,
};
use crate::model::deployment::{Access, Deployment, Process, Role, Stage, Status};
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::forward::{Changed, Forward, Leg, Recorded, Routes, Switch};
use crate::model::name::ServiceName;
use crate::model::socket::SocketCount;
use crate::world::link::{Heard, HostVersions, LinkError};

pub(super) fn not_here<T>() -> Result<T, LinkError> {
    Err(LinkError::Refused { code: ErrorCode::NotFound, message: "not on this site".to_owned() })
}

/// Each host has these, and nothing runs on them.
const INSTALLED: [(&str, u16); 3] = [("0.9.0", 20000), ("1.0.0", 20001), ("2.0.0", 20002)];

fn count(host: &SiteHost) -> Result<SocketCount, String> {
    if host.unread_kernel { Err("no answer".to_owned()) } else { Ok(SocketCount::default()) }
}

fn view(host: &SiteHost) -> VersionsView {
    let view = |(version, at): &(&str, u16)| DeploymentView {
        deployment: example::deployment("shop", version, *at),
        role: if host.main == *version { Role::Main } else { Role::Shadow },
        backup: host.backup == *version,
        status: if host.main == *version { Status::Active } else { Status::Drained },
        process: Ok(Process::External),
        sockets: count(host),
        by_main: count(host),
    };
    let mut deployments: Vec<DeploymentView> = INSTALLED.iter().map(view).collect();
    if host.updating.is_some() {
        let main = deployments.iter_mut().find(|one| one.role == Role::Main);
        main.unwrap().deployment.stage = Stage::Updating;
    }
    VersionsView { services: vec![record(host)], deployments, runner: "fake".to_owned() }
}

/// Both ports lead to main, or to the new instance of its update.
fn record(host: &SiteHost) -> Recorded {
    let (_, at) = INSTALLED.iter().find(|(version, _)| host.main == *version).unwrap();
    let target = example::port(if host.updating == Some(true) { 20009 } else { *at });
    let (ports, deployment) = (example::ports(), example::deployment("shop", &host.main, *at));
    let leg = |port| Leg { port, deployment: deployment.id.clone(), target };
    Recorded {
        forward: Forward { service: deployment.service.clone(), check: ports.check, target },
        switch: Switch::On,
        from_self: false,
        generation: host.generation,
        changed_at: jiff::Timestamp::UNIX_EPOCH,
        routes: Some(Routes { main: leg(ports.main), backup: leg(ports.backup), previous: None }),
        access: Access::Public,
        trial: None,
        layer7: host.layer7.layer7(),
    }
}

impl SiteLink {
    fn assigned(host: &SiteHost, was: &str) -> Assigned {
        let deployment = |version: &str| example::deployment("shop", version, 20000);
        Assigned {
            deployment: deployment(&host.main),
            previous: Some(deployment(was)),
            changed: Changed { transactions: vec![], generation: host.generation, unfinished_history: None },
            closed: 0,
            all_closed: true,
        }
    }
}

#[async_trait]
impl HostVersions for SiteLink {
    async fn versions(&self) -> Result<VersionsView, LinkError> {
        self.there_and_back(|host| view(host)).await
    }

    async fn deploy(&self, _: &DeployRequest) -> Result<Deployed, LinkError> {
        not_here()
    }

    /// Two seconds to come up, three to drain.
    async fn update(&self, request: &UpdateRequest) -> Result<Deployment, LinkError> {
        self.way().await?;
        for (updating, takes) in [(false, 2000), (true, 3000)] {
            self.site.of(&self.name, |host| host.updating = Some(updating));
            tokio::time::sleep(MS * takes).await;
        }
        let updated = self.site.of(&self.name, |host| {
            host.updating = None;
            host.updates.push(request.clone());
            example::deployment("shop", &host.main, 20009)
        });
        self.way_back().await?;
        Ok(updated)
    }

    async fn assign(&self, _: &ServiceName, request: &AssignRequest) -> Result<Assigned, LinkError> {
        let Which::Version { version, .. } = &request.which else { return not_here() };
        let version = version.to_string();
        self.way().await?;
        let assigned = self.site.of(&self.name, |host| {
            if let Some(error) = host.assign_error.take() {
                return Err(error);
            }
            let was = host.main.clone();
            if request.part == Part::Backup {
                host.backup = was.clone();
            } else {
                host.layer7.is_main_now(&example::deployment("shop", &version, 20000).id);
                host.main = version;
                host.healthy = !host.new_is_bad;
                host.assigned_in_service |= host.forward;
            }
            let assigned = Self::assigned(host, &was);
            if request.part == Part::Whole && host.put_back.is_some() {
                host.main = was;
            }
            Ok(assigned)
        })?;
        self.way_back().await?;
        Ok(assigned)
    }

    /// Back to the backup, or where that is main itself, further back.
    async fn rollback(&self, _: &ServiceName, request: &RollbackRequest) -> Result<Assigned, LinkError> {
        self.there_and_back(|host| {
            let was = host.main.clone();
            if request.from.as_ref().is_some_and(|from| from.to_string() != was) {
                let message = format!("{was} is main");
                return Err(LinkError::Refused { code: ErrorCode::Unprocessable, message });
            }
            host.main = if host.backup == was { "0.9.0".to_owned() } else { host.backup.clone() };
            host.healthy = true;
            Ok(Self::assigned(host, &was))
        })
        .await?
    }

    async fn watch(&self, _: &ServiceName, request: &WatchRequest) -> Result<TrialEnd, LinkError> {
        self.way().await?;
        let ended = self.site.of(&self.name, |host| {
            host.watched.get_or_insert_with(Instant::now);
            let main = Box::new(example::deployment("shop", &host.main, 20000));
            match &host.put_back {
                _ if main.id == request.id => TrialEnd::Good,
                Some(why) => TrialEnd::PutBack { previous: main, why: why.clone() },
                None => TrialEnd::Overtaken { main: Some(main), by: None },
            }
        });
        self.way_back().await?;
        Ok(ended)
    }

    async fn kill(&self, _: &KillRequest) -> Result<Killed, LinkError> {
        not_here()
    }

    async fn access(&self, _: &ServiceName, request: &AccessRequest) -> Result<Changed, LinkError> {
        self.there_and_back(|host| {
            host.private = !request.public;
            Changed { transactions: vec![], generation: host.generation, unfinished_history: None }
        })
        .await
    }

    async fn logs(&self, _: &LogsRequest, heard: Heard) -> Result<(), LinkError> {
        self.way().await?;
        heard.hear(&format!("{} says", self.name)).await;
        self.way().await
    }
}
