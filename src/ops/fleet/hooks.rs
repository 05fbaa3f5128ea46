//! The operator's own command lines at fixed points of a roll.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::model::api::{RunOutcome, RunRequest};
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::roll::RollId;
use crate::world::FleetWorld;
use crate::world::commands::CommandError;
use crate::world::link::SharedLineSink;
use crate::world::reporter::{Event, RollEvent};

/// The point of the roll at which a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    BeforeRoll,
    BeforeHost,
    AfterHost,
    AfterRoll,
    OnFailure,
}

impl Hook {
    pub const ALL: [Self; 5] =
        [Self::BeforeRoll, Self::BeforeHost, Self::AfterHost, Self::AfterRoll, Self::OnFailure];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforeRoll => "before_roll",
            Self::BeforeHost => "before_host",
            Self::AfterHost => "after_host",
            Self::AfterRoll => "after_roll",
            Self::OnFailure => "on_failure",
        }
    }
}

/// Why a hook did not end with success.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("hook {} `{line}`: {source}", .hook.as_str())]
    NotRun { hook: Hook, line: String, source: CommandError },
    #[error("hook {} `{line}` {source}{last_line}", .hook.as_str())]
    Failed { hook: Hook, line: String, source: RunFailure, last_line: LastLine },
}

/// Why an end is not a success, as a verb phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RunFailure {
    #[error("did not end within {}", duration::format(*.timeout))]
    TimedOut { timeout: Duration },
    #[error("ended with status {status}")]
    BadStatus { status: i32 },
}

/// The documented environment of commands and hooks.
pub fn build_env(fleet: &Fleet, roll: &RollId, host: Option<&Host>, step: &str) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("SWITCHMAN_ROLL_ID".to_owned(), roll.to_string()),
        ("SWITCHMAN_SERVICE".to_owned(), fleet.service.to_string()),
        ("SWITCHMAN_STEP".to_owned(), step.to_owned()),
    ]);
    if let Some(host) = host {
        let address = host.address.map_or_else(|| "127.0.0.1".to_owned(), |address| address.to_string());
        env.insert("SWITCHMAN_HOST".to_owned(), host.name.to_string());
        env.insert("SWITCHMAN_ADDRESS".to_owned(), address);
    }
    env
}

/// Returns the lines of a hook.
pub fn find_lines(fleet: &Fleet, hook: Hook) -> &[String] {
    match hook {
        Hook::BeforeRoll => &fleet.hooks.before_roll,
        Hook::BeforeHost => &fleet.hooks.before_host,
        Hook::AfterHost => &fleet.hooks.after_host,
        Hook::AfterRoll => &fleet.hooks.after_roll,
        Hook::OnFailure => &fleet.hooks.on_failure,
    }
}

/// Runs the lines one after another; the first that fails ends it, and is the error.
pub async fn run(
    world: &FleetWorld,
    fleet: &Fleet,
    roll: &RollId,
    hook: Hook,
    host: Option<&Host>,
    extra: &[(&str, &str)],
) -> Result<(), HookError> {
    for line in find_lines(fleet, hook) {
        let mut env = build_env(fleet, roll, host, hook.as_str());
        env.extend(fleet.reach.ssh_files.to_env());
        env.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let scope = host.map_or("roll", |host| host.name.as_str());
        let request = RunRequest {
            key: format!("{roll}-{scope}-{}", hook.as_str()),
            argv: ["sh", "-c", line].map(str::to_owned).to_vec(),
            env,
            dir: None,
            timeout_ms: u64::try_from(fleet.hooks.timeout.as_millis()).ok(),
        };
        let last_line = LastLine::default();
        let sink = make_output_sink(world, roll, host.map(|host| &host.name), &last_line);
        let ended = world.commands.run(&request, sink).await;
        let ended = ended.map_err(|source| HookError::NotRun { hook, line: line.clone(), source })?;
        if check_run_end(ended, fleet.hooks.timeout).is_err() {
            world.outputs.share_failure(roll, host.map(|host| &host.name)).await;
        }
        check_run_end(ended, fleet.hooks.timeout).map_err(|source| HookError::Failed {
            hook,
            line: line.clone(),
            source,
            last_line,
        })?;
    }
    Ok(())
}

/// Checks that a run ended in time and with status 0.
pub const fn check_run_end(end: RunOutcome, timeout: Duration) -> Result<(), RunFailure> {
    match end {
        RunOutcome { timed_out: true, .. } => Err(RunFailure::TimedOut { timeout }),
        RunOutcome { status: 0, .. } => Ok(()),
        RunOutcome { status, .. } => Err(RunFailure::BadStatus { status }),
    }
}

/// The last line of a program's output that is not blank: often the cause of its failure.
#[derive(Debug, Clone, Default)]
pub struct LastLine(Arc<Mutex<String>>);

impl LastLine {
    /// Longer lines are cut, in characters.
    const MAX_LENGTH: usize = 200;

    fn set(&self, line: &str) {
        let plain = |c: &char| !c.is_control();
        let line: String = line.trim().chars().filter(plain).take(Self::MAX_LENGTH).collect();
        if !line.is_empty() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = line;
        }
    }
}

/// `: LINE`, or nothing.
impl fmt::Display for LastLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_str() {
            "" => Ok(()),
            line => write!(f, ": {line}"),
        }
    }
}

/// Lines go to the reporter as they come, and are kept.
pub fn make_output_sink(
    world: &FleetWorld,
    roll: &RollId,
    host: Option<&HostName>,
    last_line: &LastLine,
) -> SharedLineSink {
    let (reporter, outputs) = (world.reporter.clone(), world.outputs.clone());
    let (roll, host, last_line) = (roll.clone(), host.cloned(), last_line.clone());
    Arc::new(move |line: &str| {
        last_line.set(line);
        outputs.append_line(&roll, host.as_ref(), line);
        let event = RollEvent::Output { host: host.clone(), line: line.to_owned() };
        reporter.report(&Event::Roll { roll: roll.clone(), event });
    })
}
