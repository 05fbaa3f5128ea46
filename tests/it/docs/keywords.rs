//! `docs/haproxy-keywords.md` has a decision for every keyword of HAProxy's manuals, and names findings that exist.

use std::collections::{BTreeMap, BTreeSet};

use super::repository_root;

const SECTIONS: [(&str, &str); 4] = [
    ("## Proxies", "proxy"),
    ("## Actions of rules", "action"),
    ("## Keywords of a bind line", "bind"),
    ("## Keywords of a server line", "server"),
];
const EFFECTS: [&str; 5] = ["wrong vhost", "kept on DOWN", "out beside the forward", "cut", "none"];

fn read(file: &str) -> String {
    std::fs::read_to_string(repository_root().join(file)).unwrap()
}

/// The words between backticks.
fn list_code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_keyword_of_the_manuals_has_a_decision() {
    let page = read("docs/haproxy-keywords.md");
    let findings = read("docs/haproxy.md");
    let mut kind = "";
    let mut decided: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in page.lines() {
        if line.starts_with("## ") {
            kind = SECTIONS.iter().find(|(title, _)| *title == line).map_or("", |(_, kind)| *kind);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, keywords, effects, decision, _] = cells.as_slice() else { continue };
        if kind.is_empty() || !keywords.starts_with('`') {
            continue;
        }
        decided.entry(kind).or_default().extend(list_code(keywords));
        assert!(effects.split(", ").all(|effect| EFFECTS.contains(&effect)), "{line}");
        let ids: Vec<&str> = list_code(decision).filter(|code| code.starts_with("haproxy-")).collect();
        for id in &ids {
            assert!(
                findings.contains(&format!("| `{id}` |")),
                "docs/haproxy.md does not have `{id}`: {line}"
            );
        }
        let is_explained = *effects == "none"
            || !ids.is_empty()
            || decision.starts_with("Not reported: ")
            || decision.contains("are judged")
            || decision.contains("is judged");
        assert!(is_explained, "an effect without a finding or a reason: {line}");
        assert!(!decision.is_empty(), "{line}");
    }
    for version in ["2.6.12", "3.2.26", "3.4.7"] {
        let list = read(&format!("tests/fixtures/haproxy/keywords-{version}.txt"));
        let keywords: Vec<(&str, &str)> = list
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('\t'))
            .map(|(kind, rest)| (kind, rest.split('\t').next().unwrap()))
            .collect();
        assert!(keywords.len() > 400, "{version}: {}", keywords.len());
        let is_missing = |(kind, keyword): &&(&str, &str)| !decided[kind].contains(keyword);
        let missing: Vec<_> = keywords.iter().filter(is_missing).collect();
        assert!(missing.is_empty(), "keywords of HAProxy {version} without a decision: {missing:?}");
    }
}

/// Every finding of the lint has a row in the page that lists them.
#[test]
fn every_finding_of_the_lint_is_listed() {
    let (page, findings) = (read("docs/haproxy.md"), read("tests/snapshots/findings-haproxy.txt"));
    for line in findings.lines().filter(|line| line.starts_with(" [haproxy-")) {
        let id = line.trim().trim_matches(['[', ']']);
        assert!(page.contains(&format!("| `{id}` |")), "docs/haproxy.md does not have `{id}`");
    }
}
