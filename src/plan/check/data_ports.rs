//! Rules of others that take the data port of a managed service before its route does. Where nothing is managed the vhosts
//! listen on the data ports themselves, and what leads elsewhere is the administrator's business.

use std::collections::BTreeSet;

use super::{Facts, finding, names, problem, takes};
use crate::model::finding::{Finding, Severity};
use crate::model::fleet::Fleet;
use crate::model::ports::Port;
use crate::model::rules::{CHAIN, Family, JUMP_COMMENT, Rule, Table};

/// The routes on this host: whose they are, and the data port.
fn routed(facts: &Facts) -> Vec<(&str, &'static str, Port)> {
    let managed =
        facts.recorded.iter().flatten().filter_map(|record| Some((record, record.routes.as_ref()?)));
    managed
        .flat_map(|(record, routes)| {
            let service = record.forward.service.as_str();
            [(service, "main", routes.main.port), (service, "backup", routes.backup.port)]
        })
        .collect()
}

pub(super) fn findings(fleet: &Fleet, facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    for (service, vhost, port) in routed(facts) {
        for (family, tables) in facts.tables.iter().flatten() {
            for table in [&tables.nf_tables, &tables.legacy].into_iter().flatten() {
                // What takes the check port too is told there.
                let rules = before_ours(table, port).filter(|rule| !names_check(fleet, rule));
                all.extend(rules.map(|rule| stranger(*family, service, vhost, port, rule)));
            }
        }
        for statement in facts.native.iter().flatten() {
            if takes(statement, port) && !takes(statement, fleet.ports.check) {
                all.push(native(service, vhost, port, statement));
            }
        }
    }
    all
}

fn names_check(fleet: &Fleet, rule: &Rule) -> bool {
    names(rule, "--dport", fleet.ports.check) || names(rule, "--dports", fleet.ports.check)
}

fn stranger(family: Family, service: &str, vhost: &str, port: Port, rule: &Rule) -> Finding {
    problem(
        "stranger-on-data-port",
        &format!("{} nat", family.command()),
        format!(
            "a rule that is not switchman's takes the data port {port} before the route of `{service}` ({vhost}): `{rule}`"
        ),
        format!("remove it: `{} -t nat {}`", family.command(), rule.to_string().replacen("-A", "-D", 1)),
    )
}

fn native(service: &str, vhost: &str, port: Port, statement: &str) -> Finding {
    finding(
        Severity::Warning,
        "native-on-data-port",
        "nftables",
        format!(
            "a native nftables rule takes the data port {port}, which has a route of `{service}` ({vhost}): `{statement}`; \
             where its chain has a priority below -100 it comes first"
        ),
        "remove it: `nft -a list ruleset` shows its handle",
    )
}

/// Rules that decide about new connections to a port ahead of our jump. Without the jump all do.
fn before_ours(table: &Table, port: Port) -> impl Iterator<Item = &Rule> {
    let on_port = move |rule: &&Rule| {
        !rule.is_ours() && (names(rule, "--dport", port) || names(rule, "--dports", port))
    };
    table.rules.iter().filter(on_port).filter(|rule| {
        ["PREROUTING", "OUTPUT"].into_iter().any(|hook| {
            let is_jump = |rule: &&Rule| rule.value("--comment") == Some(JUMP_COMMENT);
            let ours = table.in_chain(hook).position(|rule| is_jump(&rule));
            // Where checks from this host do not matter there is no jump from OUTPUT.
            let ours = if hook == "OUTPUT" { ours.unwrap_or(0) } else { ours.unwrap_or(usize::MAX) };
            decides(rule, hook) && reached(table, hook, rule).is_some_and(|at| at < ours)
        })
    })
}

/// A target after which our jump is not reached any more.
fn decides(rule: &Rule, hook: &str) -> bool {
    match rule.value("-j") {
        Some("ACCEPT" | "DNAT" | "REDIRECT" | "NETMAP") => true,
        Some("RETURN") => rule.chain == hook,
        _ => false,
    }
}

/// Where in the hook's chain a rule comes to its turn: its own place, or that of the first jump that leads to its chain.
fn reached(table: &Table, hook: &str, rule: &Rule) -> Option<usize> {
    if rule.chain == hook {
        return table.in_chain(hook).position(|other| other == rule);
    }
    table.in_chain(hook).position(|jump| leads(table, jump, &rule.chain, &mut BTreeSet::new()))
}

fn leads<'a>(table: &'a Table, jump: &'a Rule, chain: &str, seen: &mut BTreeSet<&'a str>) -> bool {
    let Some(target) = jump.value("-j").or_else(|| jump.value("-g")).filter(|target| *target != CHAIN) else {
        return false;
    };
    target == chain
        || seen.insert(target) && table.in_chain(target).any(|next| leads(table, next, chain, seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deployment::DeploymentId;
    use crate::model::example::port;
    use crate::model::forward::{Leg, Routes, Switch};
    use crate::model::rules::Tables;
    use crate::plan::check::tests::{good, recorded, with};
    use crate::plan::firewall;

    fn leg(number: u16) -> Leg {
        Leg { port: port(number), deployment: deployment(), target: port(20001) }
    }

    fn deployment() -> DeploymentId {
        serde_json::from_str("\"dp_0123456789abcdef\"").unwrap()
    }

    /// A host with a managed service, and one more line of `iptables -S` ahead of our jump or behind it.
    fn managed(facts: &mut Facts, ahead: &[&str], behind: &[&str]) {
        let mut record = recorded(Switch::On);
        record.routes = Some(Routes { main: leg(8080), backup: leg(80), previous: None });
        record.forward.target = port(20001);
        let tables =
            Tables { nf_tables: Some(Table::empty_nat()), ..facts.tables.clone().unwrap()[0].1.clone() };
        let mut table = tables.nf_tables.clone().unwrap();
        for step in firewall::plan(
            &firewall::desired([&record].map(Clone::clone).as_slice(), []),
            &tables,
            Family::V4,
        ) {
            table.restore(&step).unwrap();
        }
        let read = |lines: &[&str]| lines.iter().map(|line| Rule::parse(line).unwrap()).collect::<Vec<_>>();
        table.rules = [read(ahead), table.rules, read(behind)].concat();
        facts.recorded = Ok(vec![record]);
        facts.tables = Ok(vec![(Family::V4, Tables { nf_tables: Some(table), ..tables })]);
    }

    fn ids(ahead: &[&str], behind: &[&str]) -> Vec<&'static str> {
        with(|facts| managed(facts, ahead, behind)).into_iter().map(|(id, _)| id).collect()
    }

    const TAKES: &str = "-A PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9000";

    #[test]
    fn only_what_comes_before_a_route_takes_its_port() {
        assert_eq!(ids(&[], &[]), Vec::<&str>::new(), "routes in our chain are ours");
        assert_eq!(ids(&[TAKES], &[]), ["stranger-on-data-port"]);
        assert_eq!(ids(&[], &[TAKES]), Vec::<&str>::new());
        assert_eq!(
            ids(&["-A PREROUTING -p tcp -m tcp --dport 80 -j ACCEPT"], &[]),
            ["stranger-on-data-port"]
        );
        assert_eq!(ids(&["-A PREROUTING -p tcp -m tcp --dport 80 -j LOG"], &[]), Vec::<&str>::new());
        let range = "-A PREROUTING -p tcp -m multiport --dports 8000:9000 -j DNAT --to-destination 10.0.0.9";
        assert_eq!(ids(&[range], &[]), ["stranger-on-check-port"], "told once");
    }

    #[test]
    fn a_chain_comes_to_its_turn_where_it_is_jumped_to() {
        let jump = "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER";
        let nested = [
            "-A DOCKER -j DOCKER-WEB",
            "-A DOCKER-WEB -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
        ];
        assert_eq!(ids(&[jump], &nested), ["stranger-on-data-port"]);
        assert_eq!(ids(&[], &[jump, nested[0], nested[1]]), Vec::<&str>::new());
        assert_eq!(ids(&[], &nested), Vec::<&str>::new(), "never reached");
        let circle = ["-A A -j B", "-A B -j A", "-A PREROUTING -j A"];
        assert_eq!(ids(&circle, &nested), Vec::<&str>::new());
        let output = "-A OUTPUT -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9000";
        assert_eq!(ids(&[output], &[]), Vec::<&str>::new(), "no checks come from this host");
    }

    #[test]
    fn native_rules_and_services_that_are_not_managed() {
        let native = |managed_too: bool| {
            with(|facts| {
                if managed_too {
                    managed(facts, &[], &[]);
                }
                facts.native = Ok(vec!["inet fw: tcp dport 8080 redirect to :9000".to_owned()]);
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
            .insert(0, Rule::parse(TAKES).unwrap());
        assert_eq!(super::findings(&crate::model::example::fleet(), &facts), []);
    }
}
