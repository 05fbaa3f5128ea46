//! A roll: hosts taken out, worked on and put back, one batch after another.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;
use super::host::Host;
use super::name::{HostName, ServiceName};
use super::run_id::run_id;
use super::shell::join_words;
use super::version::Version;

run_id!(
    /// `r20261121-071503-5f3a`: sorts by time, fits in a file name and an environment variable.
    RollId, 'r', "a roll", RollIdError
);

/// How many hosts are out at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batch {
    Hosts(u32),
    Percent(u8),
}

/// A text that is not a batch size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a batch: expected a number of hosts from 1, or a percentage from 1% to 100%")]
pub struct BatchError {
    pub found: String,
}

impl Batch {
    /// Returns the number of hosts, of `hosts` in all: a percentage is rounded down, and never below one host.
    pub fn size(self, hosts: usize) -> usize {
        match self {
            Self::Hosts(number) => usize::try_from(number).unwrap_or(usize::MAX).max(1),
            Self::Percent(percent) => (hosts * usize::from(percent) / 100).max(1),
        }
    }
}

impl FromStr for Batch {
    type Err = BatchError;
    fn from_str(text: &str) -> Result<Self, BatchError> {
        let error = || BatchError { found: text.to_owned() };
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(error()),
            },
            None => match text.parse() {
                Ok(number @ 1..) => Ok(Self::Hosts(number)),
                _ => Err(error()),
            },
        }
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(number) => write!(f, "{number}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// The handling of the other hosts in maintenance when one of them fails. The failed one is always undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The hosts stay as they are; `roll --resume` goes on from there.
    Stop,
    /// The hosts are put back into service, as far as their main vhost is healthy.
    Return,
}

/// The steps of a host, in this order. Each is recorded before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The hooks `before_host`.
    BeforeHost,
    ForwardOff,
    /// Every balancer reports DOWN.
    Down,
    /// Nothing in flight.
    Drained,
    Command,
    /// The real port answers its health check, `rise` consecutive times.
    Healthy,
    ForwardOn,
    /// Every balancer reports UP.
    Up,
    /// The hooks `after_host`.
    AfterHost,
}

impl Step {
    pub const ALL: [Self; 9] = [
        Self::BeforeHost,
        Self::ForwardOff,
        Self::Down,
        Self::Drained,
        Self::Command,
        Self::Healthy,
        Self::ForwardOn,
        Self::Up,
        Self::AfterHost,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforeHost => "before-host",
            Self::ForwardOff => "forward-off",
            Self::Down => "down",
            Self::Drained => "drained",
            Self::Command => "command",
            Self::Healthy => "healthy",
            Self::ForwardOn => "forward-on",
            Self::Up => "up",
            Self::AfterHost => "after-host",
        }
    }

    /// Describes what a host does once this step has begun.
    pub const fn describe_begun(self, work: &Work) -> &'static str {
        match (self, work) {
            (Self::BeforeHost, _) => "running the before_host hooks",
            (Self::ForwardOff, _) => "turning the forward off",
            (Self::Down, _) => "waiting for DOWN",
            (Self::Drained, _) => "draining",
            (Self::Command, Work::Command { .. }) => "running the command",
            (Self::Command, Work::Assign(_)) => "routing to the new main",
            (Self::Healthy, _) => "waiting for a healthy main vhost",
            (Self::ForwardOn, _) => "turning the forward on",
            (Self::Up, _) => "waiting for UP",
            (Self::AfterHost, _) => "running the after_host hooks",
        }
    }

    /// Describes what is so once this step is done.
    pub const fn describe_done(self, work: &Work) -> &'static str {
        match (self, work) {
            (Self::BeforeHost, _) => "before_host hooks done",
            (Self::ForwardOff, _) => "forward off",
            (Self::Down, _) => "DOWN",
            (Self::Drained, _) => "drained",
            (Self::Command, Work::Command { .. }) => "command done",
            (Self::Command, Work::Assign(_)) => "routed to the new main",
            (Self::Healthy, _) => "main vhost healthy",
            (Self::ForwardOn, _) => "forward on",
            (Self::Up, _) => "UP",
            (Self::AfterHost, _) => "after_host hooks done",
        }
    }

    pub fn next_step(self) -> Option<Self> {
        let at = Self::ALL.iter().position(|step| *step == self)?;
        Self::ALL.get(at + 1).copied()
    }

    /// Whether the host may be out of service once this step has begun.
    pub fn is_out_of_service(self) -> bool {
        (Self::ForwardOff..=Self::Up).contains(&self)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The request for a roll; recorded whole, so that a resume needs no flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RecordedSpec", into = "RecordedSpec")]
pub struct RollSpec {
    pub service: ServiceName,
    /// In the order they are taken out.
    pub hosts: Vec<HostName>,
    /// All hosts of the fleet with their addresses and transports, where a source outside the configuration lists hosts: a resume
    /// takes these and reads no source. Empty where the configuration has all.
    pub found_hosts: Vec<Host>,
    pub batch: Batch,
    /// Limit for the whole roll: one more failed host ends it.
    pub max_failures: u32,
    pub on_failure: OnFailure,
    pub drain_timeout: Duration,
    /// How long the real port may take to become healthy after the work.
    pub health_timeout: Duration,
    /// Hosts go on although requests are in flight when their drain's time is up.
    pub force: bool,
    pub work: Work,
}

/// The work on each host, done while the host is in maintenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Runs a program.
    Command {
        /// The program and its arguments; no shell.
        argv: Vec<String>,
        /// Whether it runs on the host instead of where the operator is.
        remote: bool,
        /// Timeout of one run; `None`: no limit.
        timeout: Option<Duration>,
    },
    /// Makes a version of the service main.
    Assign(NewMain),
}

/// The version that a roll makes main.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMain {
    pub version: Version,
    /// How long each host watches it.
    #[serde(rename = "trial_ms", with = "duration::ms")]
    pub trial: Duration,
}

impl Work {
    /// Returns the version to make main, if that is the work.
    pub const fn new_main(&self) -> Option<&NewMain> {
        match self {
            Self::Assign(new_main) => Some(new_main),
            Self::Command { .. } => None,
        }
    }
}

impl RollSpec {
    /// Returns the command for each host, or the `switchman assign` that the roll is for.
    pub fn command_line(&self) -> Vec<String> {
        match &self.work {
            Work::Command { argv, .. } => argv.clone(),
            Work::Assign(new_main) => {
                let version = new_main.version.to_string();
                ["switchman", "assign", self.service.as_str(), &version].map(str::to_owned).to_vec()
            }
        }
    }

    /// Returns that command as a line for a shell.
    pub fn format_command(&self) -> String {
        join_words(self.command_line())
    }

    /// The hosts in the groups that are out together.
    pub fn batches(&self) -> impl Iterator<Item = &[HostName]> {
        self.hosts.chunks(self.batch.size(self.hosts.len()))
    }
}

/// The form of a [`RollSpec`] in journals and in JSON output. An assignment has a command in it, which is not run: every
/// switchman that knows the schema of the journal reads this form.
#[derive(Serialize, Deserialize)]
struct RecordedSpec {
    service: ServiceName,
    hosts: Vec<HostName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    found_hosts: Vec<Host>,
    batch: Batch,
    max_failures: u32,
    on_failure: OnFailure,
    #[serde(rename = "drain_timeout_ms", with = "duration::ms")]
    drain_timeout: Duration,
    #[serde(rename = "health_timeout_ms", with = "duration::ms")]
    health_timeout: Duration,
    command: Vec<String>,
    remote: bool,
    /// 0: no limit.
    #[serde(rename = "command_timeout_ms", with = "duration::ms")]
    command_timeout: Duration,
    force: bool,
    #[serde(default)]
    assign: Option<NewMain>,
}

impl From<RecordedSpec> for RollSpec {
    fn from(recorded: RecordedSpec) -> Self {
        let work = match recorded.assign {
            Some(new_main) => Work::Assign(new_main),
            None => Work::Command {
                argv: recorded.command,
                remote: recorded.remote,
                timeout: Some(recorded.command_timeout).filter(|timeout| !timeout.is_zero()),
            },
        };
        Self {
            service: recorded.service,
            hosts: recorded.hosts,
            found_hosts: recorded.found_hosts,
            batch: recorded.batch,
            max_failures: recorded.max_failures,
            on_failure: recorded.on_failure,
            drain_timeout: recorded.drain_timeout,
            health_timeout: recorded.health_timeout,
            force: recorded.force,
            work,
        }
    }
}

impl From<RollSpec> for RecordedSpec {
    fn from(spec: RollSpec) -> Self {
        let command = spec.command_line();
        let (remote, timeout, assign) = match spec.work {
            Work::Command { remote, timeout, .. } => (remote, timeout, None),
            Work::Assign(new_main) => (false, None, Some(new_main)),
        };
        Self {
            service: spec.service,
            hosts: spec.hosts,
            found_hosts: spec.found_hosts,
            batch: spec.batch,
            max_failures: spec.max_failures,
            on_failure: spec.on_failure,
            drain_timeout: spec.drain_timeout,
            health_timeout: spec.health_timeout,
            command,
            remote,
            command_timeout: timeout.unwrap_or_default(),
            force: spec.force,
            assign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_never_empty() {
        let size = |text: &str, hosts| text.parse::<Batch>().unwrap().size(hosts);
        assert_eq!((size("1", 4), size("3", 4), size("9", 4)), (1, 3, 9));
        assert_eq!((size("5%", 4), size("25%", 10), size("100%", 10), size("5%", 1000)), (1, 2, 10, 50));
        for bad in ["", "0", "-1", "0%", "101%", "x", "1.5", "5 %"] {
            assert_eq!(bad.parse::<Batch>(), Err(BatchError { found: bad.to_owned() }));
        }
        assert_eq!("25%".parse::<Batch>().unwrap().to_string(), "25%");
    }

    #[test]
    fn steps_are_in_order() {
        let mut walked = vec![Step::BeforeHost];
        while let Some(next) = walked.last().unwrap().next_step() {
            walked.push(next);
        }
        assert_eq!(walked, Step::ALL);
        let out: Vec<Step> = Step::ALL.into_iter().filter(|step| step.is_out_of_service()).collect();
        assert_eq!(out.first(), Some(&Step::ForwardOff));
        assert_eq!(out.last(), Some(&Step::Up));
    }

    #[test]
    fn roll_id_round_trips_and_is_a_plain_word() {
        let id = RollId::new(jiff::Timestamp::UNIX_EPOCH, 0xbeef);
        assert_eq!(id.as_str(), "r19700101-000000-beef");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!("r/../x".parse::<RollId>().is_err() && "x1".parse::<RollId>().is_err());
        // A client of the API may send anything, and the history has to stay readable.
        for text in ["", "r/../x", "x1"] {
            assert!(serde_json::from_value::<RollId>(text.into()).is_err(), "{text}");
        }
        assert_eq!(serde_json::from_value::<RollId>(id.as_str().into()).unwrap(), id);
    }
}
