//! Programs of deployments that run as root.

use super::facts::{CheckFacts, RootProgram};
use super::finding::{build_note, build_warning};
use crate::model::account::build_account_name;
use crate::model::deployment::{Deployment, Workload};
use crate::model::finding::Finding;

/// Lists the deployments whose programs run as root. `agent_is_root`: programs that name no user run as root, where they were
/// deployed before programs had accounts.
pub fn find_root_programs(deployments: &[Deployment], agent_is_root: bool) -> Vec<RootProgram> {
    let is_root = |one: &&Deployment| {
        let how = &one.instance.how;
        let user = how.find_user(&one.service);
        matches!(how.workload, Workload::Command { .. }) && user.map_or(agent_is_root, |user| user == "root")
    };
    let describe = |one: &Deployment| RootProgram {
        service: one.service.clone(),
        version: one.version.clone(),
        is_requested: one.instance.how.user.is_some(),
    };
    deployments.iter().filter(is_root).map(describe).collect()
}

pub(super) fn collect_findings(facts: &CheckFacts) -> Vec<Finding> {
    facts.root_programs.iter().map(build_finding).collect()
}

fn build_finding(program: &RootProgram) -> Finding {
    let RootProgram { service, version, is_requested } = program;
    let account = build_account_name(service);
    let fix = format!(
        "`switchman update {service} {version} SOURCE --user {account}` runs it as an account of its own"
    );
    let subject = format!("{service} {version}");
    if *is_requested {
        return build_note("program-is-root", &subject, "its program runs as root, by `--user root`", fix);
    }
    build_warning(
        "program-is-root",
        &subject,
        "its program runs as root: it was deployed before each service had an account of its own",
        format!("{fix}; so does every version that is deployed from now on"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::Sandbox;
    use crate::model::example;

    #[test]
    fn programs_of_root_are_found_in_old_and_new_records() {
        let old = example::deployment("shop", "1.0.0", 20000);
        let mut requested = example::deployment("shop", "1.1.0", 20001);
        requested.instance.how.user = Some("root".to_owned());
        requested.instance.how.sandbox = Some(Sandbox::default());
        let mut new = example::deployment("shop", "1.2.0", 20002);
        new.instance.how.sandbox = Some(Sandbox::default());
        let mut named = example::deployment("shop", "1.3.0", 20003);
        named.instance.how.user = Some("www-data".to_owned());
        let mut external = example::deployment("shop", "1.4.0", 20004);
        external.instance.how.workload = Workload::External { uri: "http://127.0.0.1:9000".to_owned() };
        let all = [old, requested, new, named, external];
        let find = |agent_is_root| -> Vec<String> {
            find_root_programs(&all, agent_is_root).iter().map(|one| one.version.to_string()).collect()
        };
        assert_eq!(find(true), ["1.0.0", "1.1.0"]);
        assert_eq!(find(false), ["1.1.0"]);
        let findings: Vec<Finding> = find_root_programs(&all, true).iter().map(build_finding).collect();
        assert!(findings[0].fix.starts_with("`switchman update shop 1.0.0 SOURCE --user switchman-shop`"));
        assert!(findings[1].reason.ends_with("by `--user root`"));
    }
}
