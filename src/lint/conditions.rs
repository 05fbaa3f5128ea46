//! `.if`, `.elif`, `.else`, `.endif`: the variants of a file, one for each branch (configuration manual, 2.4).

use std::collections::BTreeMap;

/// More variants than this are not judged; the report names the limit.
const LIMIT: usize = 32;

/// The variants of a file as indices of lines, and what could not be decided.
#[derive(Debug, Default)]
pub(super) struct Variants {
    pub lines: Vec<Vec<usize>>,
    /// Lines of conditions whose branches were judged apart from those of the others.
    pub conditions: Vec<usize>,
    pub is_cut: bool,
    /// The first line whose `.if` and `.endif` do not match.
    pub unbalanced: Option<usize>,
}

enum Block {
    Line(usize),
    Condition(Condition),
}

struct Condition {
    at: usize,
    /// Equal conditions have equal keys: they decide alike.
    key: String,
    /// Branches that HAProxy can take.
    branches: Vec<Vec<Block>>,
}

/// `Some` when the condition is the same on every machine.
fn decide(condition: &str) -> Option<bool> {
    match condition.trim() {
        "" | "false" | "false()" | "0" => Some(false),
        "true" | "true()" => Some(true),
        number => number.parse::<i64>().ok().map(|number| number != 0),
    }
}

pub(super) fn split_directive(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    line.starts_with('.').then(|| line.split_once([' ', '\t']).unwrap_or((line, "")))
}

/// Every variant of a file: the first branches of all conditions, then each other branch once.
pub(super) fn list_variants(lines: &[&str]) -> Variants {
    let mut found = Variants::default();
    let mut at = 0;
    let blocks = parse_blocks(lines, &mut at, 0, &mut found);
    let mut choices = vec![BTreeMap::new()];
    list_choices(&blocks, &BTreeMap::new(), &mut choices, &mut found);
    found.is_cut = choices.len() > LIMIT;
    choices.truncate(LIMIT);
    for choice in &choices {
        let mut taken = Vec::new();
        collect_lines(&blocks, choice, &mut taken);
        found.lines.push(taken);
    }
    found
}

/// Deeper nesting than this is refused by HAProxy.
const MAX_DEPTH: usize = 60;

fn parse_blocks(lines: &[&str], at: &mut usize, depth: usize, found: &mut Variants) -> Vec<Block> {
    let mut blocks = Vec::new();
    while let Some(line) = lines.get(*at) {
        match split_directive(line) {
            Some((".if", condition)) if depth < MAX_DEPTH => {
                blocks.push(Block::Condition(parse_condition(lines, at, condition, depth, found)));
            }
            Some((".elif" | ".else" | ".endif", _)) if depth > 0 => return blocks,
            Some((".if" | ".elif" | ".else" | ".endif", _)) => {
                found.unbalanced.get_or_insert(*at);
                *at += 1;
            }
            Some((".notice" | ".warning" | ".alert" | ".diag", _)) => *at += 1,
            _ => {
                blocks.push(Block::Line(*at));
                *at += 1;
            }
        }
    }
    if depth > 0 {
        found.unbalanced.get_or_insert(lines.len().saturating_sub(1));
    }
    blocks
}

fn parse_condition(
    lines: &[&str],
    at: &mut usize,
    condition: &str,
    depth: usize,
    found: &mut Variants,
) -> Condition {
    let start = *at;
    let mut branches = Vec::new();
    let mut key = condition.trim().to_owned();
    let (mut verdict, mut is_decided) = (decide(condition), false);
    let mut has_else = false;
    loop {
        *at += 1;
        let blocks = parse_blocks(lines, at, depth + 1, found);
        if !is_decided && verdict != Some(false) {
            branches.push(blocks);
        }
        is_decided |= verdict == Some(true);
        let next = lines.get(*at).and_then(|line| split_directive(line));
        if has_else && matches!(next, Some((".elif" | ".else", _))) {
            found.unbalanced.get_or_insert(*at);
        }
        match next {
            Some((".elif", next)) => {
                verdict = decide(next);
                key = format!("{key}|{}", next.trim());
            }
            Some((".else", _)) => (verdict, has_else) = (Some(true), true),
            _ => break,
        }
    }
    *at += 1;
    if !is_decided {
        branches.push(Vec::new());
    }
    Condition { at: start, key, branches }
}

type Choice = BTreeMap<String, usize>;

fn list_choices(blocks: &[Block], above: &Choice, choices: &mut Vec<Choice>, found: &mut Variants) {
    for block in blocks {
        let Block::Condition(condition) = block else { continue };
        let is_new = !above.contains_key(&condition.key);
        if condition.branches.len() > 1 && is_new {
            found.conditions.push(condition.at);
        }
        for (number, branch) in condition.branches.iter().enumerate() {
            let mut here = above.clone();
            if is_new {
                here.insert(condition.key.clone(), number);
            }
            if number > 0 && is_new && !choices.contains(&here) && choices.len() <= LIMIT {
                choices.push(here.clone());
            }
            list_choices(branch, &here, choices, found);
        }
    }
}

fn collect_lines(blocks: &[Block], choice: &Choice, taken: &mut Vec<usize>) {
    for block in blocks {
        match block {
            Block::Line(at) => taken.push(*at),
            Block::Condition(condition) => {
                let number = choice.get(&condition.key).copied().unwrap_or(0);
                // Conditions with one key can differ in what follows `.else`.
                if let Some(branch) = condition.branches.get(number) {
                    collect_lines(branch, choice, taken);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variants(text: &str) -> Vec<String> {
        let lines: Vec<&str> = text.lines().collect();
        let found = list_variants(&lines);
        found
            .lines
            .iter()
            .map(|taken| taken.iter().map(|at| lines[*at]).collect::<Vec<_>>().join(""))
            .collect()
    }

    #[test]
    fn each_branch_is_in_a_variant() {
        assert_eq!(variants("a\nb"), ["ab"]);
        assert_eq!(variants("a\n.if defined(X)\nb\n.else\nc\n.endif\nd"), ["abd", "acd"]);
        assert_eq!(variants(".if x\nb\n.elif y\nc\n.endif\nd"), ["bd", "cd", "d"]);
        assert_eq!(variants(".if x\n.if y\na\n.endif\nb\n.else\nc\n.endif"), ["ab", "b", "c"]);
        // The same condition decides alike everywhere.
        assert_eq!(variants(".if x\na\n.endif\nb\n.if x\nc\n.endif"), ["abc", "b"]);
    }

    #[test]
    fn constant_conditions_have_one_branch() {
        assert_eq!(variants(".if 0\na\n.elif true\nb\n.else\nc\n.endif"), ["b"]);
        assert_eq!(variants(".if false()\na\n.endif\n.notice x\nb"), ["b"]);
    }

    #[test]
    fn unbalanced_conditions_are_reported_and_many_are_cut() {
        assert_eq!(list_variants(&["a", ".endif"]).unbalanced, Some(1));
        assert_eq!(list_variants(&[".if x", "a"]).unbalanced, Some(1));
        assert_eq!(list_variants(&[".if x", ".else", ".else", ".endif"]).unbalanced, Some(2));
        assert_eq!(list_variants(&[".if x", ".elif y", ".else", ".endif"]).unbalanced, None);
        let many: String = (0..100).map(|number| format!(".if x{number}\na\n.endif\n")).collect();
        let lines: Vec<&str> = many.lines().collect();
        let found = list_variants(&lines);
        assert!(found.is_cut && found.lines.len() == LIMIT);
        let deep = vec![".if x"; 5000];
        assert!(list_variants(&deep).unbalanced.is_some());
    }
}
