//! Verdicts on answers, with rules as they are printed.

use super::*;
use crate::model::example::{make_native_rule, make_table, port};
use crate::model::rules::Variant;

const ADDRESS: &str = "10.9.0.5:8888";

fn claim(switch: Switch) -> Claim {
    Claim { role: PortRole::Check, switch, port: port(8888), target: port(8080) }
}

fn facts() -> PacketFacts {
    PacketFacts {
        nat: None,
        tables: vec![],
        native: vec![],
        native_obstacle: None,
        check_listeners: Some(vec![]),
        target_listeners: Some(vec!["0.0.0.0:8080".parse().unwrap()]),
        check_processes: vec![],
    }
}

fn table(chain: &str, policy: &str, rules: &[&str]) -> Table {
    make_table(&[(chain, Some(policy))], rules)
}

fn explain(switch: Switch, answer: &PacketAnswer, facts: &PacketFacts) -> PacketVerdict {
    explain_answer(claim(switch), Family::V4, ADDRESS.parse().unwrap(), answer, facts)
}

fn cause(verdict: PacketVerdict) -> Option<String> {
    match verdict {
        PacketVerdict::Contradicted { cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}

fn reason(verdict: PacketVerdict) -> String {
    match verdict {
        PacketVerdict::Unverified { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn accepted(by: &str) -> PacketAnswer {
    PacketAnswer::Accepted { by: Some(by.parse().unwrap()) }
}

#[test]
fn answer_of_main_proves_on_and_refusal_proves_off() {
    let judge = |switch, answer: &PacketAnswer| {
        judge_answer(claim(switch), ADDRESS.parse().unwrap(), answer).is_some()
    };
    assert!(judge(Switch::On, &accepted("10.9.0.5:8080")));
    assert!(!judge(Switch::On, &accepted("172.17.0.2:8080")), "a container");
    assert!(!judge(Switch::On, &accepted("10.9.0.5:9000")));
    assert!(judge(Switch::Off, &PacketAnswer::Refused));
    for answer in [accepted("10.9.0.5:8080"), PacketAnswer::Silent] {
        assert!(!judge(Switch::Off, &answer));
    }
}

#[test]
fn answer_with_the_forward_off_names_its_cause() {
    let facts_of = |change: fn(&mut PacketFacts)| {
        let mut facts = facts();
        change(&mut facts);
        facts
    };
    let listening = facts_of(|facts| facts.check_processes = vec!["docker-proxy (pid 7)".into()]);
    assert_eq!(
        cause(explain(Switch::Off, &accepted(ADDRESS), &listening)).unwrap(),
        "`docker-proxy (pid 7)` listens on the check port itself"
    );
    let native = facts_of(|facts| facts.native = vec![make_native_rule(&[(8000, 9000)])]);
    assert_eq!(
        cause(explain(Switch::Off, &accepted("10.9.0.5:9000"), &native)).unwrap(),
        "the native rule `inet fw pre: tcp dport @web redirect to :9000 (handle 3, prerouting priority -110)` takes the port first"
    );
    assert_eq!(cause(explain(Switch::Off, &accepted("10.9.0.5:9000"), &facts())), None, "the fact remains");
}

#[test]
fn silence_with_the_forward_on_names_the_rule_in_raw_or_mangle() {
    for (name, rule, effect) in [
        ("raw", "-A PREROUTING -p tcp -m tcp --dport 8888 -j CT --notrack", "turns connection tracking off"),
        ("raw", "-A PREROUTING -j NOTRACK", "turns connection tracking off"),
        ("raw", "-A PREROUTING -p tcp -m tcp --dport 8888 -j CT --zone 5", "another zone"),
        ("mangle", "-A PREROUTING -p tcp -m tcp --dport 8888 -j DROP", "drops the packet before nat"),
        ("mangle", "-A PREROUTING -p tcp -m tcp --dport 8888 -j MARK --set-xmark 0x1/0xffffffff", "marks"),
    ] {
        let facts = PacketFacts {
            tables: vec![(name.to_owned(), table("PREROUTING", "ACCEPT", &[rule]))],
            ..facts()
        };
        let text = cause(explain(Switch::On, &PacketAnswer::Silent, &facts)).unwrap();
        assert!(text.contains(effect) && text.contains(rule), "{text}");
    }
}

#[test]
fn filter_by_source_makes_the_packet_prove_nothing() {
    let rules = ["-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 8080 -j ACCEPT"];
    let by_source =
        PacketFacts { tables: vec![("filter".into(), table("INPUT", "DROP", &rules))], ..facts() };
    let text = reason(explain(Switch::On, &PacketAnswer::Silent, &by_source));
    assert!(text.contains("may depend on its interface or source"), "{text}");
    let closed = PacketFacts { tables: vec![("filter".into(), table("INPUT", "DROP", &[]))], ..facts() };
    let text = cause(explain(Switch::On, &PacketAnswer::Silent, &closed)).unwrap();
    assert_eq!(text, "the filter of INPUT refuses port 8080: `the policy DROP of INPUT`");
    let proven = explain(Switch::Off, &PacketAnswer::Silent, &closed);
    assert_eq!(proven, PacketVerdict::Packet { answer: PacketAnswer::Silent });
}

#[test]
fn refusal_without_a_listener_proves_nothing() {
    let mut facts = facts();
    assert_eq!(cause(explain(Switch::On, &PacketAnswer::Refused, &facts)), None);
    facts.target_listeners = Some(vec!["10.9.0.5:8080".parse().unwrap()]);
    let text = reason(explain(Switch::On, &PacketAnswer::Refused, &facts));
    assert_eq!(
        text,
        "port 8080 listens on `10.9.0.5:8080` only, to which a packet of another interface is not redirected"
    );
    facts.target_listeners = Some(vec![]);
    let text = reason(explain(Switch::On, &PacketAnswer::Refused, &facts));
    assert_eq!(text, "no process listens on port 8080");
    facts.target_listeners = None;
    let text = reason(explain(Switch::On, &PacketAnswer::Refused, &facts));
    assert_eq!(text, "it is not known whether a process listens on port 8080");
    let v6: SocketAddr = "[fd00::5]:8888".parse().unwrap();
    facts.target_listeners = Some(vec!["0.0.0.0:8080".parse().unwrap()]);
    let verdict = explain_answer(claim(Switch::On), Family::V6, v6, &PacketAnswer::Refused, &facts);
    assert_eq!(reason(verdict), "no process listens on port 8080");
}

/// The filter of firewalld: it accepts what was translated, some ports, and nothing else.
#[test]
fn rule_for_translated_packets_opens_the_check_port_alone() {
    let rule = |effect, is_translated_only| NativeRule {
        hook: "input".into(),
        priority: 10,
        effect,
        is_translated_only,
        ..make_native_rule(&[])
    };
    let native = vec![rule(NativeEffect::Accept, true), rule(NativeEffect::Reject, false)];
    let facts = PacketFacts { native, ..facts() };
    let data = Claim::from_open_port(port(8080), port(8080));
    let address = "10.9.0.5:8080".parse().unwrap();
    let verdict = explain_answer(data, Family::V4, address, &PacketAnswer::Refused, &facts);
    let PacketVerdict::Contradicted { fact, cause } = verdict else { panic!("{verdict:?}") };
    assert_eq!(fact, "a packet to the data port 8080 is refused");
    assert!(cause.unwrap().ends_with("refuses the packet"));
    assert!(cause_of_check_port(&facts).is_none());
}

fn cause_of_check_port(facts: &PacketFacts) -> Option<String> {
    cause(explain(Switch::On, &PacketAnswer::Refused, facts))
}

#[test]
fn data_port_without_a_route_may_be_published_by_a_container() {
    let address = "10.9.0.5:8080".parse().unwrap();
    let plain = Claim::from_open_port(port(8080), port(8080));
    let routed = Claim::from_open_port(port(8080), port(20_001));
    for answer in [accepted("172.17.0.2:80"), PacketAnswer::Accepted { by: None }] {
        assert!(judge_answer(plain, address, &answer).is_some());
        assert!(judge_answer(routed, address, &answer).is_none());
    }
    assert!(judge_answer(routed, address, &accepted("10.9.0.5:20001")).is_some());
}

#[test]
fn native_filter_is_walked_in_order() {
    let rule = |effect, ports: &[(u16, u16)], is_conditional| NativeRule {
        hook: "input".into(),
        priority: 0,
        effect,
        is_conditional,
        ..make_native_rule(ports)
    };
    let walk = |rules: &[NativeRule]| {
        explain(Switch::On, &PacketAnswer::Silent, &PacketFacts { native: rules.to_vec(), ..facts() })
    };
    let policy = rule(NativeEffect::Drop, &[], false);
    let dropped = walk(&[rule(NativeEffect::Accept, &[(22, 22)], false), policy.clone()]);
    assert!(cause(dropped).unwrap().ends_with("refuses the packet"));
    let by_source = walk(&[rule(NativeEffect::Accept, &[(8080, 8080)], true), policy.clone()]);
    assert!(reason(by_source).contains("may depend"));
    let accepted = walk(&[rule(NativeEffect::Accept, &[(8080, 8080)], false), policy]);
    assert!(reason(accepted).contains("a filter of OUTPUT"), "silence that no rule explains proves nothing");
}

/// A filter that admits the balancer alone drops the probe: it does not show what the balancer's packet meets.
#[test]
fn silence_proves_no_maintenance_while_a_rule_is_on_the_port() {
    let rules = ["-A PREROUTING -p tcp -m tcp --dport 8888 -j REDIRECT --to-ports 8080"];
    let nat = Tables {
        default: Variant::NfTables,
        nf_tables: Some(make_table(&[("PREROUTING", Some("ACCEPT"))], &rules)),
        legacy: None,
    };
    let with = |nat| explain(Switch::Off, &PacketAnswer::Silent, &PacketFacts { nat, ..facts() });
    assert!(reason(with(Some(nat))).contains("--dport 8888"), "a rule that redirects the port");
    assert!(matches!(with(None), PacketVerdict::Packet { .. }));
}
