//! How the kernel's rules differ from the desired ones, in words: what a repair says it has mended.

use std::collections::BTreeMap;

use super::{anchor, hooks, is_jump, plan, read, stale_jumps, sweep, variant, written};
use crate::model::name::ServiceName;
use crate::model::rules::{CHAIN, Desired, Family, Redirect, Rule, Table, Tables, Variant};

/// One difference, of one service or of all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    service: Option<ServiceName>,
    what: String,
}

/// What differs, families with the same difference together; for each service that is touched by it, as one text.
pub fn drift<'a>(
    desired: &Desired,
    observed: &[(Family, Tables)],
    services: impl IntoIterator<Item = &'a ServiceName>,
) -> Vec<(ServiceName, String)> {
    let mut all: BTreeMap<Difference, Vec<String>> = BTreeMap::new();
    for (family, tables) in observed {
        for difference in differences(desired, tables, *family) {
            all.entry(difference).or_default().push(family.to_string());
        }
    }
    let text = |service: &ServiceName| {
        let touched = all
            .iter()
            .filter(|(difference, _)| difference.service.as_ref().is_none_or(|touched| touched == service));
        touched
            .map(|(difference, families)| format!("{} ({})", difference.what, families.join(", ")))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let texts = services.into_iter().map(|service| (service.clone(), text(service)));
    texts.filter(|(_, text)| !text.is_empty()).collect()
}

fn differences(desired: &Desired, tables: &Tables, family: Family) -> Vec<Difference> {
    let chosen = variant(tables);
    let empty = Table::default();
    let table = tables.of(chosen).unwrap_or(&empty);
    let mut all = Vec::new();
    if table.chains.contains_key(CHAIN) {
        all.extend(in_our_chain(desired, table));
    } else {
        all.push(of_all(format!("the chain {CHAIN} was gone")));
    }
    for jump in hooks(desired.from_self).iter().filter(|jump| !table.rules.contains(jump)) {
        all.push(of_all(format!("the jump from {} was gone", jump.chain)));
    }
    for jump in stale_jumps(desired, table) {
        all.push(of_all(format!("a jump from {} was there that is not wanted", jump.chain)));
    }
    let other = if chosen == Variant::NfTables { Variant::Legacy } else { Variant::NfTables };
    if tables.of(other).and_then(sweep).is_some() {
        all.push(of_all(format!("rules of ours were left in {other}")));
    }
    if all.is_empty() && !plan(desired, tables, family).is_empty() {
        all.push(of_all("the rules of the chain were in another order, or doubled".to_owned()));
    }
    all
}

fn in_our_chain(desired: &Desired, table: &Table) -> Vec<Difference> {
    let of = |redirect: &Redirect, what: &str| Difference {
        service: Some(redirect.service.clone()),
        what: format!("the {} {} -> {} was {what}", redirect.kind.as_str(), redirect.port, redirect.target),
    };
    let holds = |rule: &Rule| table.in_chain(CHAIN).any(|other| other == rule);
    let mut all = Vec::new();
    for redirect in desired.redirects.iter().filter(|redirect| !holds(&written(redirect))) {
        all.push(of(redirect, "gone"));
    }
    if !holds(&anchor()) {
        all.push(of_all("the anchor was gone".to_owned()));
    }
    for rule in table.in_chain(CHAIN).filter(|rule| **rule != anchor() && !is_jump(rule)) {
        match read(rule) {
            Some(redirect) if desired.redirects.contains(&redirect) => {}
            Some(redirect) => all.push(of(&redirect, "there against the record")),
            None => all.push(of_all(format!("a rule that is not ours was in the chain: `{rule}`"))),
        }
    }
    all
}

fn of_all(what: String) -> Difference {
    Difference { service: None, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example::port;
    use crate::model::rules::{Kind, Transaction};

    fn redirect(service: &str, check: u16) -> Redirect {
        Redirect {
            service: service.parse().unwrap(),
            kind: Kind::Forward,
            port: port(check),
            target: port(8080),
        }
    }

    fn healthy(desired: &Desired) -> Tables {
        let mut table = Table::empty_nat();
        let tables = |table| Tables { default: Variant::NfTables, nf_tables: Some(table), legacy: None };
        for step in plan(desired, &tables(table.clone()), Family::V4) {
            table.restore(&step).unwrap();
        }
        tables(table)
    }

    /// What `change` does to a healthy kernel, for `blog` and for `shop`.
    fn told(change: impl Fn(&mut Table)) -> Vec<String> {
        let desired =
            Desired { redirects: [redirect("blog", 9888), redirect("shop", 8888)].into(), from_self: false };
        let mut tables = healthy(&desired);
        assert_eq!(drift(&desired, &[(Family::V4, tables.clone())], &["blog".parse().unwrap()]), []);
        change(tables.nf_tables.as_mut().unwrap());
        let observed = [(Family::V4, tables.clone()), (Family::V6, tables)];
        let services = ["blog", "shop"].map(|name| name.parse().unwrap());
        let texts = drift(&desired, &observed, &services);
        texts.into_iter().map(|(service, text)| format!("{service}: {text}")).collect()
    }

    #[test]
    fn each_difference_is_told_to_whom_it_touches() {
        let all = |text: &str| vec![format!("blog: {text}"), format!("shop: {text}")];
        let restore = |table: &mut Table, line: &str| {
            let text = format!("*nat\n{line}\nCOMMIT\n");
            table.restore(&Transaction { family: Family::V4, variant: Variant::NfTables, text }).unwrap();
        };
        let flushed = |table: &mut Table| *table = Table::empty_nat();
        let gone =
            "the chain SWITCHMAN was gone (IPv4, IPv6); the jump from PREROUTING was gone (IPv4, IPv6)";
        assert_eq!(told(flushed), all(gone));
        let unhooked = |table: &mut Table| table.rules.retain(|rule| rule.chain != "PREROUTING");
        assert_eq!(told(unhooked), all("the jump from PREROUTING was gone (IPv4, IPv6)"));
        let one = |table: &mut Table| table.rules.retain(|rule| rule.value("--dport") != Some("8888"));
        assert_eq!(told(one), ["shop: the forward 8888 -> 8080 was gone (IPv4, IPv6)"]);
        let theirs = |table: &mut Table| restore(table, "-A SWITCHMAN -p udp -j ACCEPT");
        let text = "a rule that is not ours was in the chain: `-A SWITCHMAN -p udp -j ACCEPT` (IPv4, IPv6)";
        assert_eq!(told(theirs), all(text));
        let turned = |table: &mut Table| table.rules.reverse();
        assert_eq!(
            told(turned),
            all("the rules of the chain were in another order, or doubled (IPv4, IPv6)")
        );
        let stranger = |table: &mut Table| restore(table, "-A PREROUTING -p udp -j ACCEPT");
        assert_eq!(told(stranger), Vec::<String>::new());
    }

    #[test]
    fn a_forward_that_somebody_switched_on_is_told() {
        let on = Desired { redirects: [redirect("shop", 8888)].into(), from_self: false };
        let observed = [(Family::V4, healthy(&on))];
        let texts = drift(&Desired::default(), &observed, &["shop".parse().unwrap()]);
        assert_eq!(texts[0].1, "the forward 8888 -> 8080 was there against the record (IPv4)");
    }
}
