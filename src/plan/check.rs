//! Findings of `check` from the facts observed on a host.

use std::net::IpAddr;

use super::firewall::{choose_variant, is_hooked, read_forwards, read_redirects};
use crate::model::deployment::Access;
use crate::model::finding::{Finding, Severity};
use crate::model::fleet::Fleet;
use crate::model::forward::ServiceRecord;
use crate::model::history::Phase;
use crate::model::native_rule::{NativeEffect, NativeRule};
use crate::model::observation::ObservationError;
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::rules::{CHAIN, Family, Rule, Table, Tables};

use self::balancers::{check_capacity_floor, check_policy, check_servers, expects_main_up, require_view};
use self::facts::CheckFacts;
use self::finding::{build_finding, build_note, build_ok, build_problem, build_warning};
use self::port_match::rule_names_port;
use self::private_hosts::build_private_finding;

mod balancers;
mod boot;
mod check_code;
pub mod clock;
pub(in crate::plan) mod data_ports;
pub mod facts;
mod finding;
pub mod fleet;
mod mains;
mod open_ports;
pub(in crate::plan) mod port_match;
mod private_hosts;
pub mod root_programs;

/// All findings, in the order of the snapshot, including those that need no repair.
pub fn collect_findings(fleet: &Fleet, facts: &CheckFacts) -> Vec<Finding> {
    let mut all = vec![check_privileges(facts), check_state(facts)];
    match &facts.tables {
        Err(error) => all.push(build_problem(
            "rules-unreadable",
            "kernel rules",
            error.clone(),
            "run it as root; `apt-get install iptables` where it is missing",
        )),
        Ok(tables) => {
            for (family, tables) in tables {
                all.extend(check_family_rules(fleet, *family, tables));
                all.extend(check_unprintable_chains(facts, *family, tables));
            }
            all.extend(check_ipv6(facts, tables));
        }
    }
    all.extend(check_native_rules(fleet, &facts.native_rules));
    all.extend(check_hidden_legacy(facts));
    all.extend(check_client_ports(fleet, facts));
    all.extend(data_ports::collect_findings(fleet, facts));
    all.extend(check_drift(fleet, facts));
    let own = find_own_record(fleet, facts).filter(|record| record.access == Access::Private);
    all.extend(own.map(|record| build_private_finding(&facts.host, record)));
    all.extend(open_ports::collect_findings(fleet, facts, find_own_record(fleet, facts)));
    all.extend(check_listeners(fleet, facts));
    all.extend(boot::collect_findings(fleet, facts));
    all.extend(check_health(fleet, facts));
    all.extend(root_programs::collect_findings(facts));
    let expects_main = expects_main_up(find_own_record(fleet, facts), &facts.drift, &facts.main_health);
    for (spec, view) in fleet.balancers.iter().zip(&facts.balancers) {
        match require_view(spec, view.as_ref()) {
            Err(finding) => all.push(finding),
            Ok(view) => {
                all.extend(check_servers(fleet, spec, view, &facts.host, expects_main));
                all.extend(check_capacity_floor(fleet, spec, view, &facts.host.name));
            }
        }
    }
    all.extend(check_policy(fleet));
    all
}

/// The record of the service that is checked.
fn find_own_record<'a>(fleet: &Fleet, facts: &'a CheckFacts) -> Option<&'a ServiceRecord> {
    facts.records.iter().flatten().find(|record| record.forward.service == fleet.service)
}

fn check_privileges(facts: &CheckFacts) -> Finding {
    match &facts.can_change_rules {
        Ok(true) => build_ok("privileges", "privileges", "CAP_NET_ADMIN is held"),
        Ok(false) => build_problem(
            "privileges",
            "privileges",
            "CAP_NET_ADMIN is not held: rules can be neither read nor changed",
            "run as root: `sudo switchman ...`",
        ),
        Err(error) => build_warning("privileges", "privileges", error.clone(), "run as root"),
    }
}

fn check_state(facts: &CheckFacts) -> Finding {
    match &facts.records {
        Ok(recorded) if recorded.is_empty() => build_note(
            "state-empty",
            "recorded state",
            "nothing is recorded yet: the site runs on its backup vhost until the first `enable-forward`",
            "`switchman enable-forward` when main is ready",
        ),
        Ok(_) => build_ok("state", "recorded state", "readable"),
        Err(error) => build_problem(
            "state-unreadable",
            "recorded state",
            error.clone(),
            "see the error; `--state-dir` names another place",
        ),
    }
}

fn check_family_rules(fleet: &Fleet, family: Family, tables: &Tables) -> Vec<Finding> {
    let chosen = choose_variant(tables);
    let subject = format!("{} nat ({chosen})", family.command_stem());
    let mut all = vec![build_ok(
        "variant",
        &subject,
        format!("rules of ours belong here; `{}` runs {}", family.command_stem(), tables.default),
    )];
    let holds = |table: &Option<Table>| table.as_ref().is_some_and(Table::has_rules);
    if holds(&tables.nf_tables) && holds(&tables.legacy) {
        all.push(build_warning("mixed-variants",
            &format!("{} nat", family.command_stem()),
            "there are rules in nf_tables and in legacy iptables: both are live at once, and each tool shows only its own",
            "move all rules to one of them; `iptables-nft-save` and `iptables-legacy-save` show both",
        ));
    }
    for table in [&tables.nf_tables, &tables.legacy].into_iter().flatten() {
        all.extend(check_foreign_rules(fleet, family, &subject, table));
    }
    if chosen != tables.default {
        all.push(build_note(
            "other-variant",
            &subject,
            format!(
                "`{}` runs {}, but the rules of this host are in {chosen}: switchman follows the rules",
                family.command_stem(),
                tables.default
            ),
            "`update-alternatives --config iptables` makes them the same",
        ));
    }
    all
}

/// Chains of iptables with native rules in them: iptables prints nothing of the whole table, and `iptables-save` saves none of it.
fn check_unprintable_chains(facts: &CheckFacts, family: Family, tables: &Tables) -> Vec<Finding> {
    let table = if family == Family::V4 { "ip" } else { "ip6" };
    let chains = tables.nf_tables.iter().flat_map(|nat| &nat.unprintable_chains);
    let finding = |chain: &String| {
        let native = facts.native_rules.iter().flatten();
        let inside: Vec<String> = native
            .filter(|rule| rule.family == table && rule.table == "nat" && &rule.chain == chain)
            .map(|rule| format!("`{}` (handle {})", rule.text, rule.handle))
            .collect();
        let rules = if inside.is_empty() { "a native rule".to_owned() } else { inside.join(", ") };
        build_warning(
            "native-in-iptables-chain",
            &format!("{} nat", family.command_stem()),
            format!(
                "iptables cannot print the chain {chain}, which holds {rules} of nftables: `iptables-save` prints and saves nothing of this table"
            ),
            "move the rule to a table of its own; `nft -a list ruleset` shows its handle",
        )
    };
    chains.map(finding).collect()
}

/// Rules of others that take connections to the check port, and rules in our chain that are not ours.
fn check_foreign_rules(fleet: &Fleet, family: Family, subject: &str, table: &Table) -> Vec<Finding> {
    let check = fleet.ports.check;
    let takes = |rule: &&Rule| {
        !rule.is_ours()
            && (rule_names_port(rule, "--dport", check) || rule_names_port(rule, "--dports", check))
    };
    let on_port = table.rules.iter().filter(takes).map(|rule| {
        build_problem(
            "stranger-on-check-port",
            subject,
            format!("a rule that is not switchman's takes the check port {check}: `{rule}`; it answers when the forward is off"),
            format!("remove it: `{} -t nat {}`", family.command_stem(), rule.to_string().replacen("-A", "-D", 1)),
        )
    });
    let redirects = read_redirects(table);
    let known: Vec<String> = redirects
        .iter()
        .map(|redirect| format!("switchman:{}:{}", redirect.service, redirect.kind.as_str()))
        .collect();
    let is_known = |rule: &Rule| {
        rule.option_value("--comment")
            .is_some_and(|comment| comment == "switchman:anchor" || known.iter().any(|own| own == comment))
    };
    let inside = table.rules_in_chain(CHAIN).filter(|rule| !is_known(rule)).map(|rule| {
        build_warning("stranger-in-chain",
            subject,
            format!("the chain {CHAIN} holds a rule switchman did not write: `{rule}`; the next switch replaces the chain"),
            "move it to a chain of its own",
        )
    });
    on_port.chain(inside).collect()
}

/// A native rule that translates the check port.
fn check_native_rules(fleet: &Fleet, rules: &Result<Vec<NativeRule>, ObservationError>) -> Vec<Finding> {
    let check = fleet.ports.check;
    match rules {
        Err(error) => vec![build_warning(
            "native-unreadable",
            "nftables",
            format!("native rules are not looked at, and may decide about the ports: {error}"),
            "`apt-get install nftables` where `nft` is missing, else run as root",
        )],
        Ok(rules) => rules
            .iter()
            .filter(|rule| rule.effect == NativeEffect::Translate && rule.matches_port(check))
            .map(|rule| {
                build_problem(
                    "native-on-check-port",
                    "nftables",
                    format!("a native nftables rule takes the check port {check}: `{rule}`; it answers when the forward is off"),
                    format!("remove it: `{}`", rule.delete_command()),
                )
            })
            .collect(),
    }
}

fn check_ipv6(facts: &CheckFacts, tables: &[(Family, Tables)]) -> Option<Finding> {
    let table =
        |wanted: Family| tables.iter().find(|(family, _)| *family == wanted).map(|(_, tables)| tables);
    let on = |tables: &Tables| {
        tables
            .of(choose_variant(tables))
            .is_some_and(|table| !read_forwards(table).is_empty() && is_hooked(table, false))
    };
    let host_is_v6 = facts.host.address.is_some_and(|address| address.is_ipv6());
    let has_v6 = facts.addresses.iter().any(IpAddr::is_ipv6);
    match (table(Family::V4), table(Family::V6)) {
        (_, None) if host_is_v6 || has_v6 => Some(build_finding(
            if host_is_v6 { Severity::Problem } else { Severity::Warning },
            "ipv6-without-rules",
            "ip6tables",
            format!(
                "IPv6 is not covered, and this host has an IPv6 address: the forward is in IPv4 only, and HAProxy's checks over \
                 IPv6 pass it by ({})",
                facts.ipv6_obstacle.as_ref().map_or("IPv6 is switched off".to_owned(), ToString::to_string)
            ),
            "give HAProxy the IPv4 address; or install ip6tables (it comes with iptables) and `modprobe ip6table_nat`",
        )),
        (Some(v4), Some(v6)) if on(v4) != on(v6) => Some(build_problem(
            "ipv6-differs",
            "IPv4 and IPv6",
            format!("the forward is {} in IPv4 and {} in IPv6", to_switch(on(v4)), to_switch(on(v6))),
            "`switchman restore`",
        )),
        _ => None,
    }
}

fn to_switch(on: bool) -> Switch {
    if on { Switch::On } else { Switch::Off }
}

/// Splits are recorded, and nothing makes them. Nothing reaches a private service, with or without its proxy.
fn check_proxy(facts: &CheckFacts) -> Vec<Finding> {
    let recorded = facts.records.iter().flatten();
    let out = recorded.filter(|record| {
        let splits = !record.layer7.traffic_split.is_empty() && record.access == Access::Public;
        splits && record.layer7.inserted().is_none()
    });
    out.map(|record| {
        build_warning("proxy-out",
            "proxy",
            format!(
                "`{}` has a shadow or a canary, but the rules bypass the proxy and route to main: no request is copied or shared",
                record.forward.service
            ),
            "the agent inserts the proxy again once it can be started: `switchman history` and `journalctl -u \
             switchman-proxy` (without systemd: `proxy.log` in the state directory) show why it ended; without a running \
             agent the proxy stays out (`systemctl status switchman`)",
        )
    })
    .collect()
}

fn check_drift(fleet: &Fleet, facts: &CheckFacts) -> Vec<Finding> {
    let mut all = Vec::new();
    let record = find_own_record(fleet, facts);
    let rebooted = record.is_some_and(|record| facts.booted_at.is_some_and(|boot| boot > record.changed_at));
    for text in &facts.drift {
        all.push(if rebooted {
            build_problem(
                "forward-missing-after-reboot",
                "kernel rules",
                format!(
                    "{text}; the machine was started after the last switch, and rules do not outlive that"
                ),
                "`switchman restore` now; `systemctl enable switchman-restore` runs it at every boot",
            )
        } else {
            build_problem(
                "drift",
                "kernel rules",
                text.clone(),
                "`switchman restore`; find out who changes them",
            )
        });
    }
    if let Some(record) = record
        && (record.forward.check != fleet.ports.check
            || !record.instance_ports(fleet.ports.main).contains(&record.forward.target))
    {
        all.push(build_warning(
            "ports-changed",
            "recorded state",
            format!(
                "the record has {} -> {}, the configuration has {} -> {}",
                record.forward.check, record.forward.target, fleet.ports.check, fleet.ports.main
            ),
            "the next `enable-forward` or `disable-forward` takes the new ports over",
        ));
    }
    let others = facts.records.iter().flatten().filter(|one| one.forward.service != fleet.service);
    for other in others.filter(|one| one.forward.check == fleet.ports.check) {
        all.push(build_problem(
            "check-port-shared",
            "recorded state",
            format!(
                "the service `{}` has the same check port {}: one of them answers for both",
                other.forward.service, fleet.ports.check
            ),
            "give each service of a host a check port of its own",
        ));
    }
    all.extend(check_unfinished_change(facts));
    all.extend(check_proxy(facts));
    all
}

fn check_unfinished_change(facts: &CheckFacts) -> Option<Finding> {
    let last = facts.last_entry.as_ref().filter(|last| last.phase == Phase::Began)?;
    Some(build_warning(
        "cut-off",
        "history",
        format!(
            "`{}` by {} began at {:.0} and did not end: it is still running, or was killed",
            last.action, last.actor, last.at
        ),
        "`switchman status` shows whether kernel and record agree, `switchman restore` makes them",
    ))
}

/// Ports that the kernel gives to clients and that instances need.
fn check_client_ports(fleet: &Fleet, facts: &CheckFacts) -> Option<Finding> {
    let clients = facts.client_ports.as_ref()?;
    let (first, last) = fleet.versions.port_range;
    let both = (clients.first.max(first.get()), clients.last.min(last.get()));
    let is_reserved = |(low, high): &(u16, u16)| *low <= both.0 && both.1 <= *high;
    if both.0 > both.1 || clients.reserved.iter().any(is_reserved) {
        return None;
    }
    Some(build_warning(
        "client-ports-overlap",
        "instance ports",
        format!(
            "the kernel gives the ports {}-{} to clients, and instances use {first}-{last}: an instance that restarts may find its port in use",
            clients.first, clients.last
        ),
        format!(
            "`sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}`, and the same line in /etc/sysctl.d"
        ),
    ))
}

/// Legacy rules are live, and no tool of this host prints them.
fn check_hidden_legacy(facts: &CheckFacts) -> Vec<Finding> {
    let finding = |family: &Family| {
        build_warning(
            "legacy-unreadable",
            &format!("{} nat (legacy)", family.command_stem()),
            "the kernel has a legacy nat table, and no legacy iptables is installed: its rules are not seen, and switchman uses nf_tables",
            "`apt-get install iptables` brings the legacy tools; `switchman status` shows whether a packet gets through",
        )
    };
    facts.hidden_legacy.iter().map(finding).collect()
}

fn check_listeners(fleet: &Fleet, facts: &CheckFacts) -> Vec<Finding> {
    let mut all = Vec::new();
    let names = |found: &[(u32, String)]| {
        found.iter().map(|(pid, name)| format!("{name} (pid {pid})")).collect::<Vec<_>>().join(", ")
    };
    if !facts.check_port_listeners.is_empty() {
        all.push(build_problem(
            "listener-on-check-port",
            &format!("port {}", fleet.ports.check),
            format!("{} listens on the check port: with the forward off it answers the check, and HAProxy never sees DOWN", names(&facts.check_port_listeners)),
            "stop it: the check must reach the real application",
        ));
    }
    let shared: Vec<(u32, String)> = facts
        .main_port_listeners
        .iter()
        .filter(|one| facts.backup_port_listeners.contains(one))
        .cloned()
        .collect();
    if !shared.is_empty() {
        all.push(build_problem(
            "one-process-for-both",
            &format!("ports {} and {}", fleet.ports.main, fleet.ports.backup),
            format!("{} holds both vhosts: restarting main takes its backup down with it", names(&shared)),
            "run them as two processes with a pid file each; `switchman init` writes such a pair",
        ));
    }
    all
}

fn check_health(fleet: &Fleet, facts: &CheckFacts) -> Vec<Finding> {
    let recorded_off = facts.records.as_ref().is_ok_and(|all| {
        all.iter().any(|record| record.forward.service == fleet.service && record.switch == Switch::Off)
    });
    let vhost = |name: &str, port: Port, health: &Result<(), ObservationError>, severity| match health {
        Ok(()) => build_ok("vhost", &format!("{name} vhost"), format!("healthy on port {port}")),
        Err(error) => build_finding(
            severity,
            "vhost-unhealthy",
            &format!("{name} vhost"),
            error.clone(),
            "look at its error log",
        ),
    };
    let [main_port, backup_port] = facts.answering_ports;
    // In a maintenance the main vhost may well be stopped.
    let main = if recorded_off { Severity::Note } else { Severity::Problem };
    vec![
        vhost("main", main_port, &facts.main_health, main),
        vhost("backup", backup_port, &facts.backup_health, Severity::Problem),
    ]
}

#[cfg(test)]
mod tests;
