//! The house rule: an import points only down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Room -> rooms its files may name after `crate::`.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("model", &[][..]),
        ("world", &["model"]),
        ("plan", &["model"]),
        ("sys", &["world", "model"]),
        ("config", &["model"]),
        ("ops", &["world", "plan", "model"]),
        ("error", &["config", "lab", "ops", "world", "plan", "model"]),
        ("lab", &["config", "ops", "world", "plan", "sys", "model"]),
        ("proxy", &["plan", "model"]),
        ("agent", &["config", "ops", "world", "plan", "model", "error"]),
        ("cli", &["agent", "proxy", "lab", "config", "error", "ops", "world", "plan", "model"]),
    ])
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}

/// `src/ops/forward.rs` -> `ops`; `src/config.rs` -> `config`.
fn room(path: &Path, src: &Path) -> String {
    let inside = path.strip_prefix(src).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Every room named by `crate::ROOM` in code (comments left out), grouped imports `crate::{a::.., b::..}` included.
fn named_rooms(text: &str) -> Vec<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        assert!(
            !rest.starts_with('{'),
            "write one `use crate::room::...` a line, so that imports can be read"
        );
        rooms.push(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
    }
    rooms
}

#[test]
fn imports_point_only_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed = allowed();
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let room = room(&path, &src);
        if room == "main" || room == "lib" {
            continue;
        }
        let may =
            allowed.get(room.as_str()).unwrap_or_else(|| panic!("`{room}` has no place in the layering"));
        for named in named_rooms(&std::fs::read_to_string(&path).unwrap()) {
            if named != room && !may.contains(&named.as_str()) {
                wrong.push(format!("{}: `{room}` may not import `{named}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_import_is_seen() {
    assert_eq!(
        named_rooms("use crate::sys::exec; // crate::ops\n let x = crate::model::A;"),
        ["sys", "model"]
    );
}

#[test]
fn files_stay_under_the_hard_cap() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let long: Vec<String> = sources(&src)
        .iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "tests.rs"))
        .map(|path| (path, std::fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
