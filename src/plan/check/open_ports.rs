//! Whether balancers reach the ports of the vhosts: by the rules of the filter, and by packets.

use super::facts::{CheckFacts, VhostPacket};
use super::finding::{build_note, build_problem, build_warning};
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::forward::ServiceRecord;
use crate::model::native_rule::{NativeEffect, NativeRule};
use crate::model::observation::ObservationError;
use crate::model::packet_proof::{FamilyProof, PacketProof, PacketVerdict};
use crate::model::ports::Port;
use crate::model::rules::{Family, Table};
use crate::plan::input_filter::{FilterVerdict, RefusalTarget, RefusingRule, evaluate_filter};

pub(super) fn collect_findings(
    fleet: &Fleet,
    facts: &CheckFacts,
    record: Option<&ServiceRecord>,
) -> Vec<Finding> {
    let filters = facts.filters.iter();
    let by_rules: Vec<Finding> = filters
        .flat_map(|(family, table)| check_input_filter(fleet, facts, record, *family, table))
        .collect();
    // The rules name the port that a filter hides: a packet that finds the same adds nothing.
    let is_explained = by_rules.iter().any(|finding| finding.id == "input-hides-port");
    let by_packets = if is_explained { vec![] } else { check_packets(facts, record) };
    by_rules.into_iter().chain(by_packets).collect()
}

/// Findings of packets that contradict the record, or vhosts that answer on the host itself.
fn check_packets(facts: &CheckFacts, record: Option<&ServiceRecord>) -> Vec<Finding> {
    let mut all = Vec::new();
    if let Some(text) = facts.check_port_packet.as_ref().and_then(PacketProof::describe_contradiction) {
        all.push(build_problem(
            "packet-contradicts",
            "check port",
            text,
            "remove the cause, then `switchman restore`; `switchman status` sends the packet again",
        ));
    }
    for VhostPacket { vhost, proof } in &facts.vhost_packets {
        let contradicted = |one: &&FamilyProof| matches!(one.verdict, PacketVerdict::Contradicted { .. });
        let Some(first) = proof.families.iter().find(contradicted) else { continue };
        let text = proof.describe_contradiction().unwrap_or_default();
        let targets = record.map_or_else(Vec::new, |record| record.effective_targets(proof.port));
        let port = targets.first().copied().unwrap_or(proof.port);
        all.push(build_problem(
            "port-not-open",
            &format!("{vhost} vhost"),
            format!("it answers on this host, and not to other hosts: {text}"),
            format!("{}, for the load balancers", suggest_way_in(facts, first.family, port, &text)),
        ));
    }
    all
}

/// Returns the command that lets a port in where a native rule refuses it: a rule in another table cannot.
fn suggest_way_in(facts: &CheckFacts, family: Family, port: Port, text: &str) -> String {
    let refuses = |rule: &&NativeRule| {
        matches!(rule.effect, NativeEffect::Drop | NativeEffect::Reject) && text.contains(&rule.to_string())
    };
    match facts.native_rules.iter().flatten().find(refuses) {
        Some(rule) if detect_manager(facts) == FirewallManager::None => format!(
            "`nft insert rule {} {} {} tcp dport {port} accept`, and the same in its configuration",
            rule.family, rule.table, rule.chain
        ),
        _ => suggest_opening(facts, family, port),
    }
}

/// INPUT sees the port after nat: the real port must be let in, and the check port should be refused, not dropped.
fn check_input_filter(
    fleet: &Fleet,
    facts: &CheckFacts,
    record: Option<&ServiceRecord>,
    family: Family,
    table: &Result<Table, ObservationError>,
) -> Vec<Finding> {
    let subject = format!("{} filter INPUT", family.command_stem());
    let table = match table {
        Ok(table) => table,
        Err(error) => {
            return vec![build_warning("filter-unreadable", &subject, error.clone(), "run as root")];
        }
    };
    let mut all = Vec::new();
    let targets = |data| record.map_or_else(|| vec![data], |record| record.effective_targets(data));
    let ports = [("main", fleet.ports.main), ("backup", fleet.ports.backup)];
    let ports =
        ports.into_iter().flat_map(|(vhost, data)| targets(data).into_iter().map(move |port| (vhost, port)));
    for (vhost, port) in ports {
        match evaluate_filter(table, port) {
            FilterVerdict::Accepted => {}
            FilterVerdict::Refused(RefusingRule { text, .. }) => all.push(build_problem(
                "input-hides-port",
                &subject,
                format!("port {port} of the {vhost} vhost is not let in ({text}): INPUT sees the port after nat, so the check port does not help"),
                format!("{}, for the load balancers", suggest_opening(facts, family, port)),
            )),
            FilterVerdict::Depends { rule } => all.push(build_note("input-depends",
                &subject,
                format!("whether port {port} of the {vhost} vhost is let in depends on the source or more: `{rule}`"),
                "make sure that the load balancers are let in",
            )),
        }
    }
    if let FilterVerdict::Refused(RefusingRule { text, target: RefusalTarget::Drop }) =
        evaluate_filter(table, fleet.ports.check)
    {
        all.push(build_note("check-port-dropped",
            &subject,
            format!("with the forward off, the check port {} is dropped and not refused ({text}): DOWN takes a check timeout longer", fleet.ports.check),
            suggest_refusal(facts, family, fleet.ports.check),
        ));
    }
    all
}

/// The program that manages the filter of this host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirewallManager {
    Ufw,
    Firewalld,
    None,
}

fn detect_manager(facts: &CheckFacts) -> FirewallManager {
    let is_firewalld = facts.native_rules.iter().flatten().any(|rule| rule.table == "firewalld");
    let has_chain = |name: &str| {
        facts
            .filters
            .iter()
            .any(|(_, filter)| filter.as_ref().is_ok_and(|table| table.chains.contains_key(name)))
    };
    if has_chain("ufw-before-input") || has_chain("ufw6-before-input") {
        FirewallManager::Ufw
    } else if is_firewalld || has_chain("INPUT_ZONES") {
        FirewallManager::Firewalld
    } else {
        FirewallManager::None
    }
}

/// Returns the command that lets a port in, in the words of the firewall in use: it replaces the rules of others.
fn suggest_opening(facts: &CheckFacts, family: Family, port: Port) -> String {
    match detect_manager(facts) {
        FirewallManager::Ufw => format!("`ufw allow {port}/tcp`"),
        FirewallManager::Firewalld => {
            format!("`firewall-cmd --permanent --add-port={port}/tcp && firewall-cmd --reload`")
        }
        FirewallManager::None => {
            format!("`{} -I INPUT -p tcp --dport {port} -j ACCEPT`", family.command_stem())
        }
    }
}

fn suggest_refusal(facts: &CheckFacts, family: Family, port: Port) -> String {
    match detect_manager(facts) {
        FirewallManager::Ufw => format!("`ufw reject {port}/tcp`"),
        // A zone of firewalld that lets a port in refuses it by the kernel while no process listens.
        FirewallManager::Firewalld => suggest_opening(facts, family, port),
        FirewallManager::None => format!(
            "`{} -I INPUT -p tcp --dport {port} -j REJECT --reject-with tcp-reset`",
            family.command_stem()
        ),
    }
}
