//! The operations of a host. These are the only entry points: the agent serves them, the command line on the host calls
//! them in-process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;

use super::completion::run_to_completion;
use super::error_code::{change_code, release_code, store_code};
use super::packet_proof;
use super::port_sockets;
use super::rules::{self, ChangeError};
use super::run_record::RunRecord;
use super::status::read_view;
use super::withdrawal;
use crate::model::api::deployments::WithdrawRequest;
use crate::model::api::journal::{JournalAnswer, JournalRequest};
use crate::model::api::plain_text::clean_text;
use crate::model::api::{
    API_VERSION, ForwardRequest, Hello, HostRelease, HostView, OLDEST_API_VERSION, ProbeRequest, ProbeResult,
    RunOutcome, RunRequest, ServiceActivity, StatusRequest,
};
use crate::model::caller::Caller;
use crate::model::deployment::Digest;
use crate::model::failure::ErrorCode;
use crate::model::forward::{ChangeResult, Intent};
use crate::model::history::{Actor, HistoryEntry, RUN_ACTION};
use crate::model::name::ServiceName;
use crate::model::observation::ObservationError;
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::registration::RegistrationState;
use crate::model::release::ReleaseCheck;
use crate::model::socket::Socket;
use crate::plan::drain;
use crate::plan::drain::peers::list_peers;
use crate::world::HostWorld;
use crate::world::commands::CommandError;
use crate::world::link::{HostLink, LinkError, LinkResult, SharedLineSink};
use crate::world::releases::{ReleaseError, ReleaseStore};
use crate::world::store::StoreError;

mod caller;
mod deployments;
mod traffic_split;

/// The reading of a whole release for a client.
static VERIFICATION: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

/// The host itself, without anything between.
pub struct LocalHost {
    world: HostWorld,
    /// The sockets of a port at the last look: what moved since is work.
    last_sockets: Arc<Mutex<BTreeMap<Port, Vec<Socket>>>>,
    /// The client of every change; without one that an agent observed, the user of this process.
    caller: OnceLock<Caller>,
}

impl LocalHost {
    pub fn new(world: HostWorld) -> Self {
        Self { world, last_sockets: Arc::default(), caller: OnceLock::new() }
    }

    /// Returns the same host for the requests of a client.
    #[must_use]
    pub fn for_caller(&self, caller: Caller) -> Self {
        let (world, last_sockets) = (self.world.clone(), self.last_sockets.clone());
        Self { world, last_sockets, caller: caller.into() }
    }

    /// Returns the actor that a client claims to be, with the client as it was observed.
    fn identify(&self, claimed: &Actor) -> Actor {
        let caller = self.caller.get_or_init(|| self.world.machine.observe_caller());
        // A direct call has no body that an agent has checked.
        let Actor { user, machine, purpose, .. } = claimed;
        Actor {
            user: clean_text(user),
            machine: clean_text(machine),
            purpose: clean_text(purpose),
            caller: Some(caller.clone()),
            ..claimed.clone()
        }
    }

    /// Runs work that takes as long as the disk does, on a thread of its own. The work is done to its end even when the
    /// caller stops waiting.
    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn ReleaseStore) -> Result<T, ReleaseError> + Send + 'static,
    ) -> LinkResult<T> {
        let releases = self.world.releases.clone();
        match tokio::task::spawn_blocking(move || work(&*releases)).await {
            Ok(worked) => worked.map_err(|error| from_release_error(&error)),
            Err(ended) => {
                Err(LinkError::Refused { code: ErrorCode::ReleasesFailed, message: ended.to_string() })
            }
        }
    }
}

#[async_trait]
impl HostLink for LocalHost {
    fn transport_label(&self) -> String {
        "this machine".to_owned()
    }

    async fn greet(&self) -> LinkResult<Hello> {
        Ok(Hello {
            api: API_VERSION,
            oldest_api: OLDEST_API_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: self.world.machine.host_name().unwrap_or_default(),
            addresses: self.world.machine.list_addresses().unwrap_or_default(),
            now: Some(self.world.clock.now()),
        })
    }

    async fn fetch_status(&self, question: &StatusRequest) -> LinkResult<HostView> {
        Ok(read_view(&self.world, question).await)
    }

    async fn fetch_activity(&self, service: &ServiceName, port: Port) -> LinkResult<ServiceActivity> {
        let record = rules::read_record(&self.world, service).map_err(|error| from_store_error(&error))?;
        let now = port_sockets::read_port_sockets(&self.world, record.as_ref(), port).await;
        let mut looks = self.last_sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let before = looks.remove(&port).unwrap_or_default();
        let sockets =
            now.as_ref().map(|now| drain::count_activities(now, &before).0).map_err(ObservationError::new);
        let peers = now.as_ref().map(|now| list_peers(now, &before)).unwrap_or_default();
        looks.insert(port, now.unwrap_or_default());
        Ok(ServiceActivity {
            generation: record.as_ref().map_or(0, |record| record.generation),
            switch: record.as_ref().map(|record| record.switch),
            owner: record.and_then(|record| record.owner),
            sockets,
            peers,
        })
    }

    async fn list_listeners(&self, _: &ServiceName, port: Port) -> LinkResult<Vec<SocketAddr>> {
        self.world.packets.list_listening_addresses(port).map_err(|error| LinkError::Refused {
            code: ErrorCode::SocketsFailed,
            message: error.to_string(),
        })
    }

    async fn probe(&self, request: &ProbeRequest) -> LinkResult<ProbeResult> {
        let records = self.world.store.load_records().map_err(|error| from_store_error(&error))?;
        let address = port_sockets::resolve_target(&records, request.address);
        if let Err(reason) = self.world.probe.check(address, &request.health).await {
            return Ok(ProbeResult::Unhealthy { reason: reason.to_string() });
        }
        // The probe above does not pass the filter of what comes in from other hosts. The redirects of a managed service are
        // proven by the switch itself, which also repairs them.
        let Some(port) = Port::new(address.port()).filter(|_| address == request.address) else {
            return Ok(ProbeResult::Healthy);
        };
        let proof = packet_proof::prove_data_port(&self.world, port, port, &[address.ip()]).await;
        Ok(match proof.describe_contradiction() {
            Some(reason) => ProbeResult::Unhealthy { reason },
            None => ProbeResult::Healthy,
        })
    }

    async fn set_forward(&self, request: &ForwardRequest) -> LinkResult<ChangeResult> {
        if [RUN_ACTION, "repair"].contains(&request.action.as_str()) {
            let message = format!("`{}` is not the action of a switch", request.action);
            return Err(LinkError::Refused { code: ErrorCode::BadRequest, message });
        }
        let intent: Intent =
            ForwardRequest { actor: self.identify(&request.actor), ..request.clone() }.into();
        if request.dry_run {
            let records = self.world.store.load_records().map_err(|error| from_store_error(&error))?;
            let previewed = rules::preview(&self.world, &records, &intent).await;
            return previewed.map_err(|error| from_change_error(&error));
        }
        let (world, addresses) = (self.world.clone(), request.addresses.clone());
        run_to_completion(&self.world, async move {
            let changed = packet_proof::change_and_prove(&world, &intent, &addresses).await;
            // After the switch: in DNS before, the host would have users whose main does not answer.
            if changed.is_ok() && intent.switch == Switch::On {
                withdrawal::end_withdrawal(&world, &intent.forward.service);
            }
            changed.map_err(|error| from_change_error(&error))
        })
        .await
    }

    async fn withdraw(
        &self,
        service: &ServiceName,
        request: &WithdrawRequest,
    ) -> LinkResult<RegistrationState> {
        let request = WithdrawRequest { actor: self.identify(&request.actor), ..request.clone() };
        withdrawal::withdraw(&self.world, service, &request)
    }

    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> LinkResult<RunOutcome> {
        let actor = self.identify(&Actor::new("api", 0));
        let record =
            RunRecord::begin(&self.world, actor, request).map_err(|error| from_store_error(&error))?;
        let ended = self.world.commands.run(request, heard).await;
        record.end(&ended);
        ended.map_err(|error| LinkError::Refused {
            code: match error {
                CommandError::Missing { .. } => ErrorCode::ProgramMissing,
                CommandError::StartFailed { .. } => ErrorCode::CommandFailed,
                CommandError::StillRunning { .. } => ErrorCode::Busy,
            },
            message: error.to_string(),
        })
    }

    async fn load_history(&self, service: Option<&ServiceName>, limit: u32) -> LinkResult<Vec<HistoryEntry>> {
        self.world.store.load_history(service, limit).map_err(|error| from_store_error(&error))
    }

    async fn upload_release(&self, service: &ServiceName, name: &str, archive: &Path) -> LinkResult<Digest> {
        let (service, name, archive) = (service.clone(), name.to_owned(), archive.to_owned());
        let all = self.world.deployments.all().map_err(|error| from_store_error(&error))?;
        let used = crate::plan::versions::is_release_used(&all, &service, &name);
        self.run_blocking(move |releases| match releases.place(&service, &name, &archive) {
            // What is left of an earlier deployment makes way for the next of that name.
            Err(ReleaseError::NameTaken { .. } | ReleaseError::Altered { .. }) if !used => {
                releases.remove(&service, &name)?;
                releases.place(&service, &name, &archive)
            }
            placed => placed,
        })
        .await
    }

    async fn list_releases(&self, service: &ServiceName) -> LinkResult<Vec<HostRelease>> {
        let service = service.clone();
        let placed = move |releases: &dyn ReleaseStore| {
            let named = releases.list(&service)?.into_iter().map(|name| {
                // One that is taken away in this moment is not there any more.
                let digest = releases.digest(&service, &name)?;
                Ok(digest.map(|digest| HostRelease { name, digest }))
            });
            named.filter_map(Result::transpose).collect()
        };
        self.run_blocking(placed).await
    }

    async fn verify_release(&self, service: &ServiceName, name: &str) -> LinkResult<ReleaseCheck> {
        let (service, name) = (service.clone(), name.to_owned());
        // One at a time: a client that has hung up does not end the reading.
        let turn = VERIFICATION.acquire().await;
        let verify = move |releases: &dyn ReleaseStore| {
            let _turn = turn;
            let is_there = releases.digest(&service, &name)?.is_some();
            is_there.then(|| releases.verify(&service, &name)).transpose()
        };
        self.run_blocking(verify).await?.ok_or_else(|| LinkError::Refused {
            code: ErrorCode::NoRelease,
            message: "there is no such release on this host".to_owned(),
        })
    }

    async fn call_journal(
        &self,
        service: &ServiceName,
        request: &JournalRequest,
    ) -> LinkResult<JournalAnswer> {
        Ok(self.world.journals.carry_out(service, request).await)
    }
}

fn from_release_error(error: &ReleaseError) -> LinkError {
    LinkError::Refused { code: release_code(error), message: error.to_string() }
}

fn from_change_error(error: &ChangeError) -> LinkError {
    LinkError::Refused { code: change_code(error), message: error.to_string() }
}

fn from_store_error(error: &StoreError) -> LinkError {
    LinkError::Refused { code: store_code(error), message: error.to_string() }
}

#[cfg(test)]
mod tests;
