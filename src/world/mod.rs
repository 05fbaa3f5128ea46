//! The outside world as small traits, by meaning. `sys` implements them; tests use the fakes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::model::journal::RollEntry;
use crate::model::name::HostName;
use crate::model::promote::PromotionEntry;

pub mod archives;
pub mod balancer;
pub mod changes;
pub mod clock;
pub mod commands;
pub mod deployments;
pub mod discovery;
pub mod files;
pub mod firewall;
pub mod flows;
pub mod journal;
pub mod journal_keeper;
pub mod journal_store;
pub mod link;
pub mod lock;
pub mod machine;
pub mod notifier;
pub mod outputs;
pub mod packet_probe;
pub mod probe;
pub mod proxy;
pub mod registry;
pub mod releases;
pub mod reporter;
pub mod runner;
pub mod sockets;
pub mod stop;
pub mod store;
pub mod watch;

#[cfg(test)]
pub mod fake;

/// The surroundings of one host, built once by `main`.
#[derive(Clone)]
pub struct HostWorld {
    pub firewall: Arc<dyn firewall::Firewall>,
    pub rule_watch: Arc<dyn watch::RuleWatch>,
    /// In the order of `switchman.yaml`; only those that can be read.
    pub balancers: Vec<Arc<dyn balancer::Balancer>>,
    pub sockets: Arc<dyn sockets::SocketTable>,
    pub flows: Arc<dyn flows::ConnectionTracker>,
    pub probe: Arc<dyn probe::Probe>,
    pub packets: Arc<dyn packet_probe::PacketProbe>,
    pub store: Arc<dyn store::Store>,
    pub deployments: Arc<dyn deployments::DeploymentStore>,
    pub releases: Arc<dyn releases::ReleaseStore>,
    pub runner: Arc<dyn runner::Runner>,
    pub proxy: Arc<dyn proxy::Proxy>,
    pub clock: Arc<dyn clock::Clock>,
    pub machine: Arc<dyn machine::Machine>,
    pub files: Arc<dyn files::FileSystem>,
    pub journals: Arc<dyn journal_keeper::JournalKeeper>,
    pub commands: Arc<dyn commands::CommandRunner>,
    pub reporter: Arc<dyn reporter::Reporter>,
    pub stop: stop::StopToken,
    pub changes: changes::ChangeTracker,
}

impl fmt::Debug for HostWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostWorld").field("balancers", &self.balancers.len()).finish_non_exhaustive()
    }
}

/// An operator's surroundings: the hosts by their links, the balancers as seen from here, the fleet's journal and lock.
#[derive(Clone)]
pub struct FleetWorld {
    /// Every host a command may act on.
    pub links: BTreeMap<HostName, Arc<dyn link::HostLink>>,
    /// In the order of `switchman.yaml`; only those that can be read.
    pub balancers: Vec<Arc<dyn balancer::Balancer>>,
    pub journal: journal::Journal<RollEntry>,
    pub promotions: journal::Journal<PromotionEntry>,
    pub lock: lock::FleetLock,
    pub commands: Arc<dyn commands::CommandRunner>,
    pub notifier: Arc<dyn notifier::Notifier>,
    pub outputs: Arc<dyn outputs::OutputStore>,
    pub archives: Arc<dyn archives::ArchivePacker>,
    pub clock: Arc<dyn clock::Clock>,
    pub reporter: Arc<dyn reporter::Reporter>,
    pub stop: stop::StopToken,
}

impl fmt::Debug for FleetWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetWorld").field("hosts", &self.links.keys()).finish_non_exhaustive()
    }
}
