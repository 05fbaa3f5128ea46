//! The third act: deployments side by side, with the commands and tables of the systems that switchman follows
//! (docs/design/seed-systems.md). The service of the first two acts becomes a managed one under load; its versions come, change places and go.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::ProgressSink;
use crate::lab::load::{Load, Snapshot};
use crate::lab::operator::{Operator, Pipe};
use crate::lab::{Lab, LabError, make_dir, write};
use crate::model::duration;

const SERVICE: &str = crate::lab::SERVICE;
/// Newer than what the vhosts of the acts before serve.
pub const FIRST_VERSION: &str = "4.0.0";
pub const SECOND_VERSION: &str = "5.0.0";
/// How long a new main is watched here.
const WATCH_WINDOW: &str = "2s";

/// A command of the demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandReport {
    pub command: String,
    pub status: i32,
    #[serde(rename = "took_ms", serialize_with = "duration::serialize_ms")]
    pub took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScenarioReport {
    pub told: Vec<CommandReport>,
    /// The deviations from what should happen.
    pub faults: Vec<String>,
}

/// Sets up an operator whose balancers close their idle connections on request.
pub async fn set_up_operator(lab: &Lab, pipe: Pipe, more: &str) -> Result<Operator, LabError> {
    let operator = Operator::start(lab, pipe, more).await?;
    let file = operator.dir().join("switchman.yaml");
    let mut yaml = crate::lab::operator::read_file(&file)?;
    for (at, address) in lab.admin_addresses().iter().enumerate() {
        let socket = lab.admin_socket_path(&format!("lb{}", at + 1)).display().to_string();
        yaml = yaml
            .replace(&format!("haproxy: \"{address}\""), &format!("haproxy: \"{socket}\", on_host: false"));
    }
    write(&file, &yaml)?;
    Ok(operator)
}

/// Writes a release whose program reports its version.
pub fn release(lab: &Lab, version: &str) -> Result<PathBuf, LabError> {
    write_faulty_release(lab, version, "")
}

/// Writes such a release with more flags for the program, such as `--fault deaf`.
pub fn write_faulty_release(lab: &Lab, version: &str, flags: &str) -> Result<PathBuf, LabError> {
    let dir = lab.dir().join("releases").join(version);
    make_dir(&dir)?;
    let script = format!(
        "#!/bin/sh\n# The code of {version}.\n# Which host of the lab this is, by the place of its releases.\nhost=${{SWITCHMAN_RELEASE%%/releases/*}}\n\
         exec {} lab app --listen 0.0.0.0:$PORT --host ${{host##*/}} --vhost main --version $SWITCHMAN_VERSION {flags}\n",
        lab.options.switchman.display()
    );
    write(&dir.join("serve.sh"), &script)?;
    Ok(dir)
}

pub(super) async fn run_scenario(
    lab: &Lab,
    operator: &Operator,
    load: &Load,
    audience: &dyn ProgressSink,
) -> Result<ScenarioReport, LabError> {
    let mut story = Scenario { operator, load, progress_sink: audience, told: vec![], faults: vec![] };
    let hosts: Vec<String> = lab.hosts.iter().map(|host| host.host.name.to_string()).collect();
    for version in [FIRST_VERSION, SECOND_VERSION] {
        let source = release(lab, version)?.display().to_string();
        load.phase(&format!("deploy {version}"));
        story.run(&["deploy", SERVICE, version, &source, "--", "sh", "serve.sh"]).await?;
        story.wait_for_main(&hosts, FIRST_VERSION, &format!("deploy {version}")).await?;
    }
    story.run(&["ls"]).await?;
    load.phase("assign");
    story.run(&["assign", SERVICE, SECOND_VERSION, "--yes", "--watch", WATCH_WINDOW]).await?;
    // A client that was served before the command ended may have got the old version; no client gets it after that.
    load.phase("after assign");
    story.wait_for_main(&hosts, SECOND_VERSION, "after assign").await?;
    story.check_only_version(SECOND_VERSION, "after assign");
    load.phase("rollback");
    story.run(&["rollback", SERVICE]).await?;
    load.phase("after rollback");
    story.wait_for_main(&hosts, FIRST_VERSION, "after rollback").await?;
    load.phase("kill");
    story.run(&["kill", SERVICE, SECOND_VERSION, "--yes"]).await?;
    story.run(&["ls"]).await?;
    Ok(ScenarioReport { told: story.told, faults: story.faults })
}

pub(super) struct Scenario<'a> {
    pub operator: &'a Operator,
    pub load: &'a Load,
    pub progress_sink: &'a dyn ProgressSink,
    pub told: Vec<CommandReport>,
    pub faults: Vec<String>,
}

impl Scenario<'_> {
    /// Runs one of the operator's commands, and shows what it prints.
    pub(super) async fn run(&mut self, args: &[&str]) -> Result<(), LabError> {
        self.run_expecting(args, 0, "").await
    }

    /// Runs a command that should end with this status and print these words: a failure for another reason is a fault.
    pub(super) async fn run_expecting(
        &mut self,
        args: &[&str],
        status: i32,
        words: &str,
    ) -> Result<(), LabError> {
        let shown: Vec<&str> = args.iter().map(|arg| arg.rsplit('/').next().unwrap_or(arg)).collect();
        let command = format!("switchman {}", shown.join(" "));
        self.progress_sink.step(&format!("operator: {command}"));
        let began = std::time::Instant::now();
        let output = self.operator.run_switchman(args).await?;
        for line in output.stdout.lines() {
            self.progress_sink.step(&format!("    {line}"));
        }
        self.progress_sink.count(&self.load.take_snapshot());
        if output.status != status || !output.stderr.contains(words) {
            let mut fault = format!("`{command}` ended with status {}", output.status);
            if output.status == status {
                let _ = write!(fault, " and did not print `{words}`");
            }
            for line in output.stderr.lines() {
                let _ = write!(fault, "\n    {line}");
            }
            self.faults.push(fault);
        }
        self.told.push(CommandReport { command, status: output.status, took: began.elapsed() });
        Ok(())
    }

    /// Waits until every host answers with a version.
    pub(super) async fn wait_for_main(
        &mut self,
        hosts: &[String],
        version: &str,
        phase: &str,
    ) -> Result<(), LabError> {
        let everywhere = |now: &Snapshot| {
            hosts.iter().all(|host| now.count_answers(phase, host, "main", Some(version)) > 0)
        };
        let what = format!("an answer of {version} on every host");
        match crate::lab::demo::wait_for_answers(self.load, self.progress_sink, &what, everywhere).await {
            Ok(()) => Ok(()),
            Err(LabError::Late { what, .. }) => {
                self.faults.push(format!("{what} was not seen in `{phase}`"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that, of the requests that began in a phase, none was answered by another version.
    fn check_only_version(&mut self, version: &str, phase: &str) {
        let other = self.load.take_snapshot().count_answers_by_others(phase, version);
        if other > 0 {
            self.faults.push(format!(
                "{other} requests that began in `{phase}` were answered by another version than {version}"
            ));
        }
    }
}
