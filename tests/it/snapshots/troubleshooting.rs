//! The words that `docs/troubleshooting.md` quotes from errors are in the snapshot of all errors.

use std::path::Path;

/// Quoted from `status`, and from causes that a remote ssh or agent sends.
const OTHER_SOURCES: [&str; 4] =
    ["drift", "not installed, or not on the PATH", "the bearer token is missing or wrong", "has the role"];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn troubleshooting_quotes_words_of_errors() {
    let (page, errors) = (read("docs/troubleshooting.md"), read("tests/snapshots/errors.txt"));
    let (_, tables) = page.split_once("\n## When a command is refused\n").unwrap();
    let (tables, _) = tables.split_once("\n## ").unwrap();
    let cells = tables.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let quoted: Vec<&str> = cells.filter(|cell| *cell != "the message has").collect();
    let unknown: Vec<&&str> =
        quoted.iter().filter(|cell| !OTHER_SOURCES.contains(cell) && !errors.contains(**cell)).collect();
    assert!(quoted.len() > 20, "{} rows are read", quoted.len());
    assert!(unknown.is_empty(), "no error has these words: {unknown:?}");
}
