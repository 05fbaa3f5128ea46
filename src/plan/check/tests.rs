use super::*;
use crate::model::balancer::{AdminState, BackendView, ServerState, ServerView};
use crate::model::boot::StartedBy;
use crate::model::example::{self, make_native_rule, make_table, port};
use crate::model::forward::ServiceRecord;
use crate::model::history::{Actor, HistoryEntry, OperationId};
use crate::model::host::Host;
use crate::model::observation::ObservationError;
use crate::model::proxy::ProxyPlacement;
use crate::model::rules::Variant;
use crate::plan::firewall;

mod packets;
mod snapshots;

type Change = fn(&mut CheckFacts);

fn fleet() -> Fleet {
    Fleet { balancers: vec![example::balancer("lb1", None)], ..example::fleet() }
}

pub(super) fn recorded(switch: Switch) -> ServiceRecord {
    let changed_at = jiff::Timestamp::from_second(1000).unwrap();
    ServiceRecord { changed_at, ..example::make_record("shop", switch) }
}

/// A change that began and did not end.
fn make_unfinished_entry() -> HistoryEntry {
    HistoryEntry {
        operation: OperationId(1),
        at: jiff::Timestamp::UNIX_EPOCH,
        actor: Actor::new("ops", 1),
        caller: None,
        service: "shop".parse().unwrap(),
        action: "disable-forward".into(),
        phase: Phase::Began,
        detail: String::new(),
    }
}

/// A service with a shadow, on a host whose proxy is inserted or bypassed.
fn make_record_with_proxy(inserted: bool, access: Access) -> ServiceRecord {
    let mut record = ServiceRecord { access, ..recorded(Switch::On) };
    record.layer7.traffic_split.mirrors.push(example::make_mirror(&"dp_0000000000".parse().unwrap()));
    record.layer7.place = Some(ProxyPlacement { port: port(29999), inserted });
    record
}

fn make_closed_filter(rule: &str) -> Table {
    make_table(&[("INPUT", Some("DROP"))], &[rule])
}

fn make_foreign_table() -> Table {
    let mut table = Table::empty_nat();
    table.rules.push(Rule::parse("-A POSTROUTING -j MASQUERADE").unwrap());
    table
}

fn change_servers(facts: &mut CheckFacts, change: fn(&mut Vec<ServerView>)) {
    if let Some(Some(Ok(view))) = facts.balancers.first_mut() {
        let mut servers = view.servers().to_vec();
        change(&mut servers);
        *view = BackendView::new(servers);
    }
}

/// A nat table with the forward on.
fn nat() -> Tables {
    let mut tables = Tables { default: Variant::NfTables, nf_tables: Some(Table::empty_nat()), legacy: None };
    let desired = firewall::build_desired_rules(&[recorded(Switch::On)], []);
    for transaction in firewall::plan_transactions(&desired, &tables, Family::V4) {
        tables.nf_tables.as_mut().unwrap().apply_transaction(&transaction).unwrap();
    }
    tables
}

fn server(name: &str, verdict: ServerState) -> ServerView {
    // An address set at run time is no maintenance.
    ServerView { admin_state: Some(AdminState(0x40)), ..example::make_server(name, verdict) }
}

/// A host on which all is well.
pub(super) fn good() -> CheckFacts {
    let servers =
        ["main-web1", "backup-web1", "main-web2"].map(|name| server(name, ServerState::Up)).to_vec();
    CheckFacts {
        host: Host {
            name: "web1".parse().unwrap(),
            address: None,
            transport: crate::model::host::Transport::Local,
        },
        can_change_rules: Ok(true),
        tables: Ok(vec![(Family::V4, nat()), (Family::V6, nat())]),
        native_rules: Ok(vec![]),
        ipv6_obstacle: None,
        hidden_legacy: vec![],
        client_ports: None,
        filters: vec![(Family::V4, Ok(Table::default()))],
        records: Ok(vec![recorded(Switch::On)]),
        last_entry: None,
        drift: vec![],
        root_programs: vec![],
        booted_at: jiff::Timestamp::from_second(1).ok(),
        check_port_listeners: vec![],
        main_port_listeners: vec![(10, "nginx".into()), (11, "nginx".into())],
        backup_port_listeners: vec![(20, "nginx".into())],
        vhost_starters: [vec![], vec![]],
        is_agent_running: None,
        answering_ports: [port(8080), port(80)],
        addresses: vec![],
        check_port_packet: None,
        vhost_packets: vec![],
        main_health: Ok(()),
        backup_health: Ok(()),
        balancers: vec![Some(Ok(BackendView::new(servers)))],
    }
}

/// Lists the findings above `Ok`, by id.
fn bad(facts: &CheckFacts) -> Vec<(&'static str, Severity)> {
    let all = collect_findings(&fleet(), facts).into_iter();
    all.filter(|one| one.severity > Severity::Ok).map(|one| (one.id, one.severity)).collect()
}

pub(super) fn with(change: impl FnOnce(&mut CheckFacts)) -> Vec<(&'static str, Severity)> {
    let mut facts = good();
    change(&mut facts);
    bad(&facts)
}

fn rule(facts: &mut CheckFacts, rule: &str) {
    facts.tables.as_mut().unwrap()[0].1.nf_tables.as_mut().unwrap().rules.push(Rule::parse(rule).unwrap());
}

#[test]
fn healthy_host_has_no_problems() {
    assert_eq!(bad(&good()), []);
    assert!(collect_findings(&fleet(), &good()).iter().all(|finding| finding.fix.is_empty()));
}

#[test]
fn check_reports_missing_privileges_and_state() {
    assert_eq!(with(|facts| facts.can_change_rules = Ok(false)), [("privileges", Severity::Problem)]);
    assert_eq!(with(|facts| facts.records = Ok(vec![])), [("state-empty", Severity::Note)]);
    let damaged = with(|facts| facts.records = Err(ObservationError::new("damaged")));
    assert_eq!(damaged, [("state-unreadable", Severity::Problem)]);
    assert_eq!(
        with(|facts| facts.tables = Err(ObservationError::new("not installed"))),
        [("rules-unreadable", Severity::Problem)]
    );
}

#[test]
fn check_reports_foreign_rules_and_variants() {
    let stranger = [("stranger-on-check-port", Severity::Problem)];
    for text in [
        "-A PREROUTING -p tcp -m tcp --dport 8888 -j REDIRECT --to-ports 9000",
        "-A PREROUTING -p tcp -m multiport --dports 80,8000:9000 -j DNAT --to-destination 10.0.0.9",
    ] {
        assert_eq!(with(|facts| rule(facts, text)), stranger, "{text}");
    }
    let inside = with(|facts| rule(facts, "-A SWITCHMAN -p tcp -m tcp --dport 22 -j ACCEPT"));
    assert_eq!(inside, [("stranger-in-chain", Severity::Warning)]);
    for (ports, found) in [
        (vec![(8888, 8888)], true),
        (vec![(80, 80), (8000, 9000)], true),
        (vec![], true),
        (vec![(80, 80)], false),
    ] {
        let all = with(|facts| facts.native_rules = Ok(vec![make_native_rule(&ports)]));
        assert_eq!(all.contains(&("native-on-check-port", Severity::Problem)), found, "{ports:?}");
    }
    let mixed = with(|facts| facts.tables.as_mut().unwrap()[0].1.legacy = Some(make_foreign_table()));
    assert_eq!(mixed, [("mixed-variants", Severity::Warning)]);
}

#[test]
fn ipv6_without_rule_is_reported() {
    let differs = with(|facts| {
        facts.tables.as_mut().unwrap()[1].1.nf_tables = Some(Table::empty_nat());
    });
    assert_eq!(differs, [("ipv6-differs", Severity::Problem)]);
    let without = |address: Option<&str>| {
        with(|facts| {
            facts.tables.as_mut().unwrap().pop();
            facts.addresses = vec!["2001:db8::1".parse().unwrap()];
            facts.host.address = address.map(|address| address.parse().unwrap());
        })
    };
    assert_eq!(without(None), [("ipv6-without-rules", Severity::Warning)]);
    assert_eq!(without(Some("2001:db8::1")), [("ipv6-without-rules", Severity::Problem)]);
}

#[test]
fn drift_after_reboot_is_distinguished() {
    let drift = |boot| {
        with(|facts| {
            facts.drift = vec!["differs".into()];
            facts.booted_at = jiff::Timestamp::from_second(boot).ok();
        })
    };
    assert_eq!(drift(1), [("drift", Severity::Problem)]);
    assert_eq!(drift(2000), [("forward-missing-after-reboot", Severity::Problem)]);
    let moved = with(|facts| facts.records.as_mut().unwrap()[0].forward.target = port(8101));
    assert_eq!(moved, [("ports-changed", Severity::Warning)]);
    let shared = with(|facts| {
        let mut other = recorded(Switch::Off);
        other.forward.service = "blog".parse().unwrap();
        facts.records.as_mut().unwrap().push(other);
    });
    assert_eq!(shared, [("check-port-shared", Severity::Problem)]);
    let cut = with(|facts| facts.last_entry = Some(make_unfinished_entry()));
    assert_eq!(cut, [("cut-off", Severity::Warning)]);
}

#[test]
fn bypassed_proxy_is_reported() {
    let with_splits =
        |inserted, access| with(|facts| facts.records = Ok(vec![make_record_with_proxy(inserted, access)]));
    assert_eq!(with_splits(true, Access::Public), []);
    assert_eq!(with_splits(false, Access::Public), [("proxy-out", Severity::Warning)]);
    // Nothing reaches it: there is nothing to copy.
    assert_eq!(with_splits(false, Access::Private), [("service-private", Severity::Note)]);
}

#[test]
fn input_policy_refusing_the_real_port_is_reported() {
    let closed = with(|facts| {
        facts.filters[0].1 = Ok(make_closed_filter("-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT"));
    });
    assert_eq!(closed, [("input-hides-port", Severity::Problem), ("check-port-dropped", Severity::Note)]);
}

/// Rows: H4.
#[test]
fn check_reports_listeners_and_health() {
    let cases: [(&str, Change); 3] = [
        ("listener-on-check-port", |facts| facts.check_port_listeners = vec![(9, "nc".into())]),
        ("one-process-for-both", |facts| facts.backup_port_listeners.push((10, "nginx".into()))),
        ("vhost-unhealthy", |facts| facts.main_health = Err(ObservationError::new("refused"))),
    ];
    for (id, change) in cases {
        assert_eq!(with(change), [(id, Severity::Problem)]);
    }
    let in_maintenance = with(|facts| {
        facts.main_health = Err(ObservationError::new("refused"));
        facts.records = Ok(vec![recorded(Switch::Off)]);
    });
    assert_eq!(in_maintenance, [("vhost-unhealthy", Severity::Note)]);
}

#[test]
fn what_does_not_come_back_at_boot_is_reported() {
    let unit = |is_enabled| StartedBy::Unit { name: "nginx.service".into(), is_enabled };
    let find = |main, backup| with(|facts| facts.vhost_starters = [vec![main], vec![backup]]);
    assert_eq!(find(unit(true), unit(true)), []);
    assert_eq!(
        find(StartedBy::Scope("session-3.scope".into()), unit(false)),
        [("vhost-without-unit", Severity::Warning), ("vhost-not-enabled", Severity::Warning)]
    );
    assert_eq!(with(|facts| facts.is_agent_running = Some(true)), []);
    assert_eq!(
        with(|facts| facts.is_agent_running = Some(false)),
        [("agent-not-running", Severity::Problem)]
    );
}

#[test]
fn check_reports_balancer_states() {
    assert_eq!(with(|facts| facts.balancers = vec![None]), [("balancer-not-read", Severity::Warning)]);
    let unread = with(|facts| facts.balancers = vec![Some(Err(ObservationError::new("refused")))]);
    assert_eq!(unread, [("balancer-unreadable", Severity::Problem)]);
    let servers = |change: fn(&mut Vec<ServerView>)| with(|facts| change_servers(facts, change));
    assert_eq!(
        servers(|all| all[0].admin_state = Some(AdminState(0x41))),
        [("admin-state", Severity::Warning)]
    );
    assert_eq!(servers(|all| all[1].name = "other".into()), [("no-server", Severity::Problem)]);
    assert_eq!(servers(|all| all.truncate(2)), [("floor-never-met", Severity::Warning)]);
}

#[test]
fn server_that_is_down_without_a_reason_is_a_problem() {
    let find = |name: &str, state, record: fn(&mut CheckFacts)| {
        with(|facts| {
            record(facts);
            if let Some(Some(Ok(view))) = facts.balancers.first_mut() {
                let mut servers = view.servers().to_vec();
                let at = servers.iter().position(|server| server.name == name).unwrap();
                servers[at] = ServerView { last_check: "L7STS/404".into(), ..server(name, state) };
                *view = BackendView::new(servers);
            }
        })
    };
    let on: fn(&mut CheckFacts) = |_| {};
    let off: fn(&mut CheckFacts) = |facts| facts.records = Ok(vec![recorded(Switch::Off)]);
    let private: fn(&mut CheckFacts) =
        |facts| facts.records.as_mut().unwrap()[0].access = crate::model::deployment::Access::Private;
    for state in [ServerState::Down, ServerState::Stopping] {
        assert_eq!(find("main-web1", state, on), [("main-down", Severity::Problem)]);
        assert_eq!(find("main-web1", state, off), []);
        assert_eq!(find("main-web1", state, private), [("service-private", Severity::Note)]);
        assert_eq!(find("backup-web1", state, on), [("backup-not-up", Severity::Problem)]);
        assert_eq!(find("backup-web1", state, off), [("backup-not-up", Severity::Problem)]);
    }
    // Its checks pass again.
    assert_eq!(find("main-web1", ServerState::GoingUp, on), []);
}

#[test]
fn fixes_are_in_the_words_of_the_firewall_in_use() {
    for (chain, opening) in [
        ("ufw-before-input", "`ufw allow 8080/tcp`, for the load balancers"),
        (
            "INPUT_ZONES",
            "`firewall-cmd --permanent --add-port=8080/tcp && firewall-cmd --reload`, for the load balancers",
        ),
        ("other", "`iptables -I INPUT -p tcp --dport 8080 -j ACCEPT`, for the load balancers"),
    ] {
        let filter = make_table(&[("INPUT", Some("DROP")), (chain, None)], &[]);
        let facts = CheckFacts { filters: vec![(Family::V4, Ok(filter))], ..good() };
        let all = collect_findings(&fleet(), &facts);
        let hidden = all.iter().find(|finding| finding.id == "input-hides-port").unwrap();
        assert_eq!(hidden.fix, opening);
    }
}

#[test]
fn client_ports_over_the_instance_ports_are_a_warning() {
    let find = |range, reserved| {
        with(|facts| facts.client_ports = crate::model::ports::ClientPorts::parse(range, reserved))
    };
    assert_eq!(find("1024\t65535\n", "\n"), [("client-ports-overlap", Severity::Warning)]);
    assert_eq!(find("32768\t60999\n", "\n"), []);
    assert_eq!(find("1024\t65535\n", "8080,20000-29999\n"), []);
}
