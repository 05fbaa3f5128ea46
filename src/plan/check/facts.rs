//! The observation of a host that `check` judges.

use std::net::IpAddr;

use crate::model::balancer::BackendView;
use crate::model::boot::StartedBy;
use crate::model::forward::ServiceRecord;
use crate::model::history::HistoryEntry;
use crate::model::host::Host;
use crate::model::name::ServiceName;
use crate::model::native_rule::NativeRule;
use crate::model::observation::ObservationError;
use crate::model::packet_proof::{DataPortProof, PacketProof};
use crate::model::ports::{ClientPorts, Port};
use crate::model::rules::{Family, Table, Tables};
use crate::model::version::Version;

/// The proof by packets to a vhost's data port.
#[derive(Debug, Clone)]
pub struct VhostPacket {
    /// `main` or `backup`.
    pub vhost: &'static str,
    pub proof: DataPortProof,
}

/// A deployment whose program runs as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootProgram {
    pub service: ServiceName,
    pub version: Version,
    /// Whether an operator requested it by `--user root`.
    pub is_requested: bool,
}

/// A snapshot of a host. A part that could not be read is its error.
#[derive(Debug, Clone)]
pub struct CheckFacts {
    pub host: Host,
    pub can_change_rules: Result<bool, ObservationError>,
    pub tables: Result<Vec<(Family, Tables)>, ObservationError>,
    /// Rules of nftables that no iptables tool prints.
    pub native_rules: Result<Vec<NativeRule>, ObservationError>,
    /// Why this host cannot have rules for IPv6.
    pub ipv6_obstacle: Option<ObservationError>,
    /// Families whose legacy nat table no tool of this host can print.
    pub hidden_legacy: Vec<Family>,
    /// `None` where the kernel does not show them.
    pub client_ports: Option<ClientPorts>,
    /// Filter tables of the variants in use.
    pub filters: Vec<(Family, Result<Table, ObservationError>)>,
    pub records: Result<Vec<ServiceRecord>, ObservationError>,
    pub last_entry: Option<HistoryEntry>,
    /// Sentences of `status` on what differs between record and kernel.
    pub drift: Vec<String>,
    /// The deployments of the host whose programs run as root.
    pub root_programs: Vec<RootProgram>,
    pub booted_at: Option<jiff::Timestamp>,
    /// Process ids (with names) that listen on the check, main and backup port.
    pub check_port_listeners: Vec<(u32, String)>,
    pub main_port_listeners: Vec<(u32, String)>,
    pub backup_port_listeners: Vec<(u32, String)>,
    /// The starters of the processes of the main and the backup vhost, each once; none for a managed service.
    pub vhost_starters: [Vec<StartedBy>; 2],
    /// Whether the installed agent answers; `None` where none is installed.
    pub is_agent_running: Option<bool>,
    /// The ports where main and backup really answer: those of the instances of a managed service.
    pub answering_ports: [Port; 2],
    pub addresses: Vec<IpAddr>,
    /// The proof by packets to the check port; `None` without a record.
    pub check_port_packet: Option<PacketProof>,
    /// The proofs by packets to the data ports of vhosts that answer on the host itself.
    pub vhost_packets: Vec<VhostPacket>,
    pub main_health: Result<(), ObservationError>,
    pub backup_health: Result<(), ObservationError>,
    /// In the order of the fleet; `None`: not read by configuration.
    pub balancers: Vec<Option<Result<BackendView, ObservationError>>>,
}
