//! Deployments: a service's version placed on hosts, and what runs of it on one host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::account::{Account, Permission, Sandbox, build_account_name};
use super::duration;
use super::health::Health;
use super::name::ServiceName;
use super::ports::Port;
use super::version::Version;

/// `dp_` and 10 to 40 lower-case letters and digits: the same on every host of a deployment, never used again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^dp_[a-z0-9]{10,40}$"))]
pub struct DeploymentId(String);

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a deployment: expected something like dp_0s3k5mqz8v7xw2", .found.escape_debug())]
pub struct DeploymentIdError {
    pub found: String,
}

impl DeploymentId {
    /// Makes an id of a time and a random number: ids sort by time, and two of the same moment differ.
    pub fn new(now: jiff::Timestamp, salt: u64) -> Self {
        let at = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self(format!("dp_{}{}", base32(at, 10), base32(salt, 10)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Encodes the lowest bits of a number as `digits` digits of Crockford's base 32, lower case.
fn base32(number: u64, digits: u32) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digit = |at: u32| char::from(DIGITS[usize::try_from(number >> (5 * at) & 31).unwrap_or(0)]);
    (0..digits).rev().map(digit).collect()
}

impl FromStr for DeploymentId {
    type Err = DeploymentIdError;
    fn from_str(text: &str) -> Result<Self, DeploymentIdError> {
        let rest = text.strip_prefix("dp_").unwrap_or_default();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if (10..=40).contains(&rest.len()) && rest.chars().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(DeploymentIdError { found: text.to_owned() })
        }
    }
}

impl<'de> Deserialize<'de> for DeploymentId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// SHA-256 of what a release was made of: 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Digest(pub String);

impl Digest {
    /// Returns the 12 characters that are printed.
    pub fn shorten(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// The web servers that a release can be served by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WebServer {
    Nginx,
    Apache,
    Caddy,
}

/// The workload that answers for a deployment on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// A program, started by a runner in the release's directory with `PORT` in its environment.
    Command {
        /// The program and its arguments; no shell.
        argv: Vec<String>,
    },
    /// The release's directory, served by a web server of its own through a generated vhost.
    Vhost { server: WebServer },
    /// Something that runs already, at a port of the host itself.
    External {
        /// As it was given: `http://127.0.0.1:9000`.
        uri: String,
    },
}

/// Resource limits of one instance; absent: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceLimits {
    /// Bytes of memory of all its processes together.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Processes and threads together.
    #[serde(default)]
    pub tasks: Option<u32>,
    /// Open files of one process.
    #[serde(default)]
    pub open_files: Option<u64>,
}

/// The way an instance is run, by any runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunSpec {
    #[serde(alias = "runs")]
    pub workload: Workload,
    /// Added to a clean environment (PATH, HOME, LANG) beside PORT and the `SWITCHMAN_*` names.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// User that runs it, by name; its primary group. `None`: with a sandbox the service's own account, without one the user that
    /// switchman's host side runs as.
    #[serde(default)]
    pub user: Option<String>,
    /// The sandbox of its program. Absent in records of switchman 0.1.0, whose programs run as before, and in requests: the host
    /// decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    #[serde(default)]
    pub resources: InstanceLimits,
    /// Time from TERM to KILL.
    #[serde(default = "default_grace", rename = "grace_ms", with = "duration::ms")]
    #[schemars(with = "duration::Milliseconds")]
    pub grace: Duration,
}

/// Long enough for what was in flight: longer than HAProxy's usual server timeout is of no use.
const fn default_grace() -> Duration {
    Duration::from_secs(10)
}

/// An operator's changes to how an instance is run; a field that is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunSpecChange {
    pub workload: Option<Workload>,
    /// Added to what is there.
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    /// The exceptions from the sandbox, in the place of those that are there.
    pub allow: Option<BTreeSet<Permission>>,
    pub resources: InstanceLimits,
    pub grace: Option<Duration>,
}

impl RunSpecChange {
    pub fn apply_to(self, now: RunSpec) -> RunSpec {
        let runs = self.workload.unwrap_or(now.workload);
        // Only a program runs as a user of its own.
        let user = now.user.filter(|_| matches!(runs, Workload::Command { .. }));
        let mut env = now.env;
        env.extend(self.env);
        RunSpec {
            workload: runs,
            env,
            user: self.user.or(user),
            sandbox: self.allow.map(|allow| Sandbox { allow }).or(now.sandbox),
            resources: InstanceLimits {
                memory_bytes: self.resources.memory_bytes.or(now.resources.memory_bytes),
                tasks: self.resources.tasks.or(now.resources.tasks),
                open_files: self.resources.open_files.or(now.resources.open_files),
            },
            grace: self.grace.unwrap_or(now.grace),
        }
    }
}

impl RunSpec {
    /// Makes a spec with defaults for everything but the workload.
    pub fn new(workload: Workload) -> Self {
        Self {
            workload,
            env: BTreeMap::new(),
            user: None,
            sandbox: None,
            resources: InstanceLimits::default(),
            grace: default_grace(),
        }
    }

    /// Returns the name of the user that runs the workload of a service. `None`: the user that switchman's host side runs as.
    pub fn find_user(&self, service: &ServiceName) -> Option<String> {
        let has_account = self.sandbox.is_some() && matches!(self.workload, Workload::Command { .. });
        self.user.clone().or_else(|| has_account.then(|| build_account_name(service)))
    }

    /// Returns the spec as it is recorded. A new program gets a sandbox; one that was there before (`before`) keeps what it has,
    /// unless another user is given.
    #[must_use]
    pub fn settle(mut self, service: &ServiceName, before: Option<&Self>) -> Self {
        let is_program = |spec: &Self| matches!(spec.workload, Workload::Command { .. });
        if !is_program(&self) {
            return Self { sandbox: None, ..self };
        }
        let is_unchanged =
            |before: &&Self| is_program(before) && (self.user.is_none() || self.user == before.user);
        if self.sandbox.is_none() {
            self.sandbox = match before.filter(is_unchanged) {
                Some(before) => before.sandbox.clone(),
                None => Some(Sandbox::default()),
            };
        }
        // The account of the service is recorded as such: its numbers are those of the host.
        self.user = self.user.filter(|user| *user != build_account_name(service));
        self
    }

    /// Whether a spec that is there runs as this one requests. A request that names no user, or no exceptions, accepts what is there.
    pub fn accepts_user_of(&self, there: &Self, service: &ServiceName) -> bool {
        match (&self.user, &self.sandbox, &there.sandbox) {
            (None, ..) if there.user.is_some() => false,
            (Some(_), ..)
                if self.clone().settle(service, None).find_user(service) != there.find_user(service) =>
            {
                false
            }
            (_, None, _) => true,
            (_, Some(given), there) => given.allow == there.clone().unwrap_or_default().allow,
        }
    }
}

/// Which instance of a deployment: `build` is raised by every update in place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct InstanceId {
    pub deployment: DeploymentId,
    pub build: u32,
    /// 1 is left out, so that older versions of switchman read the ids of deployments with one instance.
    #[serde(default = "first_number", skip_serializing_if = "is_first_number")]
    pub number: u32,
}

const fn first_number() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_first_number(number: &u32) -> bool {
    *number == 1
}

impl fmt::Display for InstanceId {
    /// `dp_…-1`, and `dp_…-1-2` for the second instance of a build: safe as a file name and as part of a systemd unit's name
    /// (systemd.unit(5)).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.deployment, self.build)?;
        if self.number == 1 { Ok(()) } else { write!(f, "-{}", self.number) }
    }
}

/// The progress of a deployment on this host. Any state but `Ready` is work in progress of a switchman process, or what is left of it when
/// that process was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The deployment is being placed and started for the first time; nothing is routed to it. Left over: it is removed again.
    Starting,
    /// Answered its health check `rise` times; may be given traffic.
    Ready,
    /// An update is being started beside it (the field `next`). If it is interrupted, the new instance is removed, or the old one
    /// if the rules route to the new one already.
    Updating,
    /// The update's instance is the instance, and the old one (now the field `next`) is being drained and removed.
    Retiring,
    /// The deployment is being removed; nothing is routed to it. Left over: it is removed.
    Killing,
}

/// The location of one instance on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    pub build: u32,
    /// Number among the instances of its deployment on the host, from 1.
    #[serde(default = "first_number", skip_serializing_if = "is_first_number")]
    pub number: u32,
    pub port: Port,
    pub how: RunSpec,
    /// Name of the release that the instance runs from; `None` for a workload that runs already.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// A service's version on this host, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deployment {
    pub id: DeploymentId,
    /// The id under which its instances were started, if the deployment was merged into another one since: they keep its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_as: Option<DeploymentId>,
    pub service: ServiceName,
    pub version: Version,
    /// +1 per deployment of the service.
    pub revision: u32,
    /// Facts that the operator gave, such as the commit. switchman shows them and does nothing with them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    pub stage: Stage,
    /// The first instance.
    pub instance: Instance,
    /// The instances from the second on, by number; absent where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_instances: Vec<Instance>,
    /// The other instance while an update is under way: the new one coming up, then the old one going.
    #[serde(default)]
    #[serde(alias = "next")]
    pub other_instance: Option<Instance>,
    pub health: Health,
    /// The host's address that HAProxy connects to: where its instances have to answer.
    pub address: IpAddr,
    #[schemars(with = "String")]
    pub created_at: jiff::Timestamp,
    #[schemars(with = "String")]
    pub updated_at: jiff::Timestamp,
}

impl Deployment {
    pub fn instance_id(&self, instance: &Instance) -> InstanceId {
        let deployment = self.started_as.as_ref().unwrap_or(&self.id).clone();
        InstanceId { deployment, build: instance.build, number: instance.number }
    }

    /// Returns the deployment's instances by number. The other one of an update is not among them.
    pub fn active_instances(&self) -> impl Iterator<Item = &Instance> {
        std::iter::once(&self.instance).chain(&self.more_instances)
    }

    /// Returns the deployment's instances, and the other one while an update is under way.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.active_instances().chain(&self.other_instance)
    }

    /// Returns the build of the next update: instances may be of two builds after an update that was cut off.
    pub fn next_build(&self) -> u32 {
        self.active_instances().map(|instance| instance.build).max().unwrap_or(0) + 1
    }

    pub fn has_several_instances(&self) -> bool {
        !self.more_instances.is_empty()
    }

    /// Returns the instance whose number another one has, such as the one that it replaces.
    pub fn find_instance(&self, number: u32) -> Option<&Instance> {
        self.active_instances().find(|one| one.number == number)
    }

    /// Returns the deployment with an instance in the place of the one that has its number.
    #[must_use]
    pub fn replace_instance(mut self, new: Instance) -> Self {
        let mut active = std::iter::once(&mut self.instance).chain(&mut self.more_instances);
        if let Some(place) = active.find(|one| one.number == new.number) {
            *place = new;
        }
        self
    }

    /// Returns the address where an instance of the deployment answers.
    pub fn endpoint(&self, instance: &Instance) -> SocketAddr {
        SocketAddr::new(self.address, instance.port.get())
    }

    /// Name of the directory of a build's release below the service's `releases`: the version, and from the second build on
    /// its number behind `~`, which no version contains.
    pub fn release_name(&self, build: u32) -> String {
        if build == 1 { self.version.to_string() } else { format!("{}~{build}", self.version) }
    }
}

impl FromStr for InstanceId {
    type Err = DeploymentIdError;
    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, DeploymentIdError> {
        let error = || DeploymentIdError { found: text.to_owned() };
        let (deployment, rest) = text.split_once('-').ok_or_else(error)?;
        let (build, number) = rest.split_once('-').unwrap_or((rest, "1"));
        let parse_number = |text: &str| text.parse().map_err(|_| error());
        let id = Self {
            deployment: deployment.parse()?,
            build: parse_number(build)?,
            number: parse_number(number)?,
        };
        // `dp_…-+1`, `dp_…-01` and `dp_…-1-1` are other texts for the same id, and name no instance.
        if id.to_string() == text { Ok(id) } else { Err(error()) }
    }
}

/// The signal that makes a program end once its requests have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StopSignal {
    /// To every process of the instance.
    #[default]
    Term,
    /// To its first process alone: nginx (nginx.org/en/docs/control.html), where TERM cuts requests.
    Quit,
    /// To its first process alone: Apache (httpd.apache.org/docs/2.4/stopping.html), where TERM cuts requests.
    Winch,
}

/// Everything a runner needs to know of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub id: InstanceId,
    pub service: ServiceName,
    pub version: Version,
    /// The program and its arguments; for a vhost the web server's.
    pub argv: Vec<String>,
    /// The whole environment, PORT included.
    pub env: BTreeMap<String, String>,
    /// Working directory at the start: the release's directory.
    pub dir: std::path::PathBuf,
    pub user: Option<String>,
    /// The user by its numbers, where it is the service's own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    pub resources: InstanceLimits,
    /// Time from the signal to KILL, where it is not stopped by a caller with a grace of its own.
    #[serde(rename = "grace_ms", with = "duration::ms")]
    pub grace: Duration,
    #[serde(default)]
    pub stop_signal: StopSignal,
}

impl InstanceSpec {
    /// Returns the sandbox of a program that has one: root needs what the sandbox takes away.
    pub fn find_sandbox(&self) -> Option<&Sandbox> {
        self.sandbox.as_ref().filter(|_| self.user.as_deref() != Some("root"))
    }
}

/// The state of an instance as its runner reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ProcessState {
    Running {
        pid: u32,
        #[schemars(with = "String")]
        since: jiff::Timestamp,
        /// How often it was started again after it ended by itself.
        restarts: u32,
    },
    /// The instance ended by itself and will be started again.
    Waiting {
        #[schemars(with = "String")]
        since: jiff::Timestamp,
        restarts: u32,
        /// How it ended: `status 1`, `signal 11`.
        #[serde(alias = "last")]
        last_exit: String,
    },
    Stopped {
        /// Absent if the instance never ran, or the time is unknown.
        #[schemars(with = "Option<String>")]
        since: Option<jiff::Timestamp>,
        /// How the instance ended; empty if it was stopped on request.
        #[serde(alias = "last")]
        last_exit: String,
    },
    /// No runner of this host runs the instance: it is an external one (`http://...`).
    External,
}

impl ProcessState {
    pub const fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::External)
    }
}

/// Who answers users, who only gets copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Main,
    Shadow,
}

/// Whether old work is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum DeploymentStatus {
    /// The deployment is main.
    Active,
    /// The deployment is not main and has work.
    Draining,
    /// The deployment is not main and has none.
    Drained,
}

/// Whether a service can be called from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    #[default]
    Public,
    Private,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_spec_change_keeps_unset_fields() {
        let program = Workload::Command { argv: vec!["./serve".into()] };
        let env = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
        let now = RunSpec {
            env: env(&["A"]),
            user: Some("shop".into()),
            resources: InstanceLimits { tasks: Some(9), ..InstanceLimits::default() },
            grace: Duration::from_secs(3),
            ..RunSpec::new(program)
        };
        assert_eq!(RunSpecChange::default().apply_to(now.clone()), now);
        let more = RunSpecChange {
            env: env(&["B"]),
            resources: InstanceLimits { memory_bytes: Some(7), ..InstanceLimits::default() },
            ..RunSpecChange::default()
        };
        let resources = InstanceLimits { memory_bytes: Some(7), tasks: Some(9), open_files: None };
        assert_eq!(more.apply_to(now.clone()), RunSpec { env: env(&["A", "B"]), resources, ..now.clone() });
        let allow = Some([Permission::Devices].into());
        let sandbox =
            RunSpecChange { allow: allow.clone(), ..RunSpecChange::default() }.apply_to(now.clone()).sandbox;
        assert_eq!(sandbox.map(|sandbox| sandbox.allow), allow);
        // A web server's files do not run as a user of their own.
        let pages = Workload::Vhost { server: WebServer::Nginx };
        let served =
            RunSpecChange { workload: Some(pages.clone()), ..RunSpecChange::default() }.apply_to(now.clone());
        assert_eq!(served, RunSpec { workload: pages, user: None, ..now });
    }

    #[test]
    fn single_instance_is_recorded_as_before() {
        let one = crate::model::example::deployment("shop", "1.0.0", 20000);
        let recorded = serde_json::to_value(&one).unwrap();
        assert!(recorded.get("more_instances").is_none() && recorded["instance"].get("number").is_none());
        assert_eq!(serde_json::from_value::<Deployment>(recorded).unwrap(), one);
        let id = serde_json::to_value(one.instance_id(&one.instance)).unwrap();
        assert_eq!(id.as_object().unwrap().keys().collect::<Vec<_>>(), ["build", "deployment"]);
    }

    #[test]
    fn deployment_ids_sort_by_time_and_round_trip() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let (early, late) =
            (DeploymentId::new(at(1_000_000_000), u64::MAX), DeploymentId::new(at(1_900_000_000), 0));
        assert!(early < late);
        assert_eq!(early.as_str().parse(), Ok(early.clone()));
        for (number, text) in [(1, "-2"), (3, "-2-3")] {
            let instance = InstanceId { deployment: early.clone(), build: 2, number };
            assert_eq!(instance.to_string(), format!("{early}{text}"));
            assert_eq!(instance.to_string().parse(), Ok(instance));
        }
        let bad = ["dp_0123456789", "dp_0123456789-", "dp_0123456789-+1", "dp_0123456789-01", "dp_a/b-1"];
        for bad in bad.into_iter().chain(["dp_0123456789-1-1", "dp_0123456789-1-02", "dp_0123456789-1-2-3"]) {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
        for bad in ["dp_", "dp_ABCDEFGHIJK", "dp_../../../x", "xx_0123456789", "dp_0123456789-1"] {
            assert!(bad.parse::<DeploymentId>().is_err(), "{bad}");
        }
    }
}
