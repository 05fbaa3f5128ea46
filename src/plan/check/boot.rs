//! What does not come back after a reboot, and an agent that does not run.

use super::facts::CheckFacts;
use super::finding::{build_problem, build_warning};
use crate::model::boot::StartedBy;
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::ports::Port;

pub(super) fn collect_findings(fleet: &Fleet, facts: &CheckFacts) -> Vec<Finding> {
    let mut all: Vec<Finding> = check_agent(facts).into_iter().collect();
    let ports = [("main", fleet.ports.main), ("backup", fleet.ports.backup)];
    for ((vhost, port), starters) in ports.into_iter().zip(&facts.vhost_starters) {
        all.extend(starters.iter().filter_map(|starter| check_starter(vhost, port, starter)));
    }
    all
}

fn check_agent(facts: &CheckFacts) -> Option<Finding> {
    (facts.is_agent_running == Some(false)).then(|| {
        build_problem(
            "agent-not-running",
            "agent",
            "the package is installed and its agent does not run: no rule is repaired that another program removes, and no version is watched",
            "`systemctl enable --now switchman`; `journalctl -u switchman` shows why it ended",
        )
    })
}

fn check_starter(vhost: &str, port: Port, starter: &StartedBy) -> Option<Finding> {
    let subject = format!("{vhost} vhost");
    match starter {
        StartedBy::Unit { is_enabled: true, .. } => None,
        StartedBy::Unit { name, .. } => Some(build_warning(
            "vhost-not-enabled",
            &subject,
            format!(
                "the unit `{name}`, which has port {port}, is not enabled: nothing starts it at the next boot"
            ),
            format!("`systemctl enable {name}`"),
        )),
        StartedBy::Scope(scope) => Some(build_warning(
            "vhost-without-unit",
            &subject,
            format!(
                "the process on port {port} was started by hand (`{scope}`): nothing starts it at the next boot"
            ),
            "run it by a unit of systemd: examples/systemd has one for each vhost",
        )),
    }
}
