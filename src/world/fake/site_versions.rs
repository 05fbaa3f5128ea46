//! The versions of a host of the site: which is main, what became of it.

use async_trait::async_trait;

use super::site::{SiteHost, SiteLink};
use crate::model::deployment::Deployment;
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::forward::Changed;
use crate::model::name::ServiceName;
use crate::model::proxy::ProxyStats;
use crate::model::splits::{Split, SplitRequest};
use crate::model::versions::{
    AccessRequest, AssignRequest, Assigned, DeployRequest, Deployed, KillRequest, Killed, LogsRequest, Part,
    RollbackRequest, TrialEnd, UpdateRequest, VersionsView, WatchRequest, Which,
};
use crate::world::link::{Heard, HostSplits, HostVersions, LinkError};

#[async_trait]
impl HostSplits for SiteLink {
    async fn split(&self, _: &ServiceName, _: &SplitRequest) -> Result<Split, LinkError> {
        not_here()
    }

    async fn proxy(&self) -> Result<Option<ProxyStats>, LinkError> {
        not_here()
    }
}

fn not_here<T>() -> Result<T, LinkError> {
    Err(LinkError::Refused { code: ErrorCode::NotFound, message: "not on this site".to_owned() })
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
        not_here()
    }

    async fn deploy(&self, _: &DeployRequest) -> Result<Deployed, LinkError> {
        not_here()
    }

    async fn update(&self, _: &UpdateRequest) -> Result<Deployment, LinkError> {
        not_here()
    }

    async fn assign(&self, _: &ServiceName, request: &AssignRequest) -> Result<Assigned, LinkError> {
        let Which::Version { version, .. } = &request.which else { return not_here() };
        let version = version.to_string();
        self.there_and_back(|host| {
            let was = host.main.clone();
            if request.part == Part::Backup {
                host.backup = was.clone();
            } else {
                host.main = version;
                host.healthy = !host.new_is_bad;
                host.assigned_in_service |= host.forward;
            }
            Self::assigned(host, &was)
        })
        .await
    }

    async fn rollback(&self, _: &ServiceName, _: &RollbackRequest) -> Result<Assigned, LinkError> {
        self.there_and_back(|host| {
            let was = host.main.clone();
            host.main.clone_from(&host.backup);
            host.healthy = true;
            Self::assigned(host, &was)
        })
        .await
    }

    async fn watch(&self, _: &ServiceName, _: &WatchRequest) -> Result<TrialEnd, LinkError> {
        self.there_and_back(|_| TrialEnd::Good).await
    }

    async fn kill(&self, _: &KillRequest) -> Result<Killed, LinkError> {
        not_here()
    }

    async fn access(&self, _: &ServiceName, _: &AccessRequest) -> Result<Changed, LinkError> {
        not_here()
    }

    async fn logs(&self, _: &LogsRequest, _: Heard) -> Result<(), LinkError> {
        not_here()
    }
}
