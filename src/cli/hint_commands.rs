//! Every command line that an error, a finding or a help text prints is one that the program accepts.

use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;

use super::Cli;

const SNAPSHOTS: [&str; 4] = ["errors.txt", "findings-check.txt", "findings-haproxy.txt", "usage.txt"];

/// Values for the placeholders of what the operator names.
const PLACEHOLDERS: [(&str, &str); 17] = [
    ("NAME", "shop"),
    ("VERSION", "2.0.0"),
    ("HOST", "web1"),
    ("H", "web1"),
    ("ID", "dp_0s3k5mqz8v"),
    ("SOURCE", "./shop"),
    ("FILE", "haproxy.cfg"),
    ("DIR", "shop"),
    ("PORT", "8080"),
    ("ADDRESS", "10.0.0.1"),
    ("ADDR:PORT", "10.0.0.1:8891"),
    ("NAME=ADDRESS", "web1=10.0.0.1"),
    ("TEXT", "reason"),
    ("FIELD", "$.price"),
    ("P", "10"),
    ("CMD", "true"),
    ("COMMAND", "deploy"),
];

fn fill_word(word: &str) -> String {
    let known = PLACEHOLDERS.iter().find(|(placeholder, _)| *placeholder == word);
    known.map_or(word, |(_, value)| value).to_owned()
}

/// Returns the command lines between backticks, with their placeholders filled. Those with `...` are left out.
fn find_commands(text: &str) -> Vec<Vec<String>> {
    let spans = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let commands = spans.filter(|span| span.starts_with("switchman ") && !span.contains("..."));
    commands.map(|command| command.split_whitespace().map(fill_word).collect()).collect()
}

#[test]
fn every_printed_command_is_accepted() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let (mut wrong, mut count) = (Vec::new(), 0);
    for file in SNAPSHOTS {
        for command in find_commands(&std::fs::read_to_string(dir.join(file)).unwrap()) {
            count += 1;
            let parsed = Cli::try_parse_from(&command).map(|_| ());
            let is_help = |kind| matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            match parsed.map_err(|error| error.kind()) {
                Err(kind) if !is_help(kind) => wrong.push(format!("{file}: {}: {kind}", command.join(" "))),
                _ => {}
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "{count}");
}
