//! The third act: versions side by side, told with the commands and tables of the systems that switchman follows. The
//! service that two acts have shown becomes a managed one under load; its versions come, change places and go.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Audience;
use crate::lab::load::{Load, Snapshot};
use crate::lab::operator::{Operator, Pipe};
use crate::lab::{Lab, LabError, make_dir, write};
use crate::model::duration;

const SERVICE: &str = crate::lab::SERVICE;
/// Newer than what the vhosts of the acts before serve.
pub const FIRST: &str = "4.0.0";
pub const SECOND: &str = "5.0.0";
/// How long a new main is watched here.
const WATCH: &str = "2s";

/// One command of the story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    pub command: String,
    pub status: i32,
    #[serde(rename = "took_ms", serialize_with = "duration::as_ms")]
    pub took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionStory {
    pub told: Vec<Told>,
    /// What was not as it should be.
    pub faults: Vec<String>,
}

/// An operator whose balancers can be asked to close their idle connections.
pub async fn operator(lab: &Lab, pipe: Pipe, more: &str) -> Result<Operator, LabError> {
    let operator = Operator::up(lab, pipe, more).await?;
    let file = operator.dir().join("switchman.yaml");
    let mut yaml = crate::lab::operator::read(&file)?;
    for (at, address) in lab.readers().iter().enumerate() {
        let socket = lab.admin_socket(&format!("lb{}", at + 1)).display().to_string();
        yaml = yaml
            .replace(&format!("haproxy: \"{address}\""), &format!("haproxy: \"{socket}\", on_host: false"));
    }
    write(&file, &yaml)?;
    Ok(operator)
}

/// A release whose program says which version it is.
pub fn release(lab: &Lab, version: &str) -> Result<PathBuf, LabError> {
    faulty(lab, version, "")
}

/// The same with more flags for the program, such as `--fault deaf`.
pub fn faulty(lab: &Lab, version: &str, flags: &str) -> Result<PathBuf, LabError> {
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

pub(super) async fn story(
    lab: &Lab,
    operator: &Operator,
    load: &Load,
    audience: &dyn Audience,
) -> Result<VersionStory, LabError> {
    let mut story = Story { operator, load, audience, told: vec![], faults: vec![] };
    let hosts: Vec<String> = lab.hosts.iter().map(|host| host.host.name.to_string()).collect();
    for version in [FIRST, SECOND] {
        let source = release(lab, version)?.display().to_string();
        load.phase(&format!("deploy {version}"));
        story.run(&["deploy", SERVICE, version, &source, "--", "sh", "serve.sh"]).await?;
        story.main_is(&hosts, FIRST, &format!("deploy {version}")).await?;
    }
    story.run(&["ls"]).await?;
    load.phase("assign");
    story.run(&["assign", SERVICE, SECOND, "--yes", "--watch", WATCH]).await?;
    // Whoever was served before the command ended may have been served by the old version; nobody after it.
    load.phase("after assign");
    story.main_is(&hosts, SECOND, "after assign").await?;
    story.only(SECOND, "after assign");
    load.phase("rollback");
    story.run(&["rollback", SERVICE]).await?;
    load.phase("after rollback");
    story.main_is(&hosts, FIRST, "after rollback").await?;
    load.phase("kill");
    story.run(&["kill", SERVICE, SECOND, "--yes"]).await?;
    story.run(&["ls"]).await?;
    Ok(VersionStory { told: story.told, faults: story.faults })
}

pub(super) struct Story<'a> {
    pub operator: &'a Operator,
    pub load: &'a Load,
    pub audience: &'a dyn Audience,
    pub told: Vec<Told>,
    pub faults: Vec<String>,
}

impl Story<'_> {
    /// Runs one of the operator's commands, and shows what it prints.
    pub(super) async fn run(&mut self, args: &[&str]) -> Result<(), LabError> {
        self.run_to(args, 0, "").await
    }

    /// The same that should end with this status, and say these words: what fails for another reason is a fault.
    pub(super) async fn run_to(&mut self, args: &[&str], status: i32, words: &str) -> Result<(), LabError> {
        let shown: Vec<&str> = args.iter().map(|arg| arg.rsplit('/').next().unwrap_or(arg)).collect();
        let command = format!("switchman {}", shown.join(" "));
        self.audience.step(&format!("operator: {command}"));
        let began = std::time::Instant::now();
        let output = self.operator.switchman(args).await?;
        for line in output.stdout.lines() {
            self.audience.step(&format!("    {line}"));
        }
        self.audience.count(&self.load.snapshot());
        if output.status != status || !output.stderr.contains(words) {
            let mut fault = format!("`{command}` ended with status {}", output.status);
            if output.status == status {
                let _ = write!(fault, " and did not say `{words}`");
            }
            for line in output.stderr.lines() {
                let _ = write!(fault, "\n    {line}");
            }
            self.faults.push(fault);
        }
        self.told.push(Told { command, status: output.status, took: began.elapsed() });
        Ok(())
    }

    /// Waits until every host answers with a version.
    pub(super) async fn main_is(
        &mut self,
        hosts: &[String],
        version: &str,
        phase: &str,
    ) -> Result<(), LabError> {
        let everywhere =
            |now: &Snapshot| hosts.iter().all(|host| now.answered(phase, host, "main", Some(version)) > 0);
        let what = format!("an answer of {version} on every host");
        match crate::lab::demo::seen(self.load, self.audience, &what, everywhere).await {
            Ok(()) => Ok(()),
            Err(LabError::Late { what, .. }) => {
                self.faults.push(format!("{what} was not seen in `{phase}`"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Of requests that began in a phase, none was answered by another version.
    fn only(&mut self, version: &str, phase: &str) {
        let other = self.load.snapshot().answered_by_others(phase, version);
        if other > 0 {
            self.faults.push(format!(
                "{other} requests that began in `{phase}` were answered by another version than {version}"
            ));
        }
    }
}
