//! One sample of every finding of `check`, with its fix, in `tests/snapshots/findings-check.txt`.

use super::*;
use crate::model::finding::samples;
use crate::model::ports::ClientPorts;
use crate::model::roll::Batch;
use crate::plan::check::data_ports::tests::{REDIRECT_RULE, add_managed_service};
use crate::plan::check::facts::RootProgram;

/// Changes of the host on which all is well.
const CHANGES: [Change; 39] = [
    |_| {},
    |facts| facts.hidden_legacy = vec![Family::V4],
    |facts| facts.client_ports = ClientPorts::parse("1024\t65535", ""),
    |facts| {
        let nat = facts.tables.as_mut().unwrap()[0].1.nf_tables.as_mut().unwrap();
        nat.unprintable_chains = vec!["PREROUTING".to_owned()];
    },
    |facts| facts.can_change_rules = Ok(false),
    |facts| facts.records = Ok(vec![]),
    |facts| {
        facts.records =
            Err(ObservationError::new("cannot open the state in `/var/lib/switchman`: Permission denied"));
    },
    |facts| facts.tables = Err(ObservationError::new("`iptables-save` is not installed")),
    |facts| rule(facts, "-A PREROUTING -p tcp -m tcp --dport 8888 -j REDIRECT --to-ports 9000"),
    |facts| rule(facts, "-A SWITCHMAN -p tcp -m tcp --dport 22 -j ACCEPT"),
    |facts| facts.native_rules = Ok(vec![make_native_rule(&[(8888, 8888)])]),
    |facts| facts.native_rules = Err(ObservationError::new("`nft` failed with status 1")),
    |facts| facts.tables.as_mut().unwrap()[0].1.legacy = Some(make_foreign_table()),
    |facts| {
        let tables = &mut facts.tables.as_mut().unwrap()[0].1;
        tables.legacy = tables.nf_tables.take();
    },
    |facts| facts.tables.as_mut().unwrap()[1].1.nf_tables = Some(Table::empty_nat()),
    |facts| {
        facts.tables.as_mut().unwrap().pop();
        facts.ipv6_obstacle = Some(ObservationError::new("`ip6tables` is not installed"));
        facts.addresses = vec!["2001:db8::1".parse().unwrap()];
    },
    |facts| facts.drift = vec!["the forward 8888 -> 8080 is missing (IPv4)".into()],
    |facts| {
        facts.drift = vec!["the forward 8888 -> 8080 is missing (IPv4)".into()];
        facts.booted_at = jiff::Timestamp::from_second(2000).ok();
    },
    |facts| facts.records.as_mut().unwrap()[0].forward.target = port(8101),
    |facts| {
        let mut other = recorded(Switch::Off);
        other.forward.service = "blog".parse().unwrap();
        facts.records.as_mut().unwrap().push(other);
    },
    |facts| facts.last_entry = Some(make_unfinished_entry()),
    |facts| facts.records = Ok(vec![make_record_with_proxy(false, Access::Public)]),
    |facts| facts.filters[0].1 = Ok(make_closed_filter("-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT")),
    |facts| {
        facts.filters[0].1 =
            Ok(make_closed_filter("-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 8080 -j ACCEPT"));
    },
    |facts| {
        facts.filters[0].1 =
            Err(ObservationError::new("`iptables-save` needs the capability `CAP_NET_ADMIN`"));
    },
    |facts| facts.check_port_listeners = vec![(9, "nc".into())],
    |facts| facts.backup_port_listeners.push((10, "nginx".into())),
    |facts| {
        facts.main_health = Err(ObservationError::new("127.0.0.1:8080/health answered 500, expected 200"));
    },
    |facts| facts.is_agent_running = Some(false),
    |facts| {
        let unit = StartedBy::Unit { name: "nginx.service".into(), is_enabled: false };
        facts.vhost_starters = [vec![StartedBy::Scope("session-3.scope".into())], vec![unit]];
    },
    |facts| {
        let program = |version: &str, is_requested| RootProgram {
            service: "shop".parse().unwrap(),
            version: version.parse().unwrap(),
            is_requested,
        };
        facts.root_programs = vec![program("1.0.0", false), program("2.0.0", true)];
    },
    |facts| facts.balancers = vec![None],
    |facts| {
        facts.balancers =
            vec![Some(Err(ObservationError::new("no answer from `/run/haproxy/admin.sock` within 2s")))];
    },
    |facts| change_servers(facts, |servers| servers[0].admin_state = Some(AdminState(0x41))),
    |facts| {
        change_servers(facts, |servers| {
            let main = server("main-web1", ServerState::Down);
            servers[0] = ServerView { last_check: "L4TOUT".into(), ..main };
        });
    },
    |facts| change_servers(facts, |servers| servers.truncate(1)),
    |facts| add_managed_service(facts, &[REDIRECT_RULE], &[]),
    |facts| packets::close_main_port(facts, "firewalld"),
    packets::contradict_check_port,
];

#[test]
fn check_findings_are_those_of_the_snapshots() {
    let mut all = Vec::new();
    for change in CHANGES {
        let mut facts = good();
        change(&mut facts);
        all.extend(collect_findings(&fleet(), &facts));
    }
    let mut facts = good();
    add_managed_service(&mut facts, &[], &[]);
    facts.native_rules = Ok(vec![make_native_rule(&[(8080, 8080)])]);
    all.extend(collect_findings(&fleet(), &facts));
    let mut alone = fleet();
    alone.balancers.clear();
    alone.hosts = vec![example::host("web1", "10.0.0.1")];
    alone.roll.batch = Batch::Percent(100);
    all.extend(collect_findings(&alone, &CheckFacts { balancers: vec![], ..good() }));
    all.extend(crate::plan::check::fleet::tests::list_samples());
    samples::assert_snapshot(
        "findings-check.txt",
        &all,
        &[
            "src/plan/check.rs",
            "src/plan/check/data_ports.rs",
            "src/plan/check/fleet.rs",
            "src/plan/check/open_ports.rs",
            "src/plan/check/root_programs.rs",
        ],
    );
}
