//! `-h` and `--help` of every command, hidden ones too, found by walking the definition of the command line.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::{Command, CommandFactory};
use switchman::cli::Cli;

use super::run_switchman;
use crate::snapshot::{assert_no_other_snapshot, assert_snapshot};

/// The heading of the options that every help text repeats.
const GLOBAL_OPTIONS: &str = "Options of every command:";

/// Lists the words of every command line that has a help text: none for the program itself.
fn list_commands(command: &Command, words: &[String], found: &mut Vec<Vec<String>>) {
    found.push(words.to_vec());
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let words: Vec<String> = words.iter().cloned().chain([inner.get_name().to_owned()]).collect();
        list_commands(inner, &words, found);
    }
}

/// Leaves out trailing blanks, and the options of every command below their heading: the program's own help has them once.
fn shorten(help: &str, is_root: bool) -> String {
    let mut is_repeated = false;
    let mut lines: Vec<&str> = Vec::new();
    for line in help.lines().map(str::trim_end) {
        is_repeated &= line.is_empty() || line.starts_with(' ');
        if !is_repeated {
            lines.push(line);
        }
        if line == GLOBAL_OPTIONS && !is_root {
            is_repeated = true;
            lines.extend(["  (see switchman.txt)", ""]);
        }
    }
    lines.join("\n").trim_end().to_owned()
}

#[test]
fn help_texts_are_those_of_the_snapshots() {
    let mut root = Cli::command();
    root.build();
    let mut commands = Vec::new();
    list_commands(&root, &[], &mut commands);
    let mut names = BTreeSet::new();
    for words in commands {
        let line = ["switchman".to_owned()].iter().chain(&words).cloned().collect::<Vec<_>>();
        let mut text = String::new();
        for flag in ["-h", "--help"] {
            let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
            args.push(flag);
            let output = run_switchman(&args);
            assert!(output.status.success(), "{args:?}: {output:?}");
            let help = String::from_utf8(output.stdout).unwrap();
            assert!(help.contains(GLOBAL_OPTIONS), "{args:?} prints the options of every command");
            let _ = write!(text, "$ {} {flag}\n{}\n\n", line.join(" "), shorten(&help, words.is_empty()));
        }
        let name = format!("{}.txt", line.join("-"));
        assert_snapshot(&format!("help/{name}"), &format!("{}\n", text.trim_end()));
        names.insert(name);
    }
    assert_no_other_snapshot("help", &names);
}
