//! Desired and observed rules -> transactions.
//!
//! Our chain is declared whole and swapped in one transaction; the jump into it is added only where it is missing.
//! Nothing that is not ours is ever named by a transaction.

use std::fmt::Write as _;

use crate::model::forward::{Forward, Recorded, Switch};
use crate::model::rules::{
    ANCHOR_COMMENT, CHAIN, Desired, Family, JUMP_COMMENT, Rule, Table, Tables, Transaction, Variant,
};

/// The rules the records ask for. A forward in our chain whose service is not recorded (a lost state directory) is
/// kept: taking it away would put a service into maintenance that nobody named.
pub fn desired<'a>(recorded: &[Recorded], observed: impl IntoIterator<Item = &'a Table>) -> Desired {
    let unrecorded = observed
        .into_iter()
        .flat_map(forwards)
        .filter(|forward| recorded.iter().all(|record| record.forward.service != forward.service));
    let on =
        recorded.iter().filter(|record| record.switch == Switch::On).map(|record| record.forward.clone());
    Desired {
        forwards: on.chain(unrecorded).map(|forward| (forward.service.clone(), forward)).collect(),
        from_self: recorded.iter().any(|record| record.from_self),
    }
}

/// Which variant our rules belong in: where our chain already is, else where anybody's rules are; where that decides
/// nothing, what the command `iptables` runs.
pub fn variant(tables: &Tables) -> Variant {
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
/// rules of ours are left behind in the variant that is not in use.
pub fn plan(desired: &Desired, tables: &Tables, family: Family) -> Vec<Transaction> {
    let chosen = variant(tables);
    let other = match chosen {
        Variant::NfTables => Variant::Legacy,
        Variant::Legacy => Variant::NfTables,
    };
    let empty = Table::default();
    let declare = declare(desired, tables.of(chosen).unwrap_or(&empty));
    let sweep = tables.of(other).and_then(sweep);
    let transaction = |variant, text| Transaction { family, variant, text };
    declare
        .map(|text| transaction(chosen, text))
        .into_iter()
        .chain(sweep.map(|text| transaction(other, text)))
        .collect()
}

/// The forwards our chain holds now.
pub fn forwards(table: &Table) -> Vec<Forward> {
    table.in_chain(CHAIN).filter_map(read_forward).collect()
}

/// Whether the jump that makes our chain effective is there.
pub fn is_hooked(table: &Table, from_self: bool) -> bool {
    hooks(from_self).iter().all(|jump| table.rules.contains(jump))
}

fn declare(desired: &Desired, table: &Table) -> Option<String> {
    let rules: Vec<Rule> =
        std::iter::once(anchor()).chain(desired.forwards.values().map(forward_rule)).collect();
    let (wanted, unwanted): (Vec<Rule>, Vec<Rule>) = (hooks(desired.from_self), stale_jumps(desired, table));
    let missing: Vec<Rule> = wanted.into_iter().filter(|jump| !table.rules.contains(jump)).collect();
    let same = table.in_chain(CHAIN).eq(rules.iter());
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
fn sweep(table: &Table) -> Option<String> {
    let jumps: Vec<&Rule> = table.rules.iter().filter(|rule| rule.chain != CHAIN && is_jump(rule)).collect();
    let kept = table.rules.iter().any(jumps_in_without_us) && table.in_chain(CHAIN).next().is_none();
    if jumps.is_empty() && (kept || !table.chains.contains_key(CHAIN)) {
        return None;
    }
    let mut text = String::from("*nat\n");
    for jump in jumps {
        let _ = writeln!(text, "{}", jump.to_string().replacen("-A", "-D", 1));
    }
    if table.chains.contains_key(CHAIN) {
        let _ = writeln!(text, "-F {CHAIN}");
    }
    if table.chains.contains_key(CHAIN) && !table.rules.iter().any(jumps_in_without_us) {
        let _ = writeln!(text, "-X {CHAIN}");
    }
    text.push_str("COMMIT\n");
    Some(text)
}

/// A stranger's jump into our chain: the kernel refuses to delete a chain that is jumped to.
fn jumps_in_without_us(rule: &Rule) -> bool {
    rule.chain != CHAIN
        && !is_jump(rule)
        && (rule.value("-j") == Some(CHAIN) || rule.value("-g") == Some(CHAIN))
}

fn is_jump(rule: &Rule) -> bool {
    rule.value("--comment") == Some(JUMP_COMMENT) && rule.value("-j") == Some(CHAIN)
}

/// Jumps of ours that are not wanted: doubled, changed by somebody, or for checks from this host that no longer come.
fn stale_jumps(desired: &Desired, table: &Table) -> Vec<Rule> {
    let mut wanted = hooks(desired.from_self);
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

fn rule(chain: &str, words: &[&str]) -> Rule {
    Rule { chain: chain.to_owned(), words: words.iter().map(|word| (*word).to_owned()).collect() }
}

/// It does nothing with what it matches: that the match needs connection tracking is its purpose.
fn anchor() -> Rule {
    rule(CHAIN, &["-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", ANCHOR_COMMENT])
}

/// Only packets for this host: without `--dst-type LOCAL` forwarded (container) traffic would be taken as well.
fn hooks(from_self: bool) -> Vec<Rule> {
    let jump = |chain| {
        let local = ["-m", "addrtype", "--dst-type", "LOCAL", "-m", "comment", "--comment", JUMP_COMMENT];
        rule(chain, &[&local[..], &["-j", CHAIN]].concat())
    };
    if from_self { vec![jump("PREROUTING"), jump("OUTPUT")] } else { vec![jump("PREROUTING")] }
}

/// In the words `iptables-save` prints it with, so that what is read back compares equal.
fn forward_rule(forward: &Forward) -> Rule {
    let (check, target) = (forward.check.to_string(), forward.target.to_string());
    let comment = comment(forward);
    let matches = ["-p", "tcp", "-m", "tcp", "--dport", &check, "-m", "comment", "--comment", &comment];
    rule(CHAIN, &[&matches[..], &["-j", "REDIRECT", "--to-ports", &target]].concat())
}

fn comment(forward: &Forward) -> String {
    format!("switchman:{}:forward", forward.service)
}

/// The forward a rule stands for; `None` when it is not exactly a rule we would write.
fn read_forward(rule: &Rule) -> Option<Forward> {
    let service = rule.value("--comment")?.strip_prefix("switchman:")?.strip_suffix(":forward")?;
    let forward = Forward {
        service: service.parse().ok()?,
        check: rule.value("--dport")?.parse().ok()?,
        target: rule.value("--to-ports")?.parse().ok()?,
    };
    (forward_rule(&forward) == *rule).then_some(forward)
}

#[cfg(test)]
mod tests;
