//! How the kernel's rules differ from the desired ones, in words: the text that a repair reports.

use std::collections::BTreeMap;

use super::{
    build_anchor_rule, build_jump_rules, build_redirect_rule, build_removal, choose_variant,
    find_stale_jumps, is_jump, parse_redirect, plan_transactions,
};
use crate::model::name::ServiceName;
use crate::model::rules::{CHAIN, DesiredRules, Family, Redirect, Rule, Table, Tables, Variant};

/// A difference that concerns one service or all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    service: Option<ServiceName>,
    description: String,
}

/// Describes the differences, families with the same difference together; for each service concerned, as one text.
pub fn describe_drift<'a>(
    desired: &DesiredRules,
    observed: &[(Family, Tables)],
    services: impl IntoIterator<Item = &'a ServiceName>,
) -> Vec<(ServiceName, String)> {
    let mut all: BTreeMap<Difference, Vec<String>> = BTreeMap::new();
    for (family, tables) in observed {
        for difference in find_differences(desired, tables, *family) {
            all.entry(difference).or_default().push(family.to_string());
        }
    }
    let text = |service: &ServiceName| {
        let touched = all
            .iter()
            .filter(|(difference, _)| difference.service.as_ref().is_none_or(|touched| touched == service));
        touched
            .map(|(difference, families)| format!("{} ({})", difference.description, families.join(", ")))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let texts = services.into_iter().map(|service| (service.clone(), text(service)));
    texts.filter(|(_, text)| !text.is_empty()).collect()
}

fn find_differences(desired: &DesiredRules, tables: &Tables, family: Family) -> Vec<Difference> {
    let chosen = choose_variant(tables);
    let empty = Table::default();
    let table = tables.of(chosen).unwrap_or(&empty);
    let mut all = Vec::new();
    if table.chains.contains_key(CHAIN) {
        all.extend(compare_chain(desired, table));
    } else {
        all.push(build_general_difference(format!("the chain {CHAIN} was missing")));
    }
    for jump in build_jump_rules(desired.balancer_is_local).iter().filter(|jump| !table.rules.contains(jump))
    {
        all.push(build_general_difference(format!("the jump from {} was missing", jump.chain)));
    }
    for jump in find_stale_jumps(desired, table) {
        all.push(build_general_difference(format!(
            "a jump from {} was there that is not wanted",
            jump.chain
        )));
    }
    let other = if chosen == Variant::NfTables { Variant::Legacy } else { Variant::NfTables };
    if tables.of(other).and_then(build_removal).is_some() {
        all.push(build_general_difference(format!("rules of ours were left in {other}")));
    }
    if all.is_empty() && !plan_transactions(desired, tables, family).is_empty() {
        all.push(build_general_difference(
            "the rules of the chain were in another order, or doubled".to_owned(),
        ));
    }
    all
}

fn compare_chain(desired: &DesiredRules, table: &Table) -> Vec<Difference> {
    let of = |redirect: &Redirect, state: &str| {
        let Redirect { service, kind, port, one_in, target } = redirect;
        let share = if *one_in == 1 { String::new() } else { format!(" of one in {one_in} connections") };
        let description = format!("the {} {port} -> {target}{share} was {state}", kind.as_str());
        Difference { service: Some(service.clone()), description }
    };
    let holds = |rule: &Rule| table.rules_in_chain(CHAIN).any(|other| other == rule);
    let mut all = Vec::new();
    for redirect in desired.redirects.iter().filter(|redirect| !holds(&build_redirect_rule(redirect))) {
        all.push(of(redirect, "missing"));
    }
    if !holds(&build_anchor_rule()) {
        all.push(build_general_difference("the anchor was missing".to_owned()));
    }
    for rule in table.rules_in_chain(CHAIN).filter(|rule| **rule != build_anchor_rule() && !is_jump(rule)) {
        match parse_redirect(rule) {
            Some(redirect) if desired.redirects.contains(&redirect) => {}
            Some(redirect) => all.push(of(&redirect, "there against the record")),
            None => all.push(build_general_difference(format!(
                "a rule that is not ours was in the chain: `{rule}`"
            ))),
        }
    }
    all
}

fn build_general_difference(description: String) -> Difference {
    Difference { service: None, description }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example::port;
    use crate::model::rules::{RedirectKind, Transaction};

    fn make_redirect(service: &str, check: u16) -> Redirect {
        Redirect {
            service: service.parse().unwrap(),
            kind: RedirectKind::Forward,
            port: port(check),
            one_in: 1,
            target: port(8080),
        }
    }

    fn make_healthy_tables(desired: &DesiredRules) -> Tables {
        let mut table = Table::empty_nat();
        let tables = |table| Tables { default: Variant::NfTables, nf_tables: Some(table), legacy: None };
        for step in plan_transactions(desired, &tables(table.clone()), Family::V4) {
            table.apply_transaction(&step).unwrap();
        }
        tables(table)
    }

    /// Describes what `change` does to a healthy kernel, for `blog` and for `shop`.
    fn describe_drift_after(change: impl Fn(&mut Table)) -> Vec<String> {
        let desired = DesiredRules {
            redirects: [make_redirect("blog", 9888), make_redirect("shop", 8888)].into(),
            balancer_is_local: false,
        };
        let mut tables = make_healthy_tables(&desired);
        assert_eq!(describe_drift(&desired, &[(Family::V4, tables.clone())], &["blog".parse().unwrap()]), []);
        change(tables.nf_tables.as_mut().unwrap());
        let observed = [(Family::V4, tables.clone()), (Family::V6, tables)];
        let services = ["blog", "shop"].map(|name| name.parse().unwrap());
        let texts = describe_drift(&desired, &observed, &services);
        texts.into_iter().map(|(service, text)| format!("{service}: {text}")).collect()
    }

    #[test]
    fn drift_is_reported_per_affected_service() {
        let all = |text: &str| vec![format!("blog: {text}"), format!("shop: {text}")];
        let restore = |table: &mut Table, line: &str| {
            let text = format!("*nat\n{line}\nCOMMIT\n");
            table
                .apply_transaction(&Transaction { family: Family::V4, variant: Variant::NfTables, text })
                .unwrap();
        };
        let flushed = |table: &mut Table| *table = Table::empty_nat();
        let flushed_text =
            "the chain SWITCHMAN was missing (IPv4, IPv6); the jump from PREROUTING was missing (IPv4, IPv6)";
        assert_eq!(describe_drift_after(flushed), all(flushed_text));
        let unhooked = |table: &mut Table| table.rules.retain(|rule| rule.chain != "PREROUTING");
        assert_eq!(describe_drift_after(unhooked), all("the jump from PREROUTING was missing (IPv4, IPv6)"));
        let one = |table: &mut Table| table.rules.retain(|rule| rule.option_value("--dport") != Some("8888"));
        assert_eq!(describe_drift_after(one), ["shop: the forward 8888 -> 8080 was missing (IPv4, IPv6)"]);
        let theirs = |table: &mut Table| restore(table, "-A SWITCHMAN -p udp -j ACCEPT");
        let text = "a rule that is not ours was in the chain: `-A SWITCHMAN -p udp -j ACCEPT` (IPv4, IPv6)";
        assert_eq!(describe_drift_after(theirs), all(text));
        let turned = |table: &mut Table| table.rules.reverse();
        assert_eq!(
            describe_drift_after(turned),
            all("the rules of the chain were in another order, or doubled (IPv4, IPv6)")
        );
        let stranger = |table: &mut Table| restore(table, "-A PREROUTING -p udp -j ACCEPT");
        assert_eq!(describe_drift_after(stranger), Vec::<String>::new());
    }

    #[test]
    fn drift_reports_a_foreign_forward() {
        let on = DesiredRules { redirects: [make_redirect("shop", 8888)].into(), balancer_is_local: false };
        let observed = [(Family::V4, make_healthy_tables(&on))];
        let texts = describe_drift(&DesiredRules::default(), &observed, &["shop".parse().unwrap()]);
        assert_eq!(texts[0].1, "the forward 8888 -> 8080 was there against the record (IPv4)");
    }
}
