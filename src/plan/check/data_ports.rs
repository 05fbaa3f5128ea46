//! Rules of others that take the data port of a managed service before its route does. Where nothing is managed the vhosts
//! listen on the data ports themselves, and what leads elsewhere is the administrator's business.

use std::collections::BTreeSet;

use super::facts::CheckFacts;
use super::finding::{build_problem, build_warning};
use super::port_match::rule_names_port;
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::native_rule::{NativeEffect, NativeRule};
use crate::model::ports::Port;
use crate::model::rules::{CHAIN, Family, JUMP_COMMENT, Rule, Table};

/// The routes on this host: whose they are, and the data port.
fn list_routed_ports(facts: &CheckFacts) -> Vec<(&str, &'static str, Port)> {
    let managed = facts.records.iter().flatten().filter_map(|record| Some((record, record.routes.as_ref()?)));
    managed
        .flat_map(|(record, routes)| {
            let service = record.forward.service.as_str();
            [(service, "main", routes.main.port), (service, "backup", routes.backup.port)]
        })
        .collect()
}

pub(super) fn collect_findings(fleet: &Fleet, facts: &CheckFacts) -> Vec<Finding> {
    let mut all = Vec::new();
    for (service, vhost, port) in list_routed_ports(facts) {
        for (family, tables) in facts.tables.iter().flatten() {
            for table in [&tables.nf_tables, &tables.legacy].into_iter().flatten() {
                // A rule that takes the check port too is reported there.
                let rules = rules_before_jump(table, port).filter(|rule| !names_check_port(fleet, rule));
                all.extend(rules.map(|rule| build_foreign_rule_finding(*family, service, vhost, port, rule)));
            }
        }
        for rule in facts.native_rules.iter().flatten() {
            // A rule for every port is reported at the check port.
            if rule.effect == NativeEffect::Translate
                && rule.names_port(port)
                && !rule.matches_port(fleet.ports.check)
            {
                all.push(build_native_rule_finding(service, vhost, port, rule));
            }
        }
    }
    all
}

fn names_check_port(fleet: &Fleet, rule: &Rule) -> bool {
    rule_names_port(rule, "--dport", fleet.ports.check)
        || rule_names_port(rule, "--dports", fleet.ports.check)
}

fn build_foreign_rule_finding(
    family: Family,
    service: &str,
    vhost: &str,
    port: Port,
    rule: &Rule,
) -> Finding {
    build_problem(
        "stranger-on-data-port",
        &format!("{} nat", family.command_stem()),
        format!(
            "a rule that is not switchman's takes the data port {port} before the route of `{service}` ({vhost}): `{rule}`"
        ),
        format!("remove it: `{} -t nat {}`", family.command_stem(), rule.to_string().replacen("-A", "-D", 1)),
    )
}

fn build_native_rule_finding(service: &str, vhost: &str, port: Port, rule: &NativeRule) -> Finding {
    build_warning(
        "native-on-data-port",
        "nftables",
        format!(
            "a native nftables rule takes the data port {port}, which has a route of `{service}` ({vhost}): `{rule}`; \
             where its chain has a priority below -100 it comes first"
        ),
        format!("remove it: `{}`", rule.delete_command()),
    )
}

/// Rules that decide about new connections to a port ahead of our jump. Without the jump all do.
pub(in crate::plan) fn rules_before_jump(table: &Table, port: Port) -> impl Iterator<Item = &Rule> {
    let on_port = move |rule: &&Rule| {
        !rule.is_ours() && (rule_names_port(rule, "--dport", port) || rule_names_port(rule, "--dports", port))
    };
    table.rules.iter().filter(on_port).filter(|rule| {
        ["PREROUTING", "OUTPUT"].into_iter().any(|hook| {
            let is_jump = |rule: &&Rule| rule.option_value("--comment") == Some(JUMP_COMMENT);
            let ours = table.rules_in_chain(hook).position(|rule| is_jump(&rule));
            // Where checks from this host do not matter there is no jump from OUTPUT.
            let ours = if hook == "OUTPUT" { ours.unwrap_or(0) } else { ours.unwrap_or(usize::MAX) };
            is_terminating(rule, hook) && find_position(table, hook, rule).is_some_and(|at| at < ours)
        })
    })
}

/// A target after which our jump is not reached any more.
fn is_terminating(rule: &Rule, hook: &str) -> bool {
    match rule.option_value("-j") {
        Some("ACCEPT" | "DNAT" | "REDIRECT" | "NETMAP") => true,
        Some("RETURN") => rule.chain == hook,
        _ => false,
    }
}

/// Returns the position in the hook's chain at which a rule is evaluated: its own, or that of the first jump to its chain.
fn find_position(table: &Table, hook: &str, rule: &Rule) -> Option<usize> {
    if rule.chain == hook {
        return table.rules_in_chain(hook).position(|other| other == rule);
    }
    table.rules_in_chain(hook).position(|jump| jump_reaches(table, jump, &rule.chain, &mut BTreeSet::new()))
}

fn jump_reaches<'a>(table: &'a Table, jump: &'a Rule, chain: &str, seen: &mut BTreeSet<&'a str>) -> bool {
    let Some(target) =
        jump.option_value("-j").or_else(|| jump.option_value("-g")).filter(|target| *target != CHAIN)
    else {
        return false;
    };
    target == chain
        || seen.insert(target)
            && table.rules_in_chain(target).any(|next| jump_reaches(table, next, chain, seen))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::deployment::DeploymentId;
    use crate::model::example::{make_native_rule, port};
    use crate::model::finding::Severity;
    use crate::model::forward::{Route, Routes};
    use crate::model::port_forward::Switch;
    use crate::model::rules::Tables;
    use crate::plan::check::tests::{good, recorded, with};
    use crate::plan::firewall;

    fn make_route(number: u16) -> Route {
        Route::new(port(number), make_deployment_id(), port(20001))
    }

    fn make_deployment_id() -> DeploymentId {
        serde_json::from_str("\"dp_0123456789abcdef\"").unwrap()
    }

    /// A host with a managed service, and one more line of `iptables -S` before or after our jump.
    pub(in crate::plan::check) fn add_managed_service(
        facts: &mut CheckFacts,
        ahead: &[&str],
        behind: &[&str],
    ) {
        let mut record = recorded(Switch::On);
        record.routes = Some(Routes::new(make_route(8080), make_route(80)));
        record.forward.target = port(20001);
        let tables =
            Tables { nf_tables: Some(Table::empty_nat()), ..facts.tables.clone().unwrap()[0].1.clone() };
        let mut table = tables.nf_tables.clone().unwrap();
        for step in firewall::plan_transactions(
            &firewall::build_desired_rules([&record].map(Clone::clone).as_slice(), []),
            &tables,
            Family::V4,
        ) {
            table.apply_transaction(&step).unwrap();
        }
        let read = |lines: &[&str]| lines.iter().map(|line| Rule::parse(line).unwrap()).collect::<Vec<_>>();
        table.rules = [read(ahead), table.rules, read(behind)].concat();
        facts.records = Ok(vec![record]);
        facts.tables = Ok(vec![(Family::V4, Tables { nf_tables: Some(table), ..tables })]);
    }

    fn list_finding_ids(ahead: &[&str], behind: &[&str]) -> Vec<&'static str> {
        with(|facts| add_managed_service(facts, ahead, behind)).into_iter().map(|(id, _)| id).collect()
    }

    pub(in crate::plan::check) const REDIRECT_RULE: &str =
        "-A PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9000";

    #[test]
    fn only_rules_before_the_route_take_its_port() {
        assert_eq!(list_finding_ids(&[], &[]), Vec::<&str>::new(), "routes in our chain are ours");
        assert_eq!(list_finding_ids(&[REDIRECT_RULE], &[]), ["stranger-on-data-port"]);
        assert_eq!(list_finding_ids(&[], &[REDIRECT_RULE]), Vec::<&str>::new());
        assert_eq!(
            list_finding_ids(&["-A PREROUTING -p tcp -m tcp --dport 80 -j ACCEPT"], &[]),
            ["stranger-on-data-port"]
        );
        assert_eq!(
            list_finding_ids(&["-A PREROUTING -p tcp -m tcp --dport 80 -j LOG"], &[]),
            Vec::<&str>::new()
        );
        let range = "-A PREROUTING -p tcp -m multiport --dports 8000:9000 -j DNAT --to-destination 10.0.0.9";
        assert_eq!(list_finding_ids(&[range], &[]), ["stranger-on-check-port"], "reported once");
    }

    #[test]
    fn chain_position_is_that_of_its_jump() {
        let jump = "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER";
        let nested = [
            "-A DOCKER -j DOCKER-WEB",
            "-A DOCKER-WEB -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
        ];
        assert_eq!(list_finding_ids(&[jump], &nested), ["stranger-on-data-port"]);
        assert_eq!(list_finding_ids(&[], &[jump, nested[0], nested[1]]), Vec::<&str>::new());
        assert_eq!(list_finding_ids(&[], &nested), Vec::<&str>::new(), "never reached");
        let circle = ["-A A -j B", "-A B -j A", "-A PREROUTING -j A"];
        assert_eq!(list_finding_ids(&circle, &nested), Vec::<&str>::new());
        let output = "-A OUTPUT -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9000";
        assert_eq!(list_finding_ids(&[output], &[]), Vec::<&str>::new(), "no checks come from this host");
    }

    #[test]
    fn native_rules_are_reported_only_for_managed_services() {
        let native = |managed_too: bool| {
            with(|facts| {
                if managed_too {
                    add_managed_service(facts, &[], &[]);
                }
                facts.native_rules = Ok(vec![make_native_rule(&[(8080, 8080)])]);
            })
        };
        assert_eq!(native(true), [("native-on-data-port", Severity::Warning)]);
        assert_eq!(native(false), []);
        let mut facts = good();
        facts.tables.as_mut().unwrap()[0]
            .1
            .nf_tables
            .as_mut()
            .unwrap()
            .rules
            .insert(0, Rule::parse(REDIRECT_RULE).unwrap());
        assert_eq!(super::collect_findings(&crate::model::example::fleet(), &facts), []);
    }
}
