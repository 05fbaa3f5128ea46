//! Fakes with state, for tests of operations: a kernel that takes transactions, balancers that see the forward after a
//! while, a store in memory.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::HostWorld;
use super::changes::ChangeTracker;
use super::clock::Clock;
use super::commands::{CommandError, CommandRunner};
use super::files::{FileSystem, FilesError};
use super::journal_keeper::JournalKeeper;
use super::link::SharedLineSink;
use super::machine::{ListeningProcess, Machine, MachineError};
use super::probe::{Probe, ProbeError};
use super::reporter::{Event, Reporter};
use super::sockets::{SocketTable, SocketsError};
use super::stop::{self, StopHandle};
use super::watch::{RuleSubscription, RuleWatch};
use crate::model::api::journal::{JournalAnswer, JournalFailure, JournalRequest};
use crate::model::api::{RunOutcome, RunRequest};
use crate::model::boot::StartedBy;
use crate::model::caller::{Caller, CallerIdentity};
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::ports::{ClientPorts, Port};
use crate::model::socket::Socket;

pub mod balancer;
pub mod deployments;
pub mod firewall;
pub mod fuse;
pub mod journal;
pub mod packets;
pub mod paused;
pub mod proxy;
pub mod store;

use balancer::FakeBalancer;
use deployments::FakeDeployments;
use firewall::FakeFirewall;
use fuse::FailurePoint;
use packets::FakePackets;
use proxy::FakeProxy;
use store::FakeStore;

/// A world of fakes with the handles to steer them.
pub struct FakeWorld {
    pub world: HostWorld,
    pub firewall: Arc<FakeFirewall>,
    pub balancers: Vec<Arc<FakeBalancer>>,
    pub store: Arc<FakeStore>,
    pub host: Arc<FakeHost>,
    pub versions: Arc<FakeDeployments>,
    pub proxy: Arc<FakeProxy>,
    pub packets: Arc<FakePackets>,
    pub stopper: StopHandle,
    pub failure_point: FailurePoint,
}

/// Probe, sockets, machine, clock and reporter of one host.
#[derive(Default)]
pub struct FakeHost {
    pub probe_error: Mutex<Option<ProbeError>>,
    pub sockets: Mutex<Vec<Socket>>,
    /// Processes of others that listen, with their ports.
    pub listeners: Mutex<Vec<(Port, ListeningProcess)>>,
    pub events: Mutex<Vec<Event>>,
    /// Notifies a watch of the rules that they may have changed.
    pub rules_changed: Arc<tokio::sync::Notify>,
}

pub fn world(balancers: Vec<FakeBalancer>, firewall: Arc<FakeFirewall>) -> FakeWorld {
    let host = Arc::new(FakeHost::default());
    let store = Arc::new(FakeStore::default());
    let fuse = FailurePoint::default();
    let versions =
        Arc::new(FakeDeployments { fuse: fuse.clone(), store: store.clone(), ..FakeDeployments::default() });
    *store.fuse.lock().unwrap() = fuse.clone();
    *firewall.fuse.lock().unwrap() = fuse.clone();
    let balancers: Vec<_> = balancers.into_iter().map(Arc::new).collect();
    let (stopper, stop) = stop::create_channel();
    let proxy = Arc::new(FakeProxy { fuse: fuse.clone(), ..FakeProxy::default() });
    let packets = Arc::new(FakePackets::default());
    let world = HostWorld {
        firewall: firewall.clone(),
        rule_watch: host.clone(),
        balancers: balancers
            .iter()
            .map(|balancer| balancer.clone() as Arc<dyn crate::world::balancer::Balancer>)
            .collect(),
        sockets: host.clone(),
        flows: versions.clone(),
        probe: Arc::new(FakeProbe { host: host.clone(), deployments: versions.clone() }),
        packets: packets.clone(),
        store: store.clone(),
        deployments: versions.clone(),
        releases: versions.clone(),
        runner: versions.clone(),
        proxy: proxy.clone(),
        clock: host.clone(),
        machine: host.clone(),
        files: host.clone(),
        journals: host.clone(),
        commands: host.clone(),
        reporter: host.clone(),
        stop,
        changes: ChangeTracker::default(),
    };
    FakeWorld {
        world,
        firewall,
        balancers,
        store,
        host,
        versions,
        proxy,
        packets,
        stopper,
        failure_point: fuse,
    }
}

impl Clock for FakeHost {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}

/// It keeps no journal.
#[async_trait]
impl JournalKeeper for FakeHost {
    async fn carry_out(&self, _: &ServiceName, _: &JournalRequest) -> JournalAnswer {
        JournalAnswer::Failed { failure: JournalFailure::Full }
    }
}

impl RuleWatch for FakeHost {
    fn start(&self) -> Box<dyn RuleSubscription> {
        Box::new(FakeWatch(self.rules_changed.clone()))
    }
}

struct FakeWatch(Arc<tokio::sync::Notify>);

#[async_trait]
impl RuleSubscription for FakeWatch {
    async fn wait_for_change(&mut self, _: bool) {
        self.0.notified().await;
    }
}

/// The whole host may be unhealthy, or one port of it.
struct FakeProbe {
    host: Arc<FakeHost>,
    deployments: Arc<FakeDeployments>,
}

#[async_trait]
impl Probe for FakeProbe {
    async fn check(&self, address: std::net::SocketAddr, _: &Health) -> Result<(), ProbeError> {
        if self.deployments.unhealthy_port.lock().unwrap().is_some_and(|sick| sick.get() == address.port()) {
            return Err(ProbeError::NoConnection { address, reason: "refused".to_owned() });
        }
        self.host.probe_error.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl SocketTable for FakeHost {
    async fn list_established(&self, _: Port) -> Result<Vec<Socket>, SocketsError> {
        Ok(self.sockets.lock().unwrap().clone())
    }

    async fn close(&self, _: Port, sockets: &[Socket]) -> Result<usize, SocketsError> {
        let mut open = self.sockets.lock().unwrap();
        let before = open.len();
        open.retain(|socket| sockets.iter().all(|closed| closed.cookie != socket.cookie));
        Ok(before - open.len())
    }
}

impl Reporter for FakeHost {
    fn report(&self, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
    }
}

impl Machine for FakeHost {
    fn host_name(&self) -> Result<String, MachineError> {
        Ok("web1".to_owned())
    }

    fn list_addresses(&self) -> Result<Vec<std::net::IpAddr>, MachineError> {
        Ok(vec![])
    }

    fn can_change_rules(&self) -> Result<bool, MachineError> {
        Ok(true)
    }

    fn list_listeners(&self, port: Port) -> Result<Vec<ListeningProcess>, MachineError> {
        let all = self.listeners.lock().unwrap();
        Ok(all.iter().filter(|(of, _)| *of == port).map(|(_, process)| process.clone()).collect())
    }

    fn read_client_ports(&self) -> Option<ClientPorts> {
        None
    }

    fn find_starter(&self, _: u32) -> Option<StartedBy> {
        None
    }

    fn find_installed_agent(&self) -> Option<bool> {
        None
    }

    fn observe_caller(&self) -> Caller {
        let identity = CallerIdentity::User { name: "root".to_owned(), uid: 0, login: None };
        Caller::new(identity, None)
    }

    fn read_boot_time(&self) -> Result<jiff::Timestamp, MachineError> {
        Ok(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// No operation on a host but `run` starts programs.
#[async_trait]
impl CommandRunner for FakeHost {
    async fn run(&self, request: &RunRequest, _: SharedLineSink) -> Result<RunOutcome, CommandError> {
        let program = request.argv.first().cloned().unwrap_or_default();
        Err(CommandError::Missing { program })
    }
}

/// The only files that an operation on a host writes are vhosts, which no test reads.
impl FileSystem for FakeHost {
    fn exists(&self, _: &Path) -> bool {
        false
    }

    fn write(&self, _: &Path, _: &str) -> Result<(), FilesError> {
        Ok(())
    }

    fn link(&self, path: &Path, _: &str) -> Result<(), FilesError> {
        Err(FilesError { action: "change", path: path.to_owned(), reason: "a fake".to_owned() })
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        self.link(path, "")
    }
}

pub const MS: Duration = Duration::from_millis(1);
