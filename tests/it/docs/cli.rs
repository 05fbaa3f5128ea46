//! `docs/cli.md`, from the definition of the command line.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::links::anchor;
use super::{Cli, assert_current, escaped, generated, wrap};

#[test]
fn cli_page_is_current() {
    assert_current("cli.md", &page());
}

fn page() -> String {
    let mut root = Cli::command();
    root.build();
    let mut page = generated("the command line's own definition");
    let _ = write!(page, "\n# Command line\n\n{}", paragraphs(about(&root)));
    page.push_str("`switchman help COMMAND` prints the same texts, and `switchman man DIR` writes them as manual pages.\n\n");
    page.push_str("| command | what it does |\n|---|---|\n");
    for command in commands(&root) {
        let name = command.get_bin_name().unwrap();
        let aliases: String = command.get_visible_aliases().map(|alias| format!(", `{alias}`")).collect();
        let summary = escaped(&line(command.get_about()));
        let _ = writeln!(page, "| [`{}`](#{}){aliases} | {summary} |", command.get_name(), anchor(name));
    }
    page.push_str("\n## Options of every command\n\n");
    root.get_arguments().filter(|arg| shown(arg)).for_each(|arg| page.push_str(&option(arg)));
    page.push_str("- `-h`, `--help`: Print help; `--help` prints the long texts.\n");
    page.push_str("- `-V`, `--version`: Print the version.\n");
    let _ = write!(page, "\n{}", paragraphs(root.get_after_help()).trim_end());
    page.push('\n');
    for command in commands(&root) {
        section(command, 2, &mut page);
    }
    page
}

fn commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn section(command: &Command, depth: usize, page: &mut String) {
    let name = command.get_bin_name().unwrap();
    let _ = write!(page, "\n{} {name}\n\n{}", "#".repeat(depth), paragraphs(about(command)));
    let usage = command.clone().render_usage().to_string();
    let _ = write!(page, "```text\n{}\n```\n\n", usage.strip_prefix("Usage: ").unwrap_or(&usage));
    let own = |arg: &&Arg| shown(arg) && !arg.is_global_set();
    let (operands, options): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(own).partition(|arg| arg.is_positional());
    for args in [operands, options] {
        if !args.is_empty() {
            args.into_iter().for_each(|arg| page.push_str(&option(arg)));
            page.push('\n');
        }
    }
    page.push_str(&paragraphs(command.get_after_long_help().or(command.get_after_help())));
    for command in commands(command) {
        section(command, depth + 1, page);
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
}

fn shown(arg: &Arg) -> bool {
    use ArgAction::{Help, HelpLong, HelpShort, Version};
    !arg.is_hide_set() && !matches!(arg.get_action(), Help | HelpShort | HelpLong | Version)
}

fn about(command: &Command) -> Option<&StyledStr> {
    command.get_long_about().or(command.get_about())
}

fn line(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// Paragraphs of a help text, each followed by an empty line.
fn paragraphs(text: Option<&StyledStr>) -> String {
    let text = escaped(&line(text));
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    paragraphs.map(|paragraph| format!("{}\n\n", wrap(&sentence(paragraph), ""))).collect()
}

fn option(arg: &Arg) -> String {
    let help = line(arg.get_long_help().or(arg.get_help()));
    // Where a default is written into the help text.
    let (help, default) = match help.trim().strip_suffix(']').and_then(|help| help.rsplit_once("[default: "))
    {
        Some((help, default)) => (help.to_owned(), Some(default.to_owned())),
        None => (help, None),
    };
    let mut help = sentence(&escaped(&help));
    if let Some(default) = default {
        let _ = write!(help, " Default: {}.", escaped(&default));
    }
    if matches!(arg.get_action(), ArgAction::Append)
        && !help.contains("several times")
        && !arg.is_positional()
    {
        help.push_str(" May be given several times.");
    }
    if arg.get_action().takes_values() {
        let values: Vec<String> = arg
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if !values.is_empty() {
            let _ = write!(help, " One of {}.", values.join(", "));
        }
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !defaults.is_empty() {
            let _ = write!(help, " Default: `{}`.", defaults.join(" "));
        }
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(help, " Environment: `{}`.", variable.to_string_lossy());
    }
    format!("{}\n", wrap(&format!("- {}: {help}", spelling(arg)), "  "))
}

/// `-p`, `--port <PORT>`; aliases behind.
fn spelling(arg: &Arg) -> String {
    if arg.is_positional() {
        let dashes = if arg.is_last_set() { "-- " } else { "" };
        return format!("`{dashes}{arg}`");
    }
    let names = arg.get_value_names().filter(|_| arg.get_action().takes_values());
    let value: String = names.into_iter().flatten().map(|name| format!(" <{name}>")).collect();
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}{value}"));
    let aliases = arg.get_visible_aliases().unwrap_or_default();
    let aliases = aliases.into_iter().map(|alias| format!("--{alias}"));
    let all: Vec<String> =
        short.into_iter().chain(long).chain(aliases).map(|name| format!("`{name}`")).collect();
    all.join(", ")
}

/// Ends with a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', ':', '?']) { text.to_owned() } else { format!("{text}.") }
}
