//! What a host does for whoever drives it. These are the only ways in: the agent serves them, the command line on the host
//! calls them in-process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::port_sockets;
use super::rules::{self, ChangeError};
use super::status::view;
use crate::model::api::{
    API, Hello, HostView, OLDEST_API, PlacedRelease, ProbeRequest, Probed, Pulse, Question, RunEnd,
    RunRequest,
};
use crate::model::deployment::Digest;
use crate::model::failure::ErrorCode;
use crate::model::forward::{Changed, Intent, Routing};
use crate::model::history::Entry;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::socket::Socket;
use crate::plan::drain;
use crate::world::HostWorld;
use crate::world::commands::CommandError;
use crate::world::firewall::FirewallError;
use crate::world::link::{Heard, HostLink, LinkError};
use crate::world::releases::{ReleaseError, Releases};
use crate::world::store::StoreError;

mod deployments;
mod traffic_split;

/// The host itself, without anything between.
pub struct InProcess {
    world: HostWorld,
    /// The sockets of a port at the last look: what moved since is work.
    looks: Mutex<BTreeMap<Port, Vec<Socket>>>,
}

impl InProcess {
    pub fn new(world: HostWorld) -> Self {
        Self { world, looks: Mutex::default() }
    }

    /// What takes as long as the disk does, on a thread of its own. It is done to its end, whoever waits for it.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Releases) -> Result<T, ReleaseError> + Send + 'static,
    ) -> Result<T, LinkError> {
        let releases = self.world.releases.clone();
        match tokio::task::spawn_blocking(move || work(&*releases)).await {
            Ok(worked) => worked.map_err(|error| release(&error)),
            Err(ended) => {
                Err(LinkError::Refused { code: ErrorCode::ReleasesFailed, message: ended.to_string() })
            }
        }
    }
}

#[async_trait]
impl HostLink for InProcess {
    fn via(&self) -> String {
        "this machine".to_owned()
    }

    async fn hello(&self) -> Result<Hello, LinkError> {
        Ok(Hello {
            api: API,
            oldest_api: OLDEST_API,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: self.world.machine.host_name().unwrap_or_default(),
        })
    }

    async fn look(&self, question: &Question) -> Result<HostView, LinkError> {
        Ok(view(&self.world, question).await)
    }

    async fn pulse(&self, service: &ServiceName, port: Port) -> Result<Pulse, LinkError> {
        let record = rules::record(&self.world, service).map_err(|error| store(&error))?;
        let now = port_sockets::sockets(&self.world, record.as_ref(), port).await;
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = looks.remove(&port).unwrap_or_default();
        let sockets = now.as_ref().map(|now| drain::count(now, &before).0).map_err(ToString::to_string);
        looks.insert(port, now.unwrap_or_default());
        Ok(Pulse {
            generation: record.as_ref().map_or(0, |record| record.generation),
            switch: record.map(|record| record.switch),
            sockets,
        })
    }

    async fn probe(&self, request: &ProbeRequest) -> Result<Probed, LinkError> {
        let records = self.world.store.recorded().map_err(|error| store(&error))?;
        let address = port_sockets::real(&records, request.address);
        Ok(match self.world.probe.ask(address, &request.health).await {
            Ok(()) => Probed::Healthy,
            Err(why) => Probed::Unhealthy { why: why.to_string() },
        })
    }

    async fn switch(&self, intent: &Intent) -> Result<Changed, LinkError> {
        // Only those who start and end instances know where a route may lead.
        if intent.routing != Routing::Keep || intent.layer7.is_some() {
            let message = "routes are changed by a deploy, an assign, an update or a kill".to_owned();
            return Err(LinkError::Refused { code: ErrorCode::BadRequest, message });
        }
        rules::change(&self.world, intent).await.map_err(|error| change(&error))
    }

    async fn run(&self, request: &RunRequest, heard: Heard) -> Result<RunEnd, LinkError> {
        self.world.commands.run(request, heard).await.map_err(|error| LinkError::Refused {
            code: match error {
                CommandError::Missing { .. } => ErrorCode::ProgramMissing,
                CommandError::NotRun { .. } => ErrorCode::CommandFailed,
                CommandError::StillRunning { .. } => ErrorCode::Busy,
            },
            message: error.to_string(),
        })
    }

    async fn history(&self, service: Option<&ServiceName>, limit: u32) -> Result<Vec<Entry>, LinkError> {
        self.world.store.history(service, limit).map_err(|error| store(&error))
    }

    async fn place(&self, service: &ServiceName, name: &str, archive: &Path) -> Result<Digest, LinkError> {
        let (service, name, archive) = (service.clone(), name.to_owned(), archive.to_owned());
        let all = self.world.deployments.all().map_err(|error| store(&error))?;
        let used = crate::plan::versions::uses(&all, &service, &name);
        self.on_disk(move |releases| match releases.place(&service, &name, &archive) {
            // What is left of an earlier deployment makes way for the next of that name.
            Err(ReleaseError::Taken { .. }) if !used => {
                releases.remove(&service, &name)?;
                releases.place(&service, &name, &archive)
            }
            placed => placed,
        })
        .await
    }

    async fn releases(&self, service: &ServiceName) -> Result<Vec<PlacedRelease>, LinkError> {
        let service = service.clone();
        let placed = move |releases: &dyn Releases| {
            let named = releases.list(&service)?.into_iter().map(|name| {
                // One that is taken away in this moment is not there any more.
                let digest = releases.digest(&service, &name)?;
                Ok(digest.map(|digest| PlacedRelease { name, digest }))
            });
            named.filter_map(Result::transpose).collect()
        };
        self.on_disk(placed).await
    }
}

fn release(error: &ReleaseError) -> LinkError {
    LinkError::Refused { code: release_code(error), message: error.to_string() }
}

pub fn release_code(error: &ReleaseError) -> ErrorCode {
    match error {
        ReleaseError::Refused(_) | ReleaseError::Damaged(_) => ErrorCode::BadArchive,
        ReleaseError::Taken { .. } => ErrorCode::Exists,
        ReleaseError::Full { .. } => ErrorCode::DiskFull,
        ReleaseError::Failed { .. } => ErrorCode::ReleasesFailed,
    }
}

fn change(error: &ChangeError) -> LinkError {
    LinkError::Refused { code: change_code(error), message: error.to_string() }
}

pub fn change_code(error: &ChangeError) -> ErrorCode {
    match error {
        ChangeError::Firewall(error) => firewall_code(error),
        ChangeError::Store(error) => store_code(error),
        ChangeError::Interrupted => ErrorCode::Interrupted,
        ChangeError::Contested { .. } => ErrorCode::RulesContested,
        ChangeError::HalfDone { .. } => ErrorCode::HalfDone,
    }
}

fn store(error: &StoreError) -> LinkError {
    LinkError::Refused { code: store_code(error), message: error.to_string() }
}

fn firewall_code(error: &FirewallError) -> ErrorCode {
    match error {
        FirewallError::Missing { .. } => ErrorCode::ProgramMissing,
        FirewallError::NoPrivilege { .. } => ErrorCode::NoPrivilege,
        FirewallError::Locked { .. } => ErrorCode::RulesLocked,
        FirewallError::Hung { .. } | FirewallError::Failed { .. } | FirewallError::NotRun { .. } => {
            ErrorCode::RulesFailed
        }
        FirewallError::Garbled { .. } => ErrorCode::RulesGarbled,
    }
}

pub fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::Open { .. } | StoreError::Failed { .. } => ErrorCode::StateFailed,
        StoreError::Newer { .. } => ErrorCode::StateNewer,
        StoreError::Full { .. } => ErrorCode::DiskFull,
        StoreError::Damaged { .. } => ErrorCode::StateDamaged,
        StoreError::Busy { .. } => ErrorCode::Busy,
    }
}
