//! The shell blocks of a page and the output that is shown for them.

use super::MACHINES;

#[derive(Debug, Clone)]
pub struct Block {
    /// Line of the fence, counted from 1.
    pub line: usize,
    pub machines: Vec<String>,
    pub in_checkout: bool,
    pub script: String,
    /// Lines of the page that show the output, without their fences.
    shown: Option<std::ops::Range<usize>>,
}

pub struct Page {
    lines: Vec<String>,
    pub blocks: Vec<Block>,
    /// Lines of the page and the output that replaces them.
    updates: Vec<(std::ops::Range<usize>, String)>,
}

impl Page {
    /// Parses a page. Fails on a block that does not name its machine.
    pub fn read(text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut blocks: Vec<Block> = Vec::new();
        let mut at = 0;
        // Set after a shell block, until other text follows.
        let mut ended = None;
        while at < lines.len() {
            let Some(language) = lines[at].strip_prefix("```") else {
                if !lines[at].trim().is_empty() {
                    ended = None;
                }
                at += 1;
                continue;
            };
            let end = (at + 1..lines.len()).find(|line| lines[*line] == "```").expect("a fence without end");
            match (language, ended) {
                ("sh", _) => {
                    blocks.push(parse_block(&lines, at, end));
                    ended = Some(());
                }
                ("text", Some(())) => {
                    blocks.last_mut().unwrap().shown = Some(at + 1..end);
                    ended = None;
                }
                _ => ended = None,
            }
            at = end + 1;
        }
        assert!(!blocks.is_empty());
        Self { lines, blocks, updates: Vec::new() }
    }

    /// Compares the output of a block with the page. With `update` the new output replaces the old one, unless parts of
    /// that are left out by a line `...`.
    pub fn check_output(&mut self, block: &Block, printed: &str, update: bool) -> Option<String> {
        let shown = block.shown.clone()?;
        let expected = &self.lines[shown.clone()];
        if output_matches(expected, printed) {
            return None;
        }
        if update && !expected.iter().any(|line| line == "...") {
            self.updates.push((shown, printed.to_owned()));
            return None;
        }
        let line = block.line;
        Some(format!(
            "docs/quick-start.md:{line}: the output is not as shown\n--- shown\n{}\n--- printed\n{printed}---",
            expected.join("\n")
        ))
    }

    /// Returns the page with the new output.
    pub fn text(mut self) -> String {
        for (shown, printed) in self.updates.into_iter().rev() {
            self.lines.splice(shown, printed.lines().map(|line| line.trim_end().to_owned()));
        }
        self.lines.join("\n") + "\n"
    }
}

/// Parses a block whose first line is `# on web1 and web2` or `# on ops, in a checkout of this repository`.
fn parse_block(lines: &[String], start: usize, end: usize) -> Block {
    let line = start + 1;
    let location = lines[start + 1].strip_prefix("# on ");
    let location =
        location.unwrap_or_else(|| panic!("docs/quick-start.md:{line}: on which machine? `# on web1`"));
    let (names, checkout) = location.split_once(", ").unwrap_or((location, ""));
    assert!(
        matches!(checkout, "" | "in a checkout of this repository"),
        "docs/quick-start.md:{line}: {location}"
    );
    let machines: Vec<String> = names.split(" and ").map(str::to_owned).collect();
    for machine in &machines {
        assert!(
            MACHINES.iter().any(|(name, _, _)| name == machine),
            "docs/quick-start.md:{line}: {machine}?"
        );
    }
    let script: String = lines[start + 2..end].iter().map(|line| format!("{line}\n")).collect();
    Block { line, machines, in_checkout: !checkout.is_empty(), script, shown: None }
}

/// Compares output with expected lines, in which `...` matches any number of lines.
pub fn output_matches(expected: &[String], printed: &str) -> bool {
    let printed: Vec<String> = printed.lines().map(mask_volatile).collect();
    let mut parts = expected
        .split(|line| line == "...")
        .map(|part| part.iter().map(|line| mask_volatile(line)).collect());
    let first: Vec<String> = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first.as_slice()) else { return false };
    let mut open = false;
    for part in parts {
        open = true;
        let Some(at) = (0..=rest.len()).find(|at| rest[*at..].starts_with(&part)) else { return false };
        rest = &rest[at + part.len()..];
        open &= part.is_empty();
    }
    open || rest.is_empty()
}

/// Replaces what differs from run to run: durations, times, ids, small numbers and the width of columns.
fn mask_volatile(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let end = word.trim_end_matches([',', ';', ':', ')', '.']);
        let (core, after) = word.split_at(end.len());
        let start = core.trim_start_matches('(');
        let before = &core[..core.len() - start.len()];
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let core = if is_duration(start) {
            "TIME"
        } else if start.len() >= 8
            && start.starts_with(|c: char| c.is_ascii_digit())
            && start.matches([':', '-']).count() >= 2
        {
            "WHEN"
        } else if start.starts_with("dp_") {
            "dp_ID"
        } else if start.strip_prefix('r').is_some_and(|id| id.len() >= 15 && digits(&id[..8])) {
            "rID"
        } else if start.bytes().all(|byte| byte == b'-') && start.len() > 2 {
            "---"
        } else if digits(start) && start.len() < 3 {
            "N"
        } else {
            start
        };
        format!("{before}{core}{after}")
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Recognizes durations such as `1s203ms`, `812ms` and `5m`.
fn is_duration(word: &str) -> bool {
    let mut rest = word;
    while !rest.is_empty() {
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let units = ["ms", "us", "µs", "s", "m", "h"];
        let Some(next) = units.iter().find_map(|unit| after.strip_prefix(unit)) else { return false };
        if after.len() == rest.len() {
            return false;
        }
        rest = next;
    }
    !word.is_empty()
}

#[test]
fn comparison_ignores_durations_times_and_ids() {
    let output_matches = |expected: &str, printed: &str| {
        output_matches(&expected.lines().map(str::to_owned).collect::<Vec<_>>(), printed)
    };
    assert!(output_matches("web1: UP after 1s203ms; done", "web1: UP after 88ms; done\n"));
    assert!(!output_matches("web1: UP after 1s203ms; done", "web1: DOWN after 88ms; done\n"));
    assert!(output_matches("a\n...\nd", "a\nb\nc\nd\n"));
    assert!(output_matches("a\n...", "a\nb\n") && output_matches("...\nb", "a\nb\n"));
    assert!(!output_matches("a\n...\nd", "a\nb\nc\n") && !output_matches("a", "a\nb\n"));
    assert!(output_matches(
        "r20261121-085642-7e99 2026-11-21T08:56:43Z",
        "r20271121-095642-0a9f 2027-01-02T00:00:00Z\n"
    ));
    assert!(!output_matches("main 1.0.0", "main 2.0.0\n"));
}
