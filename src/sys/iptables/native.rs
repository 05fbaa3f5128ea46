//! Reads what `nft -j list ruleset` prints: the rules that no iptables tool prints, with their sets and maps resolved.

use std::collections::BTreeMap;

use serde_json::Value;

use super::native_match::{PortSet, RuleMatch, SetTable, find_map_elements, match_expression, read_key};
use crate::model::native_rule::{NativeEffect, NativeRule};
use crate::model::rules::CHAIN;

/// Deeper than any real rule set; a loop of chains cannot be built in the kernel.
const MAX_DEPTH: usize = 16;
/// The hooks that a packet to this host passes before a process receives it.
const HOOKS: [&str; 3] = ["prerouting", "input", "ingress"];
/// The table that keeps open connections translated, which is switchman's own.
const HOLD_TABLE: &str = "switchman_hold";

/// Family, table and name.
type ChainKey = (String, String, String);

struct Ruleset<'a> {
    sets: SetTable<'a>,
    /// The rules of each chain, with their handles.
    rules: BTreeMap<ChainKey, Vec<(u64, &'a [Value])>>,
    texts: BTreeMap<(ChainKey, u64), String>,
}

/// The base chain from which a rule is reached.
struct BaseChain<'a> {
    hook: &'a str,
    priority: i64,
    chain_type: &'a str,
}

/// Returns the native rules in the order in which the kernel evaluates them. `listing` is what `nft -a list ruleset` prints.
pub(super) fn find_rules(json: &Value, listing: &str) -> Vec<NativeRule> {
    let empty = Vec::new();
    let objects = json.get("nftables").and_then(Value::as_array).unwrap_or(&empty);
    let mut ruleset =
        Ruleset { sets: SetTable::default(), rules: BTreeMap::new(), texts: read_rule_texts(listing) };
    let mut bases = Vec::new();
    for object in objects {
        let Some((kind, body)) = object.as_object().and_then(|object| object.iter().next()) else { continue };
        let word = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        match kind.as_str() {
            "set" | "map" => ruleset.sets.add(word("family"), word("table"), word("name"), body),
            "chain" if word("table") != HOLD_TABLE && HOOKS.contains(&word("hook")) => {
                let key = (word("family").to_owned(), word("table").to_owned(), word("name").to_owned());
                let priority = body.get("prio").and_then(Value::as_i64).unwrap_or(0);
                let base = BaseChain { hook: word("hook"), priority, chain_type: word("type") };
                let handle = body.get("handle").and_then(Value::as_u64).unwrap_or(0);
                bases.push((key, base, word("policy") == "drop", handle));
            }
            "rule" => {
                let key = (word("family").to_owned(), word("table").to_owned(), word("chain").to_owned());
                let handle = body.get("handle").and_then(Value::as_u64).unwrap_or(0);
                if let Some(expressions) = body.get("expr").and_then(Value::as_array) {
                    ruleset.rules.entry(key).or_default().push((handle, expressions));
                }
            }
            _ => {}
        }
    }
    bases.sort_by_key(|(_, base, ..)| (HOOKS.iter().position(|hook| *hook == base.hook), base.priority));
    let mut found = Vec::new();
    for (key, base, drops, handle) in &bases {
        walk(&ruleset, base, key, &RuleMatch::default(), MAX_DEPTH, &mut found);
        if *drops && !is_managed(key) {
            let text = "policy drop".to_owned();
            found.push(build_rule(base, key, *handle, text, &RuleMatch::default(), NativeEffect::Drop));
        }
    }
    found
}

/// The names of the chains in a listing of one table.
pub(super) fn list_chain_names(json: &Value) -> Vec<String> {
    let objects = json.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let names = objects.filter_map(|object| object.get("chain")?.get("name")?.as_str());
    names.map(str::to_owned).collect()
}

/// Collects the rules of a chain that a packet which matches `outer` reaches.
fn walk(
    ruleset: &Ruleset<'_>,
    base: &BaseChain<'_>,
    key: &ChainKey,
    outer: &RuleMatch,
    depth: usize,
    found: &mut Vec<NativeRule>,
) {
    if depth == 0 || key.2 == CHAIN {
        return;
    }
    for (handle, expressions) in ruleset.rules.get(key).into_iter().flatten() {
        let mut matched = outer.clone();
        for expression in *expressions {
            let Some((name, body)) = expression.as_object().and_then(|object| object.iter().next()) else {
                continue;
            };
            if !match_expression(&ruleset.sets, key, name, body, &mut matched) {
                break;
            }
            for (effect, part) in list_effects(&ruleset.sets, key, name, body, &matched) {
                match effect {
                    Effect::Ends(effect) if is_managed(key) && !is_native_effect(effect, name) => {}
                    Effect::Ends(effect) => {
                        let text = ruleset.texts.get(&(key.clone(), *handle)).cloned();
                        let text = text.unwrap_or_else(|| format!("a rule with `{name}`"));
                        found.push(build_rule(base, key, *handle, text, &part, effect));
                    }
                    Effect::Continues(chain) => {
                        let next = (key.0.clone(), key.1.clone(), chain);
                        walk(ruleset, base, &next, &part, depth - 1, found);
                    }
                }
            }
        }
    }
}

/// The effect of a statement, or the chain in which the evaluation goes on.
enum Effect {
    Ends(NativeEffect),
    Continues(String),
}

/// The effects of one expression, each with the packets that have it.
fn list_effects(
    sets: &SetTable<'_>,
    key: &ChainKey,
    name: &str,
    body: &Value,
    matched: &RuleMatch,
) -> Vec<(Effect, RuleMatch)> {
    let ends = |effect| vec![(Effect::Ends(effect), matched.clone())];
    match name {
        "redirect" | "dnat" | "tproxy" => {
            let map = ["port", "addr"].iter().find_map(|part| body.get(part)?.get("map"));
            let ports = map.map_or(PortSet::Any, |map| list_map_ports(sets, key, map));
            let with_map = matched.narrow(&ports);
            with_map.map(|matched| (Effect::Ends(NativeEffect::Translate), matched)).into_iter().collect()
        }
        "accept" => ends(NativeEffect::Accept),
        "drop" => ends(NativeEffect::Drop),
        "reject" => ends(NativeEffect::Reject),
        "notrack" => ends(NativeEffect::Notrack),
        "jump" | "goto" => {
            let target = body.get("target").and_then(Value::as_str).unwrap_or_default();
            vec![(Effect::Continues(target.to_owned()), matched.clone())]
        }
        "mangle" => match body.get("key").map(Value::to_string).unwrap_or_default() {
            field if field.contains("\"zone\"") => ends(NativeEffect::Zone),
            field if field.contains("\"meta\"") && field.contains("\"mark\"") => ends(NativeEffect::Mark),
            _ => vec![],
        },
        "vmap" => list_verdicts(sets, key, body, matched),
        _ => vec![],
    }
}

/// The verdicts of a map, each with the ports that lead to it.
fn list_verdicts(
    sets: &SetTable<'_>,
    key: &ChainKey,
    body: &Value,
    matched: &RuleMatch,
) -> Vec<(Effect, RuleMatch)> {
    let (Some(map_key), Some(data)) = (body.get("key"), body.get("data")) else { return vec![] };
    let kind = read_key(map_key);
    let mut all = Vec::new();
    for (element, verdict) in find_map_elements(sets, key, data) {
        let Some((name, target)) = verdict.as_object().and_then(|verdict| verdict.iter().next()) else {
            continue;
        };
        let Some(matched) = kind.match_element(element, matched) else { continue };
        all.extend(list_effects(sets, key, name, target, &matched));
    }
    all
}

fn list_map_ports(sets: &SetTable<'_>, key: &ChainKey, map: &Value) -> PortSet {
    let (Some(map_key), Some(data)) = (map.get("key"), map.get("data")) else { return PortSet::Any };
    read_key(map_key)
        .collect_ports(find_map_elements(sets, key, data).into_iter().map(|(element, _)| element))
}

fn build_rule(
    base: &BaseChain<'_>,
    (family, table, chain): &ChainKey,
    handle: u64,
    text: String,
    matched: &RuleMatch,
    effect: NativeEffect,
) -> NativeRule {
    NativeRule {
        family: family.clone(),
        table: table.clone(),
        chain: chain.clone(),
        handle,
        hook: base.hook.to_owned(),
        priority: base.priority,
        chain_type: base.chain_type.to_owned(),
        text,
        ports: matched.ports.list(),
        effect,
        is_conditional: matched.is_conditional,
        is_translated_only: matched.is_translated_only,
    }
}

/// Tables that iptables-nft manages: their rules are read with its own tools.
fn is_managed((family, table, _): &ChainKey) -> bool {
    ["ip", "ip6"].contains(&family.as_str())
        && ["nat", "filter", "mangle", "raw", "security"].contains(&table.as_str())
}

/// Statements that iptables-nft never writes: it translates, marks and tracks by targets of xtables.
fn is_native_effect(effect: NativeEffect, name: &str) -> bool {
    !matches!(effect, NativeEffect::Accept | NativeEffect::Drop | NativeEffect::Reject) || name == "vmap"
}

/// Reads the lines of rules by table, chain and handle.
fn read_rule_texts(listing: &str) -> BTreeMap<(ChainKey, u64), String> {
    let mut texts = BTreeMap::new();
    let (mut family, mut table, mut chain) = (String::new(), String::new(), String::new());
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["table", in_family, name, ..] => {
                (family, table, chain) = (in_family.to_owned(), name.to_owned(), String::new());
            }
            ["chain", name, ..] if line.contains('{') => name.clone_into(&mut chain),
            ["set" | "map" | "flowtable" | "counter", ..] if line.contains('{') => chain.clear(),
            _ => {
                if let Some((text, handle)) = line.rsplit_once(" # handle ")
                    && let Ok(handle) = handle.trim().parse()
                {
                    let key = (family.clone(), table.clone(), chain.clone());
                    texts.insert((key, handle), text.trim().to_owned());
                }
            }
        }
    }
    texts
}

#[cfg(test)]
mod tests;
