//! Desired and observed rules -> transactions.
//!
//! Our chain is declared whole and swapped in one transaction; the jump into it is added only where it is missing.
//! Nothing that is not ours is ever named by a transaction.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::model::deployment::Access;
use crate::model::forward::ServiceRecord;
use crate::model::name::ServiceName;
use crate::model::port_forward::{Forward, Switch};
use crate::model::ports::Port;
use crate::model::rules::{
    ANCHOR_COMMENT, CHAIN, DesiredRules, Family, JUMP_COMMENT, Redirect, RedirectKind, Rule, Table, Tables,
    Transaction, Variant, build_jump_rule,
};

pub mod drift;

/// Builds the rules that the records require. A redirect in our chain whose service is not recorded (a lost state directory) is
/// kept: taking it away would put a service into maintenance that no command named.
pub fn build_desired_rules<'a>(
    recorded: &[ServiceRecord],
    observed: impl IntoIterator<Item = &'a Table>,
) -> DesiredRules {
    let known: BTreeSet<&ServiceName> = recorded.iter().map(|record| &record.forward.service).collect();
    let unrecorded =
        observed.into_iter().flat_map(read_redirects).filter(|redirect| !known.contains(&redirect.service));
    DesiredRules {
        redirects: recorded.iter().flat_map(build_redirects).chain(unrecorded).collect(),
        balancer_is_local: recorded.iter().any(|record| record.balancer_is_local),
    }
}

/// The redirects of one record. A private service has none: no rule routes to it from outside.
fn build_redirects(record: &ServiceRecord) -> Vec<Redirect> {
    if record.access == Access::Private {
        return vec![];
    }
    let Forward { service, check, .. } = &record.forward;
    let mut redirects = Vec::new();
    // Checks go where requests go: a proxy that does not answer is a host that is DOWN.
    let main = record.check_targets();
    if record.switch == Switch::On {
        redirects.extend(Redirect::spread(service, RedirectKind::Forward, *check, &main));
    }
    if let Some(routes) = &record.routes {
        redirects.extend(Redirect::spread(service, RedirectKind::Route, routes.main.port, &main));
        let backup = routes.healthy_targets(&routes.backup);
        redirects.extend(Redirect::spread(service, RedirectKind::Backup, routes.backup.port, &backup));
    }
    redirects
}

/// Which variant our rules belong in: where our chain already is, else where any program's rules are; where that decides
/// nothing, what the command `iptables` runs.
pub fn choose_variant(tables: &Tables) -> Variant {
    let only_one = |test: fn(&Table) -> bool| {
        let holds = |table: Option<&Table>| table.is_some_and(test);
        match (holds(tables.nf_tables.as_ref()), holds(tables.legacy.as_ref())) {
            (true, false) => Some(Variant::NfTables),
            (false, true) => Some(Variant::Legacy),
            (true, true) => Some(tables.default),
            (false, false) => None,
        }
    };
    only_one(|table| table.chains.contains_key(CHAIN))
        .or_else(|| only_one(Table::has_rules))
        .unwrap_or(tables.default)
}

/// The transactions that bring one family to the desired rules; none when it is already so. More than one only when
/// rules of ours remain in the variant that is not in use.
pub fn plan_transactions(desired: &DesiredRules, tables: &Tables, family: Family) -> Vec<Transaction> {
    let chosen = choose_variant(tables);
    let other = match chosen {
        Variant::NfTables => Variant::Legacy,
        Variant::Legacy => Variant::NfTables,
    };
    let empty = Table::default();
    let declare = build_declaration(desired, tables.of(chosen).unwrap_or(&empty));
    let sweep = tables.of(other).and_then(build_removal);
    let transaction = |variant, text| Transaction { family, variant, text };
    declare
        .map(|text| transaction(chosen, text))
        .into_iter()
        .chain(sweep.map(|text| transaction(other, text)))
        .collect()
}

/// Reads the redirects that our chain holds now.
pub fn read_redirects(table: &Table) -> Vec<Redirect> {
    table.rules_in_chain(CHAIN).filter_map(parse_redirect).collect()
}

/// The forwards among it.
pub fn read_forwards(table: &Table) -> Vec<Forward> {
    read_redirects(table).iter().filter_map(Redirect::to_forward).collect()
}

/// Returns the data ports that the desired rules redirect in a family and the kernel does not redirect yet.
pub fn find_new_routes(desired: &DesiredRules, tables: &Tables) -> BTreeSet<Port> {
    let is_route = |redirect: &&Redirect| redirect.kind != RedirectKind::Forward;
    let table = tables.of(choose_variant(tables)).filter(|table| is_hooked(table, desired.balancer_is_local));
    let present = table.map(read_redirects).unwrap_or_default();
    let present: BTreeSet<Port> = present.iter().filter(is_route).map(|redirect| redirect.port).collect();
    let wanted = desired.redirects.iter().filter(is_route).map(|redirect| redirect.port);
    wanted.filter(|port| !present.contains(port)).collect()
}

/// Builds the transaction that makes our chain effective in a family, without a new redirect; `None` when it is effective. From
/// then on the kernel tracks connections. Redirects that a jump of ours reaches already stay.
pub fn plan_tracking(desired: &DesiredRules, tables: &Tables, family: Family) -> Option<Transaction> {
    let (variant, empty) = (choose_variant(tables), Table::default());
    let table = tables.of(variant).unwrap_or(&empty);
    if is_hooked(table, desired.balancer_is_local) {
        return None;
    }
    let is_live = table.rules.iter().any(|rule| rule.chain != CHAIN && is_jump(rule));
    let redirects = if is_live { read_redirects(table).into_iter().collect() } else { BTreeSet::new() };
    let present = DesiredRules { redirects, ..desired.clone() };
    build_declaration(&present, table).map(|text| Transaction { family, variant, text })
}

/// Whether the jump that makes our chain effective is there.
pub fn is_hooked(table: &Table, from_self: bool) -> bool {
    build_jump_rules(from_self).iter().all(|jump| table.rules.contains(jump))
}

fn build_declaration(desired: &DesiredRules, table: &Table) -> Option<String> {
    let rules: Vec<Rule> = std::iter::once(build_anchor_rule())
        .chain(desired.redirects.iter().map(build_redirect_rule))
        .collect();
    let (wanted, unwanted): (Vec<Rule>, Vec<Rule>) =
        (build_jump_rules(desired.balancer_is_local), find_stale_jumps(desired, table));
    let missing: Vec<Rule> = wanted.into_iter().filter(|jump| !table.rules.contains(jump)).collect();
    let same = table.rules_in_chain(CHAIN).eq(rules.iter());
    if same && missing.is_empty() && unwanted.is_empty() {
        return None;
    }
    let mut text = format!("*nat\n:{CHAIN} - [0:0]\n");
    for rule in &rules {
        let _ = writeln!(text, "{rule}");
    }
    for jump in &unwanted {
        let _ = writeln!(text, "{}", jump.to_string().replacen("-A", "-D", 1));
    }
    for jump in &missing {
        let first = format!("-I {} 1", jump.chain);
        let _ = writeln!(text, "{}", jump.to_string().replacen(&format!("-A {}", jump.chain), &first, 1));
    }
    text.push_str("COMMIT\n");
    Some(text)
}

/// Takes away all that is ours; `None` where nothing is.
fn build_removal(table: &Table) -> Option<String> {
    let jumps: Vec<&Rule> = table.rules.iter().filter(|rule| rule.chain != CHAIN && is_jump(rule)).collect();
    let has_foreign_jump =
        table.rules.iter().any(is_foreign_jump) && table.rules_in_chain(CHAIN).next().is_none();
    if jumps.is_empty() && (has_foreign_jump || !table.chains.contains_key(CHAIN)) {
        return None;
    }
    let mut text = String::from("*nat\n");
    for jump in jumps {
        let _ = writeln!(text, "{}", jump.to_string().replacen("-A", "-D", 1));
    }
    if table.chains.contains_key(CHAIN) {
        let _ = writeln!(text, "-F {CHAIN}");
    }
    if table.chains.contains_key(CHAIN) && !table.rules.iter().any(is_foreign_jump) {
        let _ = writeln!(text, "-X {CHAIN}");
    }
    text.push_str("COMMIT\n");
    Some(text)
}

/// A stranger's jump into our chain: the kernel refuses to delete a chain that is jumped to.
fn is_foreign_jump(rule: &Rule) -> bool {
    rule.chain != CHAIN
        && !is_jump(rule)
        && (rule.option_value("-j") == Some(CHAIN) || rule.option_value("-g") == Some(CHAIN))
}

fn is_jump(rule: &Rule) -> bool {
    rule.option_value("--comment") == Some(JUMP_COMMENT) && rule.option_value("-j") == Some(CHAIN)
}

/// Jumps of ours that are not wanted: doubled, changed by another program, or for checks from this host that no longer come.
fn find_stale_jumps(desired: &DesiredRules, table: &Table) -> Vec<Rule> {
    let mut wanted = build_jump_rules(desired.balancer_is_local);
    let ours = table.rules.iter().filter(|rule| rule.chain != CHAIN && is_jump(rule));
    ours.filter(|rule| match wanted.iter().position(|jump| jump == *rule) {
        Some(at) => {
            wanted.remove(at);
            false
        }
        None => true,
    })
    .cloned()
    .collect()
}

fn build_rule(chain: &str, words: &[&str]) -> Rule {
    Rule { chain: chain.to_owned(), words: words.iter().map(|word| (*word).to_owned()).collect() }
}

/// Builds the anchor, which does nothing with the packets it matches: its purpose is that the match needs connection tracking.
fn build_anchor_rule() -> Rule {
    build_rule(CHAIN, &["-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", ANCHOR_COMMENT])
}

fn build_jump_rules(from_self: bool) -> Vec<Rule> {
    let chains: &[&str] = if from_self { &["PREROUTING", "OUTPUT"] } else { &["PREROUTING"] };
    chains.iter().map(|chain| build_jump_rule(chain)).collect()
}

/// In the words `iptables-save` prints it with, so that what is read back compares equal.
fn build_redirect_rule(redirect: &Redirect) -> Rule {
    let (port, target) = (redirect.port.to_string(), redirect.target.to_string());
    let comment = format!("switchman:{}:{}", redirect.service, redirect.kind.as_str());
    let every = redirect.one_in.to_string();
    // Each rule counts for itself: its share of the connections is exact, unlike that of a random choice.
    let share = ["-m", "statistic", "--mode", "nth", "--every", &every, "--packet", "0"];
    let share: &[&str] = if redirect.one_in == 1 { &[] } else { &share };
    let matches = ["-p", "tcp", "-m", "tcp", "--dport", &port];
    let comment = ["-m", "comment", "--comment", &comment];
    build_rule(CHAIN, &[&matches[..], share, &comment, &["-j", "REDIRECT", "--to-ports", &target]].concat())
}

/// Parses the redirect that a rule expresses; `None` when the rule is not exactly one that switchman would write.
fn parse_redirect(rule: &Rule) -> Option<Redirect> {
    let (service, kind) = rule.option_value("--comment")?.strip_prefix("switchman:")?.rsplit_once(':')?;
    let redirect = Redirect {
        service: service.parse().ok()?,
        kind: RedirectKind::ALL.into_iter().find(|known| known.as_str() == kind)?,
        port: rule.option_value("--dport")?.parse().ok()?,
        one_in: rule.option_value("--every").map_or(Some(1), |every| every.parse().ok())?,
        target: rule.option_value("--to-ports")?.parse().ok()?,
    };
    (build_redirect_rule(&redirect) == *rule).then_some(redirect)
}

#[cfg(test)]
mod tests;
