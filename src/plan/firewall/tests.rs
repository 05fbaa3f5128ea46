use proptest::prelude::*;

use super::*;
use crate::model::example::{make_record, port};
use crate::model::forward::{Route, Routes};
use crate::model::proxy::{Layer7, ProxyPlacement};

fn forward(service: &str, check: u16, target: u16) -> Forward {
    Forward { service: service.parse().unwrap(), check: port(check), target: port(target) }
}

/// The forward of the shop, alone.
fn shop_on(from_self: bool) -> DesiredRules {
    wanting(&[forward("shop", 8888, 8080)], from_self)
}

fn wanting(forwards: &[Forward], from_self: bool) -> DesiredRules {
    DesiredRules {
        redirects: forwards.iter().map(|forward| redirect(forward, RedirectKind::Forward)).collect(),
        balancer_is_local: from_self,
    }
}

fn redirect(forward: &Forward, kind: RedirectKind) -> Redirect {
    let Forward { service, check, target } = forward.clone();
    Redirect { service, kind, port: check, one_in: 1, target }
}

fn only_nft(table: Table) -> Tables {
    Tables { default: Variant::NfTables, nf_tables: Some(table), legacy: None }
}

fn apply(tables: &mut Tables, transactions: &[Transaction]) {
    for transaction in transactions {
        let table = match transaction.variant {
            Variant::NfTables => tables.nf_tables.get_or_insert_with(Table::empty_nat),
            Variant::Legacy => tables.legacy.get_or_insert_with(Table::empty_nat),
        };
        table.apply_transaction(transaction).unwrap();
    }
}

fn settle(tables: &mut Tables, wanted: &DesiredRules) {
    let steps = plan_transactions(wanted, tables, Family::V4);
    apply(tables, &steps);
}

#[test]
fn enable_on_fresh_host_is_one_transaction() {
    let tables = only_nft(Table::empty_nat());
    let plan = plan_transactions(&shop_on(false), &tables, Family::V4);
    assert_eq!(plan.len(), 1);
    assert_eq!(
        plan[0].text,
        "*nat\n\
         :SWITCHMAN - [0:0]\n\
         -A SWITCHMAN -m conntrack --ctstate NEW -m comment --comment \"switchman:anchor\"\n\
         -A SWITCHMAN -p tcp -m tcp --dport 8888 -m comment --comment \"switchman:shop:forward\" -j REDIRECT --to-ports 8080\n\
         -I PREROUTING 1 -m addrtype --dst-type LOCAL -m comment --comment \"switchman:jump\" -j SWITCHMAN\n\
         COMMIT\n"
    );
}

#[test]
fn maintenance_keeps_chain_anchor_and_jump() {
    let mut tables = only_nft(Table::empty_nat());
    settle(&mut tables, &shop_on(false));
    let off = plan_transactions(&wanting(&[], false), &tables, Family::V4);
    assert_eq!(
        off[0].text,
        "*nat\n:SWITCHMAN - [0:0]\n-A SWITCHMAN -m conntrack --ctstate NEW -m comment --comment \"switchman:anchor\"\nCOMMIT\n"
    );
    apply(&mut tables, &off);
    let table = tables.nf_tables.unwrap();
    assert_eq!(read_forwards(&table), []);
    assert!(is_hooked(&table, false));
    assert_eq!(table.rules.len(), 2);
}

#[test]
fn unrecorded_forward_is_kept() {
    let mut tables = only_nft(Table::empty_nat());
    let both = [forward("blog", 9888, 9080), forward("shop", 8888, 8080)];
    settle(&mut tables, &wanting(&both, false));
    let shop_off = make_record("shop", Switch::Off);
    let desired = build_desired_rules(&[shop_off], tables.nf_tables.as_ref());
    assert_eq!(desired.redirects, BTreeSet::from([redirect(&both[0], RedirectKind::Forward)]));
}

/// Main has three instances, of which some get no connection.
fn with_instances(unhealthy: &[u16]) -> ServiceRecord {
    let mut record = managed();
    let routes = record.routes.as_mut().unwrap();
    routes.main.more_targets = vec![port(20002), port(20003)];
    routes.unhealthy = unhealthy.iter().map(|at| port(*at)).collect();
    record
}

#[test]
fn connections_are_spread_over_healthy_instances() {
    let targets = |unhealthy: &[u16]| {
        let desired = build_desired_rules(&[with_instances(unhealthy)], []);
        let of_main = desired.redirects.into_iter().filter(|one| one.kind == RedirectKind::Route);
        of_main.map(|one| (one.one_in, one.target.get())).collect::<Vec<_>>()
    };
    assert_eq!(targets(&[]), [(3, 20003), (2, 20002), (1, 20001)]);
    assert_eq!(targets(&[20002]), [(2, 20003), (1, 20001)]);
    assert_eq!(targets(&[20001, 20003]), [(1, 20002)]);
    assert_eq!(targets(&[20001, 20002, 20003]).len(), 3, "no port leads nowhere because a check is wrong");
}

#[test]
fn spread_rules_are_read_back_as_they_were_written() {
    let desired = build_desired_rules(&[with_instances(&[])], []);
    let mut table = Table::empty_nat();
    for step in plan_transactions(&desired, &only_nft(table.clone()), Family::V4) {
        table.apply_transaction(&step).unwrap();
    }
    assert!(plan_transactions(&desired, &only_nft(table.clone()), Family::V4).is_empty());
    assert_eq!(read_redirects(&table).into_iter().collect::<BTreeSet<_>>(), desired.redirects);
    assert_eq!(read_forwards(&table), [forward("shop", 8888, 20001)]);
}

fn managed() -> ServiceRecord {
    let leg = |at: u16, id: &str, target: u16| Route::new(port(at), id.parse().unwrap(), port(target));
    let (main, backup) = (leg(8080, "dp_0000000002", 20001), leg(80, "dp_0000000001", 20000));
    ServiceRecord {
        forward: forward("shop", 8888, 20001),
        routes: Some(Routes::new(main, backup)),
        ..make_record("shop", Switch::On)
    }
}

#[test]
fn managed_service_keeps_routes_in_maintenance_but_not_when_private() {
    let kinds = |record: ServiceRecord| -> Vec<(RedirectKind, u16, u16)> {
        let asked = build_desired_rules(&[record], None).redirects;
        asked.iter().map(|one| (one.kind, one.port.get(), one.target.get())).collect()
    };
    let routes = [(RedirectKind::Route, 8080, 20001), (RedirectKind::Backup, 80, 20000)];
    assert_eq!(kinds(managed()), [&[(RedirectKind::Forward, 8888, 20001)][..], &routes].concat());
    assert_eq!(kinds(ServiceRecord { switch: Switch::Off, ..managed() }), routes);
    assert_eq!(kinds(ServiceRecord { access: Access::Private, ..managed() }), []);
    let layer7 = |inserted| Layer7 {
        place: Some(ProxyPlacement { port: port(29999), inserted }),
        ..Layer7::default()
    };
    // Checks go where requests go; the backup vhost does not depend on the proxy.
    let through = [
        (RedirectKind::Forward, 8888, 29999),
        (RedirectKind::Route, 8080, 29999),
        (RedirectKind::Backup, 80, 20000),
    ];
    assert_eq!(kinds(ServiceRecord { layer7: layer7(true), ..managed() }), through);
    assert_eq!(kinds(ServiceRecord { layer7: layer7(false), ..managed() }).len(), 3);
    assert_eq!(kinds(ServiceRecord { layer7: layer7(false), ..managed() }), kinds(managed()));
}

#[test]
fn own_rules_in_the_unused_variant_are_removed() {
    let wanted = shop_on(false);
    let mut tables = Tables { default: Variant::Legacy, nf_tables: None, legacy: Some(Table::empty_nat()) };
    settle(&mut tables, &wanted);
    tables.default = Variant::NfTables;
    tables.nf_tables = Some(Table::empty_nat());
    assert_eq!(choose_variant(&tables), Variant::Legacy, "our chain stays where it is");

    tables.nf_tables.as_mut().unwrap().chains.insert(CHAIN.into(), None);
    assert_eq!(choose_variant(&tables), Variant::NfTables, "in both: what `iptables` runs");
    let steps = plan_transactions(&wanted, &tables, Family::V4);
    assert_eq!(
        steps.iter().map(|step| step.variant).collect::<Vec<_>>(),
        [Variant::NfTables, Variant::Legacy]
    );
    apply(&mut tables, &steps);
    assert_eq!(tables.legacy, Some(Table::empty_nat()));
    assert_eq!(plan_transactions(&wanted, &tables, Family::V4), []);
}

#[test]
fn duplicate_and_altered_jumps_are_repaired() {
    let wanted = shop_on(true);
    let mut tables = only_nft(Table::empty_nat());
    settle(&mut tables, &wanted);
    let table = tables.nf_tables.as_mut().unwrap();
    let jump = table.rules_in_chain("PREROUTING").next().unwrap().clone();
    table.rules.push(jump);
    let altered = r#"-A OUTPUT -p tcp -m comment --comment "switchman:jump" -j SWITCHMAN"#;
    table.rules.push(Rule::parse(altered).unwrap());
    settle(&mut tables, &wanted);
    let table = tables.nf_tables.as_ref().unwrap();
    assert_eq!((table.rules_in_chain("PREROUTING").count(), table.rules_in_chain("OUTPUT").count()), (1, 1));
}

fn any_redirects() -> impl Strategy<Value = BTreeSet<Redirect>> {
    let kind =
        prop_oneof![Just(RedirectKind::Forward), Just(RedirectKind::Route), Just(RedirectKind::Backup)];
    let one = ("[a-d]", 1u16..=65535, 1u16..=65535, kind);
    let one = one.prop_map(|(name, check, target, kind)| redirect(&forward(&name, check, target), kind));
    proptest::collection::btree_set(one, 0..6)
}

fn redirects_of(table: &Table) -> BTreeSet<Redirect> {
    read_redirects(table).into_iter().collect()
}

/// A rule as any program might have added it: in a built-in chain, in a chain of theirs, or in ours.
fn any_rule() -> impl Strategy<Value = Rule> {
    let chain = prop_oneof!["PREROUTING", "OUTPUT", "POSTROUTING", "DOCKER", CHAIN];
    let words = prop_oneof![
        Just("-p tcp -m tcp --dport 8888 -j REDIRECT --to-ports 80".to_owned()),
        Just("-m addrtype --dst-type LOCAL -j DOCKER".to_owned()),
        Just("-m comment --comment \"switchman:jump\" -j SWITCHMAN".to_owned()),
        Just("-m comment --comment \"switchman:a:forward\" -j RETURN".to_owned()),
        Just("-j SWITCHMAN".to_owned()),
        "-m comment --comment \"[ -!#-\\[\\]-~]{0,20}\" -j ACCEPT",
    ];
    (chain, words).prop_filter_map("a chain does not jump to itself", |(chain, words)| {
        let rule = Rule::parse(&format!("-A {chain} {words}"))?;
        (rule.option_value("-j") != Some(rule.chain.as_str())).then_some(rule)
    })
}

fn any_table() -> impl Strategy<Value = Table> {
    (proptest::collection::vec(any_rule(), 0..6), any::<bool>()).prop_map(|(rules, chain)| {
        let mut table = Table::empty_nat();
        table.chains.insert("DOCKER".into(), None);
        let needs_ours =
            rules.iter().any(|rule| rule.chain == CHAIN || rule.option_value("-j") == Some(CHAIN));
        if chain || needs_ours {
            table.chains.insert(CHAIN.into(), None);
        }
        table.rules = rules;
        table
    })
}

fn any_tables() -> impl Strategy<Value = Tables> {
    let default = prop_oneof![Just(Variant::NfTables), Just(Variant::Legacy)];
    (default, proptest::option::of(any_table()), proptest::option::of(any_table()))
        .prop_map(|(default, nf_tables, legacy)| Tables { default, nf_tables, legacy })
}

/// The rules of others, by variant.
fn strangers(tables: &Tables) -> [Vec<Rule>; 2] {
    [&tables.nf_tables, &tables.legacy].map(|table| {
        let rules = table.as_ref().map(|table| table.rules.clone()).unwrap_or_default();
        rules.into_iter().filter(|rule| rule.chain != CHAIN && !is_jump(rule)).collect()
    })
}

proptest! {
    #[test]
    fn plan_reaches_desired_rules_and_is_idempotent(
        redirects in any_redirects(), balancer_is_local in any::<bool>(), mut tables in any_tables(),
    ) {
        let wanted = DesiredRules { redirects, balancer_is_local };
        settle(&mut tables, &wanted);
        let table = tables.of(choose_variant(&tables)).unwrap();
        prop_assert_eq!(redirects_of(table), wanted.redirects.clone());
        prop_assert!(is_hooked(table, balancer_is_local));
        prop_assert_eq!(plan_transactions(&wanted, &tables, Family::V4), []);
    }

    #[test]
    fn foreign_rules_are_never_planned(
        redirects in any_redirects(), balancer_is_local in any::<bool>(), mut tables in any_tables(),
    ) {
        let before = strangers(&tables);
        let steps = plan_transactions(&DesiredRules { redirects, balancer_is_local }, &tables, Family::V4);
        for line in steps.iter().flat_map(|step| step.text.lines()) {
            let ours = matches!(line, "*nat" | "COMMIT") || line.contains(CHAIN);
            prop_assert!(ours, "{}", line);
        }
        apply(&mut tables, &steps);
        prop_assert_eq!(before, strangers(&tables));
    }
}

#[test]
fn new_routes_are_those_that_the_kernel_does_not_redirect() {
    let route = |port_number| redirect(&forward("shop", port_number, 20000), RedirectKind::Route);
    let mut wanted = shop_on(false);
    let mut tables = only_nft(Table::empty_nat());
    assert_eq!(find_new_routes(&wanted, &tables), BTreeSet::new(), "the check port has no users");
    wanted.redirects.extend([route(8080), redirect(&forward("shop", 80, 20000), RedirectKind::Backup)]);
    let both = BTreeSet::from([port(8080), port(80)]);
    assert_eq!(find_new_routes(&wanted, &tables), both);
    // Tracking begins without a redirect.
    let begin = plan_tracking(&wanted, &tables, Family::V4);
    let text = &begin.as_ref().unwrap().text;
    assert!(text.contains("ctstate NEW") && !text.contains("REDIRECT"), "{text}");
    apply(&mut tables, begin.as_slice());
    assert_eq!(
        (plan_tracking(&wanted, &tables, Family::V4), find_new_routes(&wanted, &tables)),
        (None, both.clone())
    );
    settle(&mut tables, &wanted);
    assert_eq!(find_new_routes(&wanted, &tables), BTreeSet::new());
    // Another target is no new route.
    wanted.redirects.remove(&route(8080));
    wanted.redirects.insert(redirect(&forward("shop", 8080, 20001), RedirectKind::Route));
    assert_eq!(find_new_routes(&wanted, &tables), BTreeSet::new());
    // A jump for checks from this host is missing: what is live through the other one stays.
    let local = DesiredRules { balancer_is_local: true, ..wanted.clone() };
    let begin = plan_tracking(&local, &tables, Family::V4).unwrap().text;
    for rule in ["--dport 8888", "--dport 8080", "--dport 80 ", "-I OUTPUT 1"] {
        assert!(begin.contains(rule), "{rule}: {begin}");
    }
    // Without the jump no redirect is in force.
    tables.nf_tables.as_mut().unwrap().rules.retain(|rule| rule.chain == CHAIN);
    assert_eq!(find_new_routes(&wanted, &tables), both);
}
