//! The third act: deployments side by side, with the commands and tables of the systems that switchman follows
//! (docs/design/seed-systems.md). The service of the first two acts becomes a managed one under load; its versions come, change places and go.

use super::release::{FIRST_VERSION, release};
use super::scenario::{ProgressSink, Scenario, ScenarioReport};
use crate::lab::Lab;
use crate::lab::error::LabError;
use crate::lab::load::Load;
use crate::lab::operator::Operator;
use crate::lab::options::SERVICE;

const SECOND_VERSION: &str = "5.0.0";
/// How long a new main is watched here.
const WATCH_WINDOW: &str = "2s";

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
