//! The messages about deployments between an operator's switchman and a host.
//!
//! Times are whole milliseconds.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::deployment::{
    Access, Deployment, DeploymentId, DeploymentStatus, Digest, ProcessState, Role, RunSpec,
};
use crate::model::duration;
use crate::model::forward::{ChangeResult, ServiceRecord};
use crate::model::health::Health;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::observation::{self, ObservationError};
use crate::model::ports::{Port, Ports};
use crate::model::socket::SocketCount;
use crate::model::version::Version;

/// Which deployment is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentRef {
    Id(DeploymentId),
    Version { service: ServiceName, version: Version },
}

impl fmt::Display for DeploymentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Version { service, version } => write!(f, "{service} {version}"),
        }
    }
}

impl DeploymentRef {
    pub fn matches(&self, deployment: &Deployment) -> bool {
        match self {
            Self::Id(id) => *id == deployment.id,
            Self::Version { service, version } => {
                *service == deployment.service && *version == deployment.version
            }
        }
    }
}

/// The facts about a service in the fleet that a host has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostNetwork {
    pub ports: Ports,
    /// The host's address that HAProxy connects to.
    pub address: IpAddr,
    /// Whether checks come from the host itself.
    #[serde(alias = "from_self")]
    pub balancer_is_local: bool,
    /// Port range of the instances: first and last.
    #[serde(alias = "range")]
    pub port_range: (Port, Port),
    /// Releases that are kept although no deployment uses them.
    pub keep_releases: u32,
}

/// A deployment to be placed and started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeployRequest {
    pub id: DeploymentId,
    pub service: ServiceName,
    pub version: Version,
    /// +1 per deployment of the service; the host's own count where absent.
    #[serde(default)]
    pub revision: Option<u32>,
    /// Facts to record with the deployment, such as the commit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    pub how: RunSpec,
    /// Name of the release that was placed before; absent for a workload that runs already.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Port of the deployment; allocated where absent.
    #[serde(default)]
    pub port: Option<Port>,
    /// Instances on the host, each with a port of its own; where absent, as many as the host has of the version, or one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    pub health: Health,
    /// Time limit for becoming healthy.
    #[serde(rename = "health_timeout_ms", with = "duration::ms")]
    #[schemars(with = "duration::Milliseconds")]
    pub health_timeout: Duration,
    pub site: HostNetwork,
    pub actor: Actor,
    /// Everything is checked, nothing is done.
    #[serde(default)]
    pub dry_run: bool,
}

/// The outcome of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeployResponse {
    pub deployment: Deployment,
    /// Whether the deployment existed already, so that nothing was done.
    pub known: bool,
    pub role: Role,
}

/// Which rules an assign moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AssignScope {
    /// Main becomes the version, the backup vhost the main that was.
    #[serde(alias = "whole")]
    MainAndBackup,
    /// Only the backup vhost moves, to the main that is: before the host is taken out, so that its users stay on the version
    /// they know.
    #[serde(alias = "backup")]
    BackupOnly,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AssignRequest {
    /// The version that becomes main.
    pub which: DeploymentRef,
    #[serde(alias = "part")]
    pub scope: AssignScope,
    /// How long it is watched from now on; 0: not at all.
    #[serde(default, rename = "trial_ms", with = "duration::ms")]
    #[schemars(with = "duration::Milliseconds")]
    pub trial: Duration,
    pub actor: Actor,
    /// Which roll it belongs to; empty otherwise.
    #[serde(default)]
    pub detail: String,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AssignResponse {
    pub deployment: Deployment,
    /// The main that was; absent where there was none.
    pub previous: Option<Deployment>,
    #[serde(alias = "changed")]
    pub change: ChangeResult,
    /// Idle connections to the main that was which were closed, because the host is out and its balancers would use them again.
    #[serde(alias = "closed")]
    pub closed_connections: usize,
    /// Whether no request is left, as far as the kernel reports.
    #[serde(default)]
    pub all_closed: bool,
}

/// How a new main's watch window ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "trial", rename_all = "kebab-case")]
pub enum TrialOutcome {
    /// The version is main, and was healthy to the end of its window, or had none.
    #[serde(alias = "good")]
    Passed,
    /// The previous main is back.
    #[serde(alias = "put-back")]
    RolledBack {
        previous: Box<Deployment>,
        #[serde(alias = "why")]
        reason: String,
    },
    /// The version is not healthy, and the previous main is not either: nothing was moved.
    Stuck {
        #[serde(alias = "why")]
        reason: String,
    },
    /// Another command made another version main: absent where the service has no main, or the host does not know who made the change.
    Overtaken {
        #[serde(default)]
        main: Option<Box<Deployment>>,
        #[serde(default)]
        #[serde(alias = "by")]
        actor: Option<Actor>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KillRequest {
    pub id: DeploymentId,
    /// Does not wait for a drain: what is in flight is cut, and counted.
    #[serde(default)]
    pub force: bool,
    /// How long to wait for a drain first.
    #[serde(default, rename = "drain_timeout_ms", with = "duration::ms")]
    #[schemars(with = "duration::Milliseconds")]
    pub drain_timeout: Duration,
    /// The release stays.
    #[serde(default)]
    pub keep_files: bool,
    #[serde(default = "default_actor")]
    pub actor: Actor,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KillResponse {
    pub deployment: Deployment,
    /// Requests in flight when its process was stopped; absent where the kernel could not be queried.
    #[serde(default)]
    #[serde(alias = "cut")]
    pub aborted_requests: Option<u64>,
}

/// New code under an id that stays: its revision and the work on it stay as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateRequest {
    pub id: DeploymentId,
    /// How the new instance is run; as the old one where absent.
    #[serde(default)]
    pub how: Option<RunSpec>,
    /// The content of the release with the new code, which was uploaded before.
    #[serde(default)]
    pub digest: Option<Digest>,
    #[serde(default = "default_timeout", rename = "health_timeout_ms", with = "duration::ms")]
    #[schemars(with = "duration::Milliseconds")]
    pub health_timeout: Duration,
    /// How long the old instance may take to drain.
    #[serde(default = "default_timeout", rename = "drain_timeout_ms", with = "duration::ms")]
    #[schemars(with = "duration::Milliseconds")]
    pub drain_timeout: Duration,
    /// Needed where a new port is allocated, which is not for something that runs already.
    #[serde(default)]
    pub site: Option<HostNetwork>,
    #[serde(default = "default_actor")]
    pub actor: Actor,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Instances that the caller expects to be replaced: its time limit grows with them. The field stays with the caller,
    /// since an older host refuses fields that it does not know.
    #[serde(skip)]
    pub expected_instances: u32,
}

/// The merge of a deployment into the one that its version is on other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MergeRequest {
    pub id: DeploymentId,
    /// The id that it gets.
    pub into: DeploymentId,
    pub revision: u32,
    #[serde(default = "default_actor")]
    pub actor: Actor,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

const fn default_timeout() -> Duration {
    Duration::from_mins(1)
}

/// Returns the actor for a caller of the API that does not identify itself.
fn default_actor() -> Actor {
    Actor::new("api", 0)
}

/// The last good main becomes main.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RollbackRequest {
    #[serde(default = "default_actor")]
    pub actor: Actor,
    /// Detail for the history.
    #[serde(default, alias = "why")]
    pub reason: String,
    /// Limits the change to the case that this version is main: an undo never undoes another operator's change.
    #[serde(default)]
    pub from: Option<Version>,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// The state of one deployment on one host at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentView {
    pub deployment: Deployment,
    pub role: Role,
    /// Whether the backup vhost's port is routed to it.
    pub backup: bool,
    pub status: DeploymentStatus,
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<ProcessState>")]
    pub process: Result<ProcessState, ObservationError>,
    /// Requests in flight on its port.
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<SocketCount>")]
    pub sockets: Result<SocketCount, ObservationError>,
    /// Requests among them that came by main's data port, whichever version is main now.
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<SocketCount>")]
    #[serde(alias = "by_main")]
    pub via_main_port: Result<SocketCount, ObservationError>,
    /// Each instance by itself; absent where the deployment has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceView>,
}

/// The state of one of several instances of a deployment on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceView {
    pub number: u32,
    pub build: u32,
    pub port: Port,
    /// Whether it is among the instances that get new connections.
    pub healthy: bool,
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<ProcessState>")]
    pub process: Result<ProcessState, ObservationError>,
    /// Requests in flight on its port.
    #[serde(with = "observation")]
    #[schemars(with = "observation::ValueOrError<SocketCount>")]
    pub sockets: Result<SocketCount, ObservationError>,
}

/// The deployments of a host and the targets of its services' ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeploymentsView {
    pub services: Vec<ServiceRecord>,
    pub deployments: Vec<DeploymentView>,
    /// Who runs instances here: `systemd`, `supervisor`.
    pub runner: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessRequest {
    /// Whether it can be called from outside.
    pub public: bool,
    #[serde(default = "default_actor")]
    pub actor: Actor,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl AccessRequest {
    pub const fn access(&self) -> Access {
        if self.public { Access::Public } else { Access::Private }
    }
}

/// Takes the host out of the DNS of the catalogue in which its agent registers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WithdrawRequest {
    #[serde(default = "default_actor")]
    pub actor: Actor,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// A watcher of a new main.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WatchRequest {
    /// Which is expected to be main: one that is not any more has not passed.
    pub id: DeploymentId,
    #[serde(default = "default_actor")]
    pub actor: Actor,
}

/// Closes the idle connections that came by the backup port and end at a version that it is no longer routed to. The caller has
/// read every balancer: each reports the main vhost UP and no request in flight to the backup vhost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloseIdleRequest {
    /// The idle connections to the backup vhost that the balancers report. Where the host has more, none is closed.
    pub reported: u64,
    /// Everything is checked, nothing is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloseIdleResponse {
    pub closed: usize,
    /// Those that are open still.
    pub remaining: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogsRequest {
    pub id: DeploymentId,
    /// How many of the last lines; absent: all.
    #[serde(default)]
    pub tail: Option<u32>,
    #[serde(default)]
    pub follow: bool,
}
