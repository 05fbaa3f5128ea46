//! The operator's own command lines at fixed points of a roll.

use std::collections::BTreeMap;
use std::sync::Arc;
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
    #[error("hook {} `{line}` {source}", .hook.as_str())]
    Failed { hook: Hook, line: String, source: RunFailure },
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

/// Runs the lines one after another; the first that fails ends it, and is the error.
pub async fn run(
    world: &FleetWorld,
    fleet: &Fleet,
    roll: &RollId,
    hook: Hook,
    host: Option<&Host>,
    extra: &[(&str, &str)],
) -> Result<(), HookError> {
    let lines = match hook {
        Hook::BeforeRoll => &fleet.hooks.before_roll,
        Hook::BeforeHost => &fleet.hooks.before_host,
        Hook::AfterHost => &fleet.hooks.after_host,
        Hook::AfterRoll => &fleet.hooks.after_roll,
        Hook::OnFailure => &fleet.hooks.on_failure,
    };
    for line in lines {
        let mut env = build_env(fleet, roll, host, hook.as_str());
        env.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let scope = host.map_or("roll", |host| host.name.as_str());
        let request = RunRequest {
            key: format!("{roll}-{scope}-{}", hook.as_str()),
            argv: ["sh", "-c", line].map(str::to_owned).to_vec(),
            env,
            dir: None,
            timeout_ms: u64::try_from(fleet.hooks.timeout.as_millis()).ok(),
        };
        let ended =
            world.commands.run(&request, make_output_sink(world, roll, host.map(|host| &host.name))).await;
        let ended = ended.map_err(|source| HookError::NotRun { hook, line: line.clone(), source })?;
        check_run_end(ended, fleet.hooks.timeout).map_err(|source| HookError::Failed {
            hook,
            line: line.clone(),
            source,
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

/// Lines go to the reporter as they come, and are kept.
pub fn make_output_sink(world: &FleetWorld, roll: &RollId, host: Option<&HostName>) -> SharedLineSink {
    let (reporter, outputs) = (world.reporter.clone(), world.outputs.clone());
    let (roll, host) = (roll.clone(), host.cloned());
    Arc::new(move |line: &str| {
        outputs.append_line(&roll, host.as_ref(), line);
        let event = RollEvent::Output { host: host.clone(), line: line.to_owned() };
        reporter.report(&Event::Roll { roll: roll.clone(), event });
    })
}
