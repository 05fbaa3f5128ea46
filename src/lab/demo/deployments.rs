//! The third act: deployments side by side, with the commands and tables of the systems that switchman follows
//! (docs/design/seed-systems.md). The service of the first two acts becomes a managed one under load; its versions come, change places and go.

use super::release::{FIRST_VERSION, write_release};
use super::scenario::{Scenario, ScenarioReport};
use crate::lab::Lab;
use crate::lab::error::LabError;
use crate::lab::options::SERVICE;

const SECOND_VERSION: &str = "5.0.0";
/// How long a new main is watched here.
const WATCH_WINDOW: &str = "2s";

pub(super) async fn run_scenario(lab: &Lab, mut scenario: Scenario<'_>) -> Result<ScenarioReport, LabError> {
    let load = scenario.load;
    let hosts = lab.host_names();
    for version in [FIRST_VERSION, SECOND_VERSION] {
        let source = write_release(lab, version)?.display().to_string();
        load.set_phase(&format!("deploy {version}"));
        scenario.run(&["deploy", SERVICE, version, &source, "--", "sh", "serve.sh"]).await?;
        scenario.wait_for_main(&hosts, FIRST_VERSION, &format!("deploy {version}")).await?;
    }
    scenario.run(&["ls"]).await?;
    load.set_phase("assign");
    scenario.run(&["assign", SERVICE, SECOND_VERSION, "--yes", "--watch", WATCH_WINDOW]).await?;
    // A client that was served before the command ended may have got the old version; no client gets it after that.
    load.set_phase("after assign");
    scenario.wait_for_main(&hosts, SECOND_VERSION, "after assign").await?;
    scenario.check_only_version(SECOND_VERSION, "after assign");
    load.set_phase("rollback");
    scenario.run(&["rollback", SERVICE]).await?;
    load.set_phase("after rollback");
    scenario.wait_for_main(&hosts, FIRST_VERSION, "after rollback").await?;
    load.set_phase("kill");
    scenario.run(&["kill", SERVICE, SECOND_VERSION, "--yes"]).await?;
    scenario.run(&["ls"]).await?;
    Ok(ScenarioReport { commands: scenario.commands, faults: scenario.faults })
}
