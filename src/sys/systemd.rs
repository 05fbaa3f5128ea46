//! `world::runner` where systemd is process 1: a unit for each instance, which starts it at boot and whenever it ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::exec::{DEFAULT_PATH, ExecError, Output, Program};
use super::files::LocalFiles;
use super::lines::read_lines;
use super::users::find_account;
use crate::model::account::{Account, build_account_name};
use crate::model::deployment::{InstanceId, InstanceSpec, ProcessState};
use crate::model::name::ServiceName;
use crate::templates::unit::{self, ValueLocation};
use crate::world::files::FileSystem;
use crate::world::link::SharedLineSink;
use crate::world::runner::{Runner, RunnerError, StopResult};

mod environment;

use environment::EnvironmentFiles;

/// The directory of the administrator's units (systemd.unit(5)).
const UNIT_DIR: &str = "/etc/systemd/system";
/// There exactly where systemd is process 1 (sd_booted(3)).
const SYSTEMD_RUN_DIR: &str = "/run/systemd/system";
/// Bound on a call of systemctl that waits for nothing.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that systemd itself may take on top of a program's grace: KILL, and the end of processes that hang in the kernel.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// How often the result of an end is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A program's last words are in the journal this long after its end.
const JOURNAL_DELAY: Duration = Duration::from_millis(500);

/// The properties that every reading of a unit's state requests.
const PROPERTIES: &str = "LoadState,ActiveState,SubState,MainPID,ExecMainStartTimestamp,ExecMainExitTimestamp,\
                          ExecMainCode,ExecMainStatus,NRestarts,Result,StateChangeTimestamp";

#[derive(Debug)]
pub struct Systemd {
    unit_dir: PathBuf,
    environment: EnvironmentFiles,
}

impl Systemd {
    /// `state_dir` is switchman's own.
    pub fn new(state_dir: &Path) -> Self {
        Self { unit_dir: UNIT_DIR.into(), environment: EnvironmentFiles::new(state_dir) }
    }

    pub fn is_running() -> bool {
        Path::new(SYSTEMD_RUN_DIR).is_dir()
    }

    fn unit_path(&self, instance: &InstanceId) -> PathBuf {
        self.unit_dir.join(unit::format_unit_name(instance))
    }

    async fn read_properties(&self, instance: &InstanceId) -> Result<BTreeMap<String, String>, String> {
        let show = ["show", "-p", PROPERTIES];
        let output = run_systemctl(&show, Some(instance), COMMAND_TIMEOUT).await?;
        Ok(parse_properties(&output.stdout))
    }

    async fn start_unit(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        let because =
            |reason: String| RunnerError::Failed { action: "start", instance: spec.id.clone(), reason };
        let program = locate(spec)?;
        check_user(spec)?;
        self.write_unit(spec, &program)?;
        run_systemctl(&["daemon-reload"], None, COMMAND_TIMEOUT).await.map_err(because)?;
        let started = run_systemctl(&["enable", "--now", "--quiet"], Some(&spec.id), COMMAND_TIMEOUT).await;
        if let Err(reason) = started {
            let log = self.read_last_log_lines(&spec.id).await;
            self.remove_unit(&spec.id).await.map_err(because)?;
            return Err(because(if log.is_empty() { reason } else { log }));
        }
        Ok(())
    }

    /// Writes the unit and its environment, unless they are there. A unit of 0.1.0, which has the values in it, is replaced: its
    /// process runs on.
    fn write_unit(&self, spec: &InstanceSpec, program: &Path) -> Result<(), RunnerError> {
        let because =
            |reason: String| RunnerError::Failed { action: "start", instance: spec.id.clone(), reason };
        let (file, values_file) = (self.unit_path(&spec.id), self.environment.path(&spec.id));
        let text = unit::render_unit(spec, program, ValueLocation::File(&values_file))
            .map_err(|error| because(error.to_string()))?;
        let values = unit::render_private_environment(spec);
        let known = std::fs::read_to_string(&file).ok();
        if let Some(known) = &known {
            let known_values = self.environment.read(&spec.id).map_err(|error| RunnerError::ReadFailed {
                path: values_file.clone(),
                reason: error.to_string(),
            })?;
            let is_same = unit::is_same_command(known, &text)
                && known_values.is_none_or(|known| values.as_ref() == Some(&known));
            let is_old = || {
                unit::render_unit(spec, program, ValueLocation::Unit)
                    .is_ok_and(|old| unit::is_same_command(known, &old))
            };
            if !is_same && !is_old() {
                return Err(because("it is there already, and is run in another way".to_owned()));
            }
        }
        // Before the unit that names it.
        self.environment
            .write(&spec.id, values.as_deref())
            .map_err(|error| RunnerError::WriteFailed { path: values_file, reason: error.to_string() })?;
        if known.as_ref() == Some(&text) {
            return Ok(());
        }
        LocalFiles
            .write(&file, &text)
            .map_err(|error| RunnerError::WriteFailed { path: file, reason: error.reason })
    }

    /// Reads the last lines that systemd or the program logged, for an instance that did not start.
    async fn read_last_log_lines(&self, instance: &InstanceId) -> String {
        let unit = unit::format_unit_name(instance);
        let journal = Program::new("journalctl").args(["-u", &unit, "-o", "cat", "-n", "3", "--no-pager"]);
        journal
            .run(b"", COMMAND_TIMEOUT)
            .await
            .map(|out| out.stdout.trim().replace('\n', "; "))
            .unwrap_or_default()
    }

    async fn remove_unit(&self, instance: &InstanceId) -> Result<(), String> {
        run_systemctl(&["disable", "--now", "--quiet"], Some(instance), COMMAND_TIMEOUT).await?;
        LocalFiles.remove(&self.unit_path(instance)).map_err(|error| error.to_string())?;
        self.environment.remove(instance).map_err(|error| {
            format!("cannot remove `{}`: {error}", self.environment.path(instance).display())
        })?;
        run_systemctl(&["daemon-reload"], None, COMMAND_TIMEOUT).await?;
        // Fails where there is nothing to forget.
        let _ = run_systemctl(&["reset-failed", "--quiet"], Some(instance), COMMAND_TIMEOUT).await;
        Ok(())
    }

    async fn stop_unit(&self, instance: &InstanceId, grace: Duration) -> Result<StopResult, String> {
        if !self.unit_path(instance).exists() {
            return Ok(StopResult::NotRunning);
        }
        let before = self.read_properties(instance).await?;
        let was_running =
            matches!(get_value(&before, "ActiveState"), "active" | "deactivating" | "reloading");
        if !was_running {
            self.remove_unit(instance).await?;
            return Ok(StopResult::NotRunning);
        }
        // The unit's own grace is the one it was started with: this one is the caller's, and may be another.
        set_grace(&self.unit_path(instance), grace).await?;
        run_systemctl(&["disable", "--quiet"], Some(instance), COMMAND_TIMEOUT).await?;
        run_systemctl(&["stop", "--no-block"], Some(instance), COMMAND_TIMEOUT).await?;
        let ended = async {
            loop {
                let now = self.read_properties(instance).await?;
                if !matches!(get_value(&now, "ActiveState"), "active" | "deactivating" | "activating") {
                    return Ok::<_, String>(now);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let bound = grace + STOP_MARGIN;
        let after = tokio::time::timeout(bound, ended).await;
        let after = after.map_err(|_| "it has not ended, not even by KILL".to_owned())??;
        self.remove_unit(instance).await?;
        Ok(if get_value(&after, "Result") == "timeout" { StopResult::Killed } else { StopResult::Exited })
    }
}

/// Finds the program's file: a unit names a whole path, or one of the few directories that systemd looks in.
fn locate(spec: &InstanceSpec) -> Result<PathBuf, RunnerError> {
    let Some(name) = spec.argv.first() else {
        return Err(RunnerError::Missing { program: String::new() });
    };
    let path = spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    Program::new(name).dir(&spec.dir).env("PATH", path).locate().map_err(|error| match error {
        ExecError::Missing { program } => RunnerError::Missing { program },
        other => {
            RunnerError::Failed { action: "start", instance: spec.id.clone(), reason: other.to_string() }
        }
    })
}

/// Checks that the user exists: systemd would restart the unit again and again, and report the reason only in its journal.
fn check_user(spec: &InstanceSpec) -> Result<(), RunnerError> {
    match &spec.user {
        Some(user) if !matches!(nix::unistd::User::from_name(user), Ok(Some(_))) => {
            Err(RunnerError::NoUser { user: user.clone() })
        }
        _ => Ok(()),
    }
}

fn parse_properties(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Adds a system user without a home, a password or a shell. Its number has to be known before a program of the release runs:
/// files of the release belong to it. That of `DynamicUser=` is chosen when the unit starts, and is given to another unit after its
/// end.
async fn add_account(user: &str, service: &ServiceName) -> Result<Account, RunnerError> {
    let failed = |reason: String| RunnerError::NoAccount { user: user.to_owned(), reason };
    // The agent's unit cannot write to /etc: systemd runs the program outside of it. A oneshot has started when it has ended;
    // `--wait` needs the system bus, which a small host may not have.
    let program = Program::new("systemd-run")
        .args(["--quiet", "--collect", "--property=Type=oneshot", "--", "/usr/sbin/useradd"])
        .args([
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
            "--comment",
            &format!("switchman service {service}"),
            user,
        ]);
    let output = program.run(b"", COMMAND_TIMEOUT).await.map_err(|error| failed(error.to_string()))?;
    // Another deploy may have added it since: then useradd fails.
    match find_account(user)? {
        Some(found) => Ok(found),
        None => Err(failed(format!("`{program}` failed: {}", output.stderr.trim()))),
    }
}

fn get_value<'a>(properties: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    properties.get(key).map_or("", String::as_str)
}

/// `Tue 2023-11-14 22:13:20 UTC`; empty where it never was. `--timestamp=unix` came with 251.
fn parse_timestamp(text: &str) -> Option<jiff::Timestamp> {
    let (_, time) = text.strip_suffix(" UTC")?.split_once(' ')?;
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", time).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// Translates the properties of a unit into the state of its process.
fn parse_process(properties: &BTreeMap<String, String>) -> ProcessState {
    let value = |key| get_value(properties, key);
    let restarts = value("NRestarts").parse().unwrap_or(0);
    let changed = parse_timestamp(value("StateChangeTimestamp"));
    // ExecMainCode is CLD_EXITED (1), CLD_KILLED (2) or CLD_DUMPED (3) of waitid(2).
    let last = match value("ExecMainCode") {
        "1" => format!("status {}", value("ExecMainStatus")),
        "2" | "3" => format!("signal {}", value("ExecMainStatus")),
        _ => value("Result").to_owned(),
    };
    match (value("ActiveState"), value("MainPID").parse().unwrap_or(0)) {
        ("active" | "reloading" | "deactivating" | "activating", pid) if pid != 0 => {
            let since = parse_timestamp(value("ExecMainStartTimestamp")).or(changed).unwrap_or_default();
            ProcessState::Running { pid, since, restarts }
        }
        ("activating", _) => {
            ProcessState::Waiting { since: changed.unwrap_or_default(), restarts, last_exit: last }
        }
        _ => ProcessState::Stopped {
            since: parse_timestamp(value("ExecMainExitTimestamp")).or(changed),
            last_exit: last,
        },
    }
}

/// Returns the standard output of systemctl, or an error with the text of its standard error.
async fn run_systemctl(
    args: &[&str],
    instance: Option<&InstanceId>,
    bound: Duration,
) -> Result<Output, String> {
    // systemctl prints times in the time zone of its caller.
    let mut program = Program::new("systemctl").args(args).env("TZ", "UTC").env("LC_ALL", "C");
    if let Some(instance) = instance {
        program = program.arg(unit::format_unit_name(instance));
    }
    match program.run(b"", bound).await {
        Ok(output) if output.status == 0 => Ok(output),
        Ok(output) => Err(format!("`{program}` failed: {}", output.stderr.trim())),
        Err(error) => Err(error.to_string()),
    }
}

/// Sets the grace of the next stop: `systemctl set-property` cannot change it, so it is written into the unit.
async fn set_grace(file: &Path, grace: Duration) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let new = unit::replace_grace(&text, grace);
    if new == text {
        return Ok(());
    }
    LocalFiles.write(file, &new).map_err(|error| error.to_string())?;
    run_systemctl(&["daemon-reload"], None, COMMAND_TIMEOUT).await.map(drop)
}

#[async_trait]
impl Runner for Systemd {
    fn restarts_at_boot(&self) -> bool {
        true
    }

    /// `stopping` is the state from the begin of a shutdown on (systemctl(1), `is-system-running`, which then fails).
    async fn is_machine_stopping(&self) -> bool {
        let state = Program::new("systemctl").arg("is-system-running").env("LC_ALL", "C");
        let output = state.run(b"", COMMAND_TIMEOUT).await;
        output.is_ok_and(|output| output.stdout.trim() == "stopping")
    }

    fn name(&self) -> &'static str {
        "systemd"
    }

    /// Units of other users are not written here.
    fn is_root(&self) -> bool {
        true
    }

    async fn prepare_account(
        &self,
        service: &ServiceName,
        user: &str,
    ) -> Result<Option<Account>, RunnerError> {
        if let Some(found) = find_account(user)? {
            return Ok(Some(found));
        }
        if user != build_account_name(service) {
            return Err(RunnerError::NoUser { user: user.to_owned() });
        }
        add_account(user, service).await.map(Some)
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        self.start_unit(spec).await
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<StopResult, RunnerError> {
        self.stop_unit(instance, grace).await.map_err(to_runner_error("stop", instance))
    }

    async fn state(&self, instance: &InstanceId) -> Result<ProcessState, RunnerError> {
        let properties =
            self.read_properties(instance).await.map_err(to_runner_error("read the state of", instance))?;
        if get_value(&properties, "LoadState") == "not-found" {
            return Err(RunnerError::Unknown { instance: instance.clone() });
        }
        Ok(parse_process(&properties))
    }

    async fn list_instances(&self) -> Result<Vec<InstanceId>, RunnerError> {
        let cannot = |error: std::io::Error| RunnerError::ReadFailed {
            path: self.unit_dir.clone(),
            reason: error.to_string(),
        };
        let mut known = Vec::new();
        for entry in std::fs::read_dir(&self.unit_dir).map_err(cannot)? {
            known.extend(entry.map_err(cannot)?.file_name().to_str().and_then(unit::parse_unit_name));
        }
        known.sort();
        Ok(known)
    }

    async fn stream_logs(
        &self,
        instance: &InstanceId,
        tail: Option<u32>,
        follow: bool,
        heard: SharedLineSink,
    ) -> Result<(), RunnerError> {
        let because = to_runner_error("read the log of", instance);
        let tail = tail.map_or_else(|| "all".to_owned(), |tail| tail.to_string());
        // `_SYSTEMD_UNIT` alone selects the program's own lines, without those that systemd logs about the unit.
        let ours = format!("_SYSTEMD_UNIT={}", unit::format_unit_name(instance));
        let mut journal =
            Program::new("journalctl").args([&ours, "-o", "short-iso", "-q", "--no-pager", "-n", &tail]);
        if follow {
            journal = journal.arg("-f");
        }
        let mut child = journal.spawn_piped().map_err(|error| because(error.to_string()))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (end, ended) = watch::channel(false);
        let complaints: SharedLineSink = std::sync::Arc::new(|line: &str| log::warn!("journalctl: {line}"));
        let gone = async {
            tokio::select! {
                _ = child.wait() => {}
                // A journal that is followed has no end: it is the instance that has one.
                () = self.wait_until_removed(instance, follow) => {
                    tokio::time::sleep(JOURNAL_DELAY).await;
                    let _ = child.start_kill();
                    let _ = child.wait().await;
                }
            }
            end.send_replace(true);
        };
        tokio::join!(gone, read_lines(out, &heard, ended.clone()), read_lines(err, &complaints, ended));
        Ok(())
    }

    async fn delete_records(&self, instance: &InstanceId) -> Result<(), RunnerError> {
        if self.unit_path(instance).exists() {
            return Err(to_runner_error("forget", instance)("it is not stopped".to_owned()));
        }
        // Left where a stop was cut short. The journal is the machine's, and turns its own oldest entries out.
        self.environment
            .remove(instance)
            .map_err(|error| to_runner_error("forget", instance)(error.to_string()))
    }
}

impl Systemd {
    async fn wait_until_removed(&self, instance: &InstanceId, follow: bool) {
        while !follow || self.unit_path(instance).exists() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn to_runner_error(what: &'static str, instance: &InstanceId) -> impl Fn(String) -> RunnerError {
    move |reason| RunnerError::Failed { action: what, instance: instance.clone(), reason }
}

/// Reads a text as the properties of a unit: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_properties(text: &str) {
    let _ = parse_process(&parse_properties(text));
}

#[cfg(test)]
mod tests;
