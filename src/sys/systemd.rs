//! `world::runner` where systemd is process 1: a unit for each instance, which starts it at boot and whenever it ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::exec::{ExecError, Output, Program, USUAL_PATH};
use super::files::LocalFiles;
use super::lines::read_lines;
use crate::model::deployment::{InstanceId, InstanceSpec, Process};
use crate::templates::unit;
use crate::world::files::Files;
use crate::world::link::Heard;
use crate::world::runner::{Ended, Runner, RunnerError};

/// Where an administrator's units are (systemd.unit(5)).
const UNITS: &str = "/etc/systemd/system";
/// There exactly where systemd is process 1 (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Bound on a call of systemctl that waits for nothing.
const BOUND: Duration = Duration::from_secs(30);
/// What systemd itself may take on top of a program's grace: KILL, and ends of what hangs in the kernel.
const MARGIN: Duration = Duration::from_secs(30);
/// How often the result of an end is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// A program's last words are in the journal this long after its end.
const AFTERWORDS: Duration = Duration::from_millis(500);

/// Asked for in every reading of a unit's state.
const PROPERTIES: &str = "LoadState,ActiveState,SubState,MainPID,ExecMainStartTimestamp,ExecMainExitTimestamp,\
                          ExecMainCode,ExecMainStatus,NRestarts,Result,StateChangeTimestamp";

#[derive(Debug)]
pub struct Systemd {
    units: PathBuf,
}

impl Default for Systemd {
    fn default() -> Self {
        Self { units: UNITS.into() }
    }
}

impl Systemd {
    pub fn is_here() -> bool {
        Path::new(BOOTED).is_dir()
    }

    fn file(&self, instance: &InstanceId) -> PathBuf {
        self.units.join(unit::name(instance))
    }

    async fn properties(&self, instance: &InstanceId) -> Result<BTreeMap<String, String>, String> {
        let show = ["show", "-p", PROPERTIES];
        let output = systemctl(&show, Some(instance), BOUND).await?;
        let pairs = output.stdout.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    async fn begin(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        let because = |why: String| RunnerError::Failed { what: "start", instance: spec.id.clone(), why };
        let program = locate(spec)?;
        check_user(spec)?;
        let text = unit::text(spec, &program).map_err(|error| because(error.to_string()))?;
        let file = self.file(&spec.id);
        match std::fs::read_to_string(&file) {
            Ok(known) if !unit::is_same(&known, &text) => {
                return Err(because("it is there already, and is run in another way".to_owned()));
            }
            Ok(known) if known == text => {}
            _ => LocalFiles
                .write(&file, &text)
                .map_err(|error| RunnerError::NotWritten { path: file.clone(), why: error.why })?,
        }
        systemctl(&["daemon-reload"], None, BOUND).await.map_err(because)?;
        let started = systemctl(&["enable", "--now", "--quiet"], Some(&spec.id), BOUND).await;
        if let Err(why) = started {
            let log = self.last_words(&spec.id).await;
            self.end(&spec.id).await.map_err(because)?;
            return Err(because(if log.is_empty() { why } else { log }));
        }
        Ok(())
    }

    /// What systemd or the program said last, where it would not start.
    async fn last_words(&self, instance: &InstanceId) -> String {
        let unit = unit::name(instance);
        let journal = Program::new("journalctl").args(["-u", &unit, "-o", "cat", "-n", "3", "--no-pager"]);
        journal.run(b"", BOUND).await.map(|out| out.stdout.trim().replace('\n', "; ")).unwrap_or_default()
    }

    async fn end(&self, instance: &InstanceId) -> Result<(), String> {
        systemctl(&["disable", "--now", "--quiet"], Some(instance), BOUND).await?;
        LocalFiles.remove(&self.file(instance)).map_err(|error| error.to_string())?;
        systemctl(&["daemon-reload"], None, BOUND).await?;
        // Fails where there is nothing to forget.
        let _ = systemctl(&["reset-failed", "--quiet"], Some(instance), BOUND).await;
        Ok(())
    }

    async fn stop_unit(&self, instance: &InstanceId, grace: Duration) -> Result<Ended, String> {
        if !self.file(instance).exists() {
            return Ok(Ended::Already);
        }
        let before = self.properties(instance).await?;
        let was_running = matches!(value(&before, "ActiveState"), "active" | "deactivating" | "reloading");
        if !was_running {
            self.end(instance).await?;
            return Ok(Ended::Already);
        }
        // The unit's own grace is the one it was started with: this one is the caller's, and may be another.
        set_grace(&self.file(instance), grace).await?;
        systemctl(&["disable", "--quiet"], Some(instance), BOUND).await?;
        systemctl(&["stop", "--no-block"], Some(instance), BOUND).await?;
        let ended = async {
            loop {
                let now = self.properties(instance).await?;
                if !matches!(value(&now, "ActiveState"), "active" | "deactivating" | "activating") {
                    return Ok::<_, String>(now);
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let bound = grace + MARGIN;
        let after = tokio::time::timeout(bound, ended).await;
        let after = after.map_err(|_| "it has not ended, not even by KILL".to_owned())??;
        self.end(instance).await?;
        Ok(if value(&after, "Result") == "timeout" { Ended::Killed } else { Ended::Gracefully })
    }
}

/// Where the program is: a unit names a whole path, or one of the few directories that systemd looks in.
fn locate(spec: &InstanceSpec) -> Result<PathBuf, RunnerError> {
    let Some(name) = spec.argv.first() else {
        return Err(RunnerError::Missing { program: String::new() });
    };
    let path = spec.env.get("PATH").map_or(USUAL_PATH, String::as_str);
    Program::new(name).dir(&spec.dir).env("PATH", path).locate().map_err(|error| match error {
        ExecError::Missing { program } => RunnerError::Missing { program },
        other => RunnerError::Failed { what: "start", instance: spec.id.clone(), why: other.to_string() },
    })
}

/// systemd would start it again and again, and say so only in its journal.
fn check_user(spec: &InstanceSpec) -> Result<(), RunnerError> {
    match &spec.user {
        Some(user) if !matches!(nix::unistd::User::from_name(user), Ok(Some(_))) => {
            Err(RunnerError::NoUser { user: user.clone() })
        }
        _ => Ok(()),
    }
}

fn value<'a>(properties: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    properties.get(key).map_or("", String::as_str)
}

/// `Tue 2023-11-14 22:13:20 UTC`; empty where it never was. `--timestamp=unix` came with 251.
fn timestamp(text: &str) -> Option<jiff::Timestamp> {
    let (_, time) = text.strip_suffix(" UTC")?.split_once(' ')?;
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", time).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// What the properties of a unit mean.
fn process(properties: &BTreeMap<String, String>) -> Process {
    let value = |key| value(properties, key);
    let restarts = value("NRestarts").parse().unwrap_or(0);
    let changed = timestamp(value("StateChangeTimestamp"));
    // ExecMainCode is CLD_EXITED (1), CLD_KILLED (2) or CLD_DUMPED (3) of waitid(2).
    let last = match value("ExecMainCode") {
        "1" => format!("status {}", value("ExecMainStatus")),
        "2" | "3" => format!("signal {}", value("ExecMainStatus")),
        _ => value("Result").to_owned(),
    };
    match (value("ActiveState"), value("MainPID").parse().unwrap_or(0)) {
        ("active" | "reloading" | "deactivating" | "activating", pid) if pid != 0 => {
            let since = timestamp(value("ExecMainStartTimestamp")).or(changed).unwrap_or_default();
            Process::Running { pid, since, restarts }
        }
        ("activating", _) => Process::Waiting { since: changed.unwrap_or_default(), restarts, last },
        _ => Process::Stopped { since: timestamp(value("ExecMainExitTimestamp")).or(changed), last },
    }
}

/// Its standard output; an error in its own words.
async fn systemctl(args: &[&str], instance: Option<&InstanceId>, bound: Duration) -> Result<Output, String> {
    // Times are printed in the zone of whoever asks.
    let mut program = Program::new("systemctl").args(args).env("TZ", "UTC").env("LC_ALL", "C");
    if let Some(instance) = instance {
        program = program.arg(unit::name(instance));
    }
    match program.run(b"", bound).await {
        Ok(output) if output.status == 0 => Ok(output),
        Ok(output) => Err(format!("`{program}` says: {}", output.stderr.trim())),
        Err(error) => Err(error.to_string()),
    }
}

/// For the stop that comes: `systemctl set-property` cannot change it, so it is written into the unit.
async fn set_grace(file: &Path, grace: Duration) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let new = unit::with_grace(&text, grace);
    if new == text {
        return Ok(());
    }
    LocalFiles.write(file, &new).map_err(|error| error.to_string())?;
    systemctl(&["daemon-reload"], None, BOUND).await.map(drop)
}

#[async_trait]
impl Runner for Systemd {
    fn comes_back_at_boot(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "systemd"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        self.begin(spec).await
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<Ended, RunnerError> {
        self.stop_unit(instance, grace).await.map_err(failed("stop", instance))
    }

    async fn state(&self, instance: &InstanceId) -> Result<Process, RunnerError> {
        let properties = self.properties(instance).await.map_err(failed("read the state of", instance))?;
        if value(&properties, "LoadState") == "not-found" {
            return Err(RunnerError::Unknown { instance: instance.clone() });
        }
        Ok(process(&properties))
    }

    async fn known(&self) -> Result<Vec<InstanceId>, RunnerError> {
        let cannot =
            |error: std::io::Error| RunnerError::NotRead { path: self.units.clone(), why: error.to_string() };
        let mut known = Vec::new();
        for entry in std::fs::read_dir(&self.units).map_err(cannot)? {
            known.extend(entry.map_err(cannot)?.file_name().to_str().and_then(unit::instance));
        }
        known.sort();
        Ok(known)
    }

    async fn logs(
        &self,
        instance: &InstanceId,
        tail: Option<u32>,
        follow: bool,
        heard: Heard,
    ) -> Result<(), RunnerError> {
        let because = failed("read the log of", instance);
        let tail = tail.map_or_else(|| "all".to_owned(), |tail| tail.to_string());
        // `_SYSTEMD_UNIT` alone: what the program said, without what systemd says of it.
        let ours = format!("_SYSTEMD_UNIT={}", unit::name(instance));
        let mut journal =
            Program::new("journalctl").args([&ours, "-o", "short-iso", "-q", "--no-pager", "-n", &tail]);
        if follow {
            journal = journal.arg("-f");
        }
        let mut child = journal.dialogue().map_err(|error| because(error.to_string()))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (end, ended) = watch::channel(false);
        let complaints: Heard = std::sync::Arc::new(|line: &str| log::warn!("journalctl: {line}"));
        let gone = async {
            tokio::select! {
                _ = child.wait() => {}
                // A journal that is followed has no end: it is the instance that has one.
                () = self.gone(instance, follow) => {
                    tokio::time::sleep(AFTERWORDS).await;
                    let _ = child.start_kill();
                    let _ = child.wait().await;
                }
            }
            end.send_replace(true);
        };
        tokio::join!(gone, read_lines(out, &heard, ended.clone()), read_lines(err, &complaints, ended));
        Ok(())
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), RunnerError> {
        if self.file(instance).exists() {
            return Err(failed("forget", instance)("it is not stopped".to_owned()));
        }
        // The journal is the machine's, and turns its own oldest entries out.
        Ok(())
    }
}

impl Systemd {
    async fn gone(&self, instance: &InstanceId, follow: bool) {
        while !follow || self.file(instance).exists() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn failed(what: &'static str, instance: &InstanceId) -> impl Fn(String) -> RunnerError {
    move |why| RunnerError::Failed { what, instance: instance.clone(), why }
}

#[cfg(test)]
mod tests;
