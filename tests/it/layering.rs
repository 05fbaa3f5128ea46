//! The house rules, computed from `src/`: imports point down, the two sides of `ops` never meet, no circle of files, small files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use graph::Crate;

pub mod graph;

/// Room -> rooms that its files may import.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("model", &[][..]),
        ("world", &["model"]),
        ("templates", &["model"]),
        ("lint", &["plan", "model"]),
        ("plan", &["templates", "model"]),
        ("sys", &["world", "templates", "model"]),
        ("config", &["model"]),
        ("ops", &["world", "plan", "lint", "templates", "model"]),
        ("error", &["config", "lab", "ops", "world", "plan", "lint", "templates", "model"]),
        ("lab", &["config", "ops", "world", "plan", "templates", "sys", "model"]),
        ("admission", &["plan"]),
        ("proxy", &["admission", "plan", "model"]),
        ("agent", &["admission", "config", "ops", "world", "plan", "model", "error"]),
        (
            "cli",
            &[
                "admission",
                "agent",
                "proxy",
                "lab",
                "config",
                "error",
                "ops",
                "world",
                "plan",
                "lint",
                "templates",
                "model",
            ],
        ),
    ])
}

fn src() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// `ops::fleet::forward` -> `ops`.
fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

#[test]
fn imports_point_only_down() {
    let krate = Crate::read(&src());
    let allowed = allowed();
    let mut wrong = Vec::new();
    for (from, imports) in &krate.named() {
        let here = room(from);
        if here == "main" || here.is_empty() {
            continue;
        }
        let may = allowed.get(here).unwrap_or_else(|| panic!("`{here}` has no place in the layering"));
        for to in imports.iter().map(|import| room(import)).collect::<BTreeSet<_>>() {
            if to != here && !may.contains(&to) {
                wrong.push(format!("`{from}` may not import `{to}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ops_fleet_and_ops_host_meet_only_at_host_link() {
    let krate = Crate::read(&src());
    let mut wrong = Vec::new();
    for (side, other, world) in
        [("ops::fleet", "ops::host", "HostWorld"), ("ops::host", "ops::fleet", "FleetWorld")]
    {
        let inside = |module: &str, side: &str| module == side || module.starts_with(&format!("{side}::"));
        for (from, imports) in krate.named().iter().filter(|(from, _)| inside(from, side)) {
            for import in imports {
                if inside(import, other) || import.split("::").any(|word| word == world) {
                    wrong.push(format!("`{from}` may not name `{import}`"));
                }
            }
        }
        for (from, words) in krate.words().iter().filter(|(from, _)| inside(from, side)) {
            if words.contains(world) {
                wrong.push(format!("`{from}` may not name `{world}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_circle_of_imports_between_files() {
    let circles = Crate::read(&src()).circles();
    let shown: Vec<String> = circles
        .iter()
        .map(|circle| {
            let arrows: Vec<String> = circle
                .iter()
                .map(|arrow| {
                    let names: Vec<&str> = arrow.names.iter().map(String::as_str).collect();
                    format!("  {} -> {}: {}", arrow.from, arrow.to, names.join(", "))
                })
                .collect();
            format!("a circle of imports:\n{}", arrows.join("\n"))
        })
        .collect();
    assert!(shown.is_empty(), "{} circles\n{}", shown.len(), shown.join("\n"));
}

#[test]
fn files_have_at_most_600_lines() {
    let long: Vec<String> = graph::sources(&src())
        .iter()
        .map(|path| (path, std::fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
