//! Every error with its next action and exit code, as the program prints them, in `tests/snapshots/errors.txt`; and their form.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::samples::list_failures;
use crate::snapshot::assert_snapshot;

/// Sentences of the systems that switchman follows, with their rows of docs/design/seed-systems.md.
const SEED_SENTENCES: [(&str, &str); 13] = [
    ("Failure::NoSuchService", "D13"),
    ("FleetDeployError::NoVersion", "D13"),
    ("FleetDeployError::NoMain", "D13"),
    ("FleetDeployError::NoMatch", "D18"),
    ("FleetDeployError::MainWithShadows", "D19"),
    ("FleetDeployError::OtherRelease", "D22"),
    ("FleetDeployError::Archive", "D21"),
    ("ArchiveError::Missing", "D21"),
    ("ArchiveError::UnsupportedFormat", "D21"),
    ("DeployRefusal::EndpointTaken", "R18"),
    ("Failure::Declined", "D12, D15 and R20"),
    ("Failure::NoTargetNamed", "D17"),
    ("Failure::Aborted", "D12"),
];

#[test]
fn errors_are_those_of_the_snapshot() {
    let mut text = String::new();
    let mut printed = BTreeSet::new();
    for (label, failure) in list_failures() {
        let mut sample = format!("error: {failure}\n");
        let _ = writeln!(sample, " next: {}", failure.hint());
        let _ = writeln!(sample, " exit: {}", failure.code() as u8);
        // Many errors reach the operator in two ways that print the same.
        if printed.insert(sample.clone()) {
            let _ = write!(text, "# {label}\n{sample}\n");
        }
    }
    assert_snapshot("errors.txt", &format!("{}\n", text.trim_end()));
}

/// Rows: D14.
#[test]
fn errors_name_what_failed_and_the_next_action() {
    let mut wrong = Vec::new();
    for (label, failure) in list_failures() {
        let (message, hint) = (failure.to_string(), failure.hint());
        let mut report = |what: &str| wrong.push(format!("{label}: {what}: {message:?}, next: {hint:?}"));
        let is_seed = SEED_SENTENCES.iter().any(|(seed, _)| *seed == label);
        let first = message.strip_prefix("cannot ").and_then(|rest| rest.chars().next());
        if !is_seed && !first.is_some_and(char::is_lowercase) {
            report("does not start with `cannot VERB`");
        }
        if !is_seed && !message.contains(": ") {
            report("has no cause");
        }
        if message.to_lowercase().contains("error:") && !message.contains("\n    | ") {
            report("repeats `error:`");
        }
        if message.matches("cannot ").count() > 2 {
            report("has `cannot` more than twice");
        }
        if message.ends_with('.') && !is_seed {
            report("ends with a full stop");
        }
        if hint.ends_with('.') || hint.ends_with('?') || hint.is_empty() {
            report("has a next action that is no action");
        }
    }
    assert!(wrong.is_empty(), "{} errors\n{}", wrong.len(), wrong.join("\n"));
}
