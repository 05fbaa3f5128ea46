//! Findings by packets, and fixes in the words of the firewall in use.

use super::*;
use crate::model::packet_proof::{DataPortProof, FamilyProof, PacketProof, PacketVerdict};
use crate::plan::check::facts::VhostPacket;

fn refused(fact: &str, cause: &str) -> Vec<FamilyProof> {
    let verdict = PacketVerdict::Contradicted { fact: fact.into(), cause: Some(cause.into()) };
    vec![FamilyProof { family: Family::V4, address: None, verdict }]
}

/// The last rule of firewalld's filter.
fn reject_rule(table: &str) -> NativeRule {
    NativeRule {
        table: table.into(),
        chain: "filter_INPUT".into(),
        hook: "input".into(),
        text: "reject with icmpx admin-prohibited".into(),
        effect: NativeEffect::Reject,
        ..make_native_rule(&[])
    }
}

pub(super) fn close_main_port(facts: &mut CheckFacts, table: &str) {
    let rule = reject_rule(table);
    let cause = format!("the native rule `{rule}` refuses the packet");
    let families = refused("a packet to the data port 8080 is refused", &cause);
    facts.vhost_packets =
        vec![VhostPacket { vhost: "main", proof: DataPortProof { port: port(8080), families } }];
    facts.native_rules = Ok(vec![rule]);
}

pub(super) fn contradict_check_port(facts: &mut CheckFacts) {
    let fact = "the forward is off, but a packet to port 8888 is answered by `172.17.0.2:80`";
    let families =
        refused(fact, "the rule `-A DOCKER -p tcp -m tcp --dport 8888 -j DNAT` takes the port first");
    facts.check_port_packet = Some(PacketProof { check: port(8888), families, data: None });
}

/// firewalld accepts what was translated: HAProxy's check passes by the check port while every user is refused.
/// Source: firewalld/firewalld#556.
#[test]
fn closed_data_port_is_a_problem_with_the_words_of_its_firewall() {
    for (table, fix) in [
        ("firewalld", "`firewall-cmd --permanent --add-port=8080/tcp && firewall-cmd --reload`"),
        ("filter", "`nft insert rule inet filter filter_INPUT tcp dport 8080 accept`"),
    ] {
        let mut facts = good();
        close_main_port(&mut facts, table);
        let all = collect_findings(&fleet(), &facts);
        let found = all.iter().find(|finding| finding.id == "port-not-open").unwrap();
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.fix.starts_with(fix), "{}", found.fix);
    }
}

/// The chains of ufw have other names in IPv6: the fix was one for ip6tables, which the next `ufw reload` takes away.
#[test]
fn fixes_for_ipv6_are_in_the_words_of_ufw_too() {
    let mut facts = good();
    let filter = |chain: &str| make_table(&[("INPUT", Some("DROP")), (chain, None)], &[]);
    facts.filters =
        vec![(Family::V4, Ok(filter("ufw-before-input"))), (Family::V6, Ok(filter("ufw6-before-input")))];
    for finding in collect_findings(&fleet(), &facts) {
        assert!(!finding.fix.contains("tables -I"), "{finding:?}");
    }
}
