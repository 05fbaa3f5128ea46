//! The lock of a fleet, for one change at a time: its holder, its start and its purpose.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::ServiceName;
use super::roll::RollId;
use super::terminal_text::clean_line;
use super::version::Version;

/// Who holds the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    pub user: String,
    /// The machine the holder works on.
    pub machine: String,
    /// Which boot of it (/proc/sys/kernel/random/boot_id); pids of another boot mean nothing.
    #[serde(alias = "boot")]
    pub boot_id: String,
    pub pid: u32,
    /// Clock ticks from boot to the start of the process (proc(5), field 22): detects a pid that was given to another
    /// process.
    #[serde(alias = "started")]
    pub start_ticks: u64,
    /// The process's pid namespace (pid_namespaces(7)): pids of another one, as of another container, mean nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pid_namespace: String,
    pub purpose: LockPurpose,
    #[schemars(with = "String")]
    pub since: jiff::Timestamp,
}

/// The purpose of a fleet lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "for", rename_all = "kebab-case")]
pub enum LockPurpose {
    /// A program's roll, which sends heartbeats while it works.
    Roll { roll: RollId },
    /// A promotion of a version, which may take hours, and sends heartbeats as well.
    #[serde(alias = "rollout")]
    Promotion { service: ServiceName, version: Version },
    /// A command that switches several hosts.
    Command { name: String },
    /// A person's lock, held until released: the process that acquired it has ended long since.
    #[serde(alias = "person")]
    Operator { message: String },
}

/// The observed state of the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockView {
    pub holder: Holder,
    /// Counted up while the holder lives; compared with an earlier sample, never with a clock.
    pub heartbeats: u64,
    pub liveness: Liveness,
}

/// Something that was done to the lock, for the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockNote {
    #[schemars(with = "String")]
    pub at: jiff::Timestamp,
    pub user: String,
    pub text: String,
}

/// Whether the holder is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Liveness {
    /// The holder's process runs on this machine, or a person holds the lock.
    #[serde(alias = "alive")]
    Live,
    /// The holder's process no longer runs on this machine.
    #[serde(alias = "gone")]
    Dead,
    /// The holder runs on another machine: only its heartbeat shows whether it is alive.
    #[serde(alias = "elsewhere")]
    Remote,
}

impl fmt::Display for LockPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roll { roll } => write!(f, "roll {roll}"),
            Self::Promotion { service, version } => write!(f, "promote {service} {version}"),
            Self::Command { name } => f.write_str(name),
            Self::Operator { message } => f.write_str(message),
        }
    }
}

impl Holder {
    /// Describes the holder with its time in the form of the output.
    pub fn describe(&self, format_time: impl FnOnce(jiff::Timestamp) -> String) -> String {
        let Self { user, machine, pid, purpose, since, .. } = self;
        let process = match purpose {
            // The process that acquired it has ended.
            LockPurpose::Operator { .. } => String::new(),
            _ => format!(" (pid {pid})"),
        };
        let text = format!("{user} on {machine}{process} since {}: {purpose}", format_time(*since));
        clean_line(&text).into_owned()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(|since| format!("{since:.0}")))
    }
}
