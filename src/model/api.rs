//! The nouns of the host API, version [`API`], between an operator's switchman and a host.
//!
//! Times are whole milliseconds. A field that is added later has a default, so that both sides may be the older one; a
//! field that changes its meaning raises [`API`].

pub mod deployments;
pub mod endpoint;
pub mod endpoints;
pub mod journal;
pub mod plain_text;
mod redaction;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deployment::Digest;
use super::failure::ErrorCode;
use super::forward::{Intent, KernelForward, RouteChange, ServiceRecord};
use super::health::Health;
use super::history::{Actor, HistoryEntry};
use super::name::ServiceName;
use super::observation::{self, ObservationError};
use super::owner::Owner;
use super::packet_proof::PacketProof;
use super::port_forward::{Forward, Switch};
use super::ports::Ports;
use super::registration::RegistrationState;
use super::socket::{PeerConnections, SocketCount};
use super::version::Version;

/// The version of the messages that this program sends and reads. It counts changes of fields, the path prefix `/v1` does not.
pub const API_VERSION: u32 = 2;
/// The oldest version it still understands.
pub const OLDEST_API_VERSION: u32 = 2;

/// How an agent on standard output begins: this, then `api=OLDEST..NEWEST version=VERSION`, on a line of its own.
pub const GREETING: &str = "switchman agent";

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    pub api: u32,
    pub oldest_api: u32,
    /// Version of the program.
    pub version: String,
    /// The machine's own name.
    pub machine: String,
    /// The machine's addresses, without loopback and link-local ones.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The time by the machine's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub now: Option<jiff::Timestamp>,
}

/// The answer to a monitor of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthStatus {
    pub status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramVersion {
    pub version: String,
}

/// The endpoints and ports to inspect on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusRequest {
    pub service: ServiceName,
    pub ports: Ports,
    /// The address where the main vhost really answers, as seen from the host.
    pub main: SocketAddr,
    pub health: Health,
    /// Whether the host proves the forward by a packet.
    #[serde(default)]
    pub send_packet: bool,
    /// The addresses that balancers use for the host, as far as they are known: the packets are sent to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// The host's side of `status` at one moment. A part that could not be read carries the reason; it is never left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostView {
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<Option<ServiceRecord>>")]
    pub record: Result<Option<ServiceRecord>, ObservationError>,
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<Vec<KernelForward>>")]
    pub kernel: Result<Vec<KernelForward>, ObservationError>,
    /// Differences between the record and the kernel; one sentence each.
    pub drift: Vec<String>,
    /// Established connections of the main vhost's data port.
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<SocketCount>")]
    pub main_sockets: Result<SocketCount, ObservationError>,
    /// The main vhost's own answer to its health check.
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<()>")]
    pub main_health: Result<(), ObservationError>,
    /// The version that is main; absent where the vhosts serve users themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_version: Option<Version>,
    /// The last change in the history: what was refused or taken back is none.
    pub last_entry: Option<HistoryEntry>,
    /// The proof of the forward by packets; absent where none was requested or nothing is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketProof>,
    /// The registration in a catalogue, where an agent registers the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationState>,
}

impl HostView {
    /// The kernel's state over all families; `None` where it is not known or families differ.
    pub fn switch(&self) -> Option<Switch> {
        let kernel = self.kernel.as_ref().ok()?;
        let first = kernel.first()?.switch();
        kernel.iter().all(|family| family.switch() == first).then_some(first)
    }
}

/// The fields that change while a command waits: cheap enough to be read five times a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceActivity {
    /// Generation of the service's record; 0 without a record.
    pub generation: u32,
    /// The record; absent if there is none.
    #[serde(default)]
    pub switch: Option<Switch>,
    /// The operation that took the main vhost out of service; absent while it is in service.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Connections of the main vhost's data port, compared with the last sample over the same link.
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<SocketCount>")]
    pub sockets: Result<SocketCount, ObservationError>,
    /// Their peers, those with the most connections first.
    #[serde(default)]
    pub peers: Vec<PeerConnections>,
}

/// A switch of a service's forward. Routes, access and the traffic split have endpoints of their own, which check them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardRequest {
    pub forward: Forward,
    pub switch: Switch,
    #[serde(alias = "from_self")]
    pub balancer_is_local: bool,
    pub actor: Actor,
    /// The command, as the history calls it.
    pub action: String,
    /// The overridden safety checks (`--force`), or the roll it belongs to; empty otherwise.
    pub detail: String,
    /// The addresses that balancers use for the host, as far as they are known: the switch is proven by packets to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl From<ForwardRequest> for Intent {
    /// Everything but the switch stays as it is recorded.
    fn from(request: ForwardRequest) -> Self {
        let ForwardRequest {
            forward,
            switch,
            balancer_is_local,
            actor,
            action,
            detail,
            addresses: _,
            dry_run: _,
        } = request;
        let (route_change, access, layer7) = (RouteChange::Keep, None, None);
        Self { forward, switch, balancer_is_local, actor, action, detail, route_change, access, layer7 }
    }
}

/// A health check of one real port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeRequest {
    pub address: SocketAddr,
    pub health: Health,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "health", rename_all = "kebab-case")]
pub enum ProbeResult {
    Healthy,
    Unhealthy {
        #[serde(alias = "why")]
        reason: String,
    },
}

/// A program to run, without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunRequest {
    /// Two runs with the same key never overlap: the second is refused while any process of the first is left.
    pub key: String,
    pub argv: Vec<String>,
    /// Added to the environment of switchman itself.
    pub env: BTreeMap<String, String>,
    /// `None`: that of switchman itself.
    pub dir: Option<PathBuf>,
    /// Timeout after which the program is ended (TERM, then KILL). `None`: no limit.
    pub timeout_ms: Option<u64>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunOutcome {
    /// Exit status, or 128 + the signal that ended it.
    pub status: i32,
    pub timed_out: bool,
}

/// An event of a running program: a line of either output, then its end, or why it could not be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunEvent {
    Line(String),
    Exited(RunOutcome),
    Failed(ApiError),
    /// Nothing happened for a while; the link is alive.
    KeepAlive,
}

/// A release that is on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostRelease {
    /// Name of the release's directory: a version, from the second build on followed by `~2`.
    pub name: String,
    /// Digest of the archive that the release was made of.
    pub digest: Digest,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiError {
    pub message: String,
    pub code: ErrorCode,
}
