//! Generates `docs/cli.md` from the definition of the command line.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::links::heading_anchor;
use super::{Cli, assert_current, escape, render_notice, wrap};

#[test]
fn cli_page_is_current() {
    assert_current("cli.md", &render_page());
}

fn render_page() -> String {
    let mut root = Cli::command();
    root.build();
    let mut page = render_notice("the command line's own definition");
    let _ = write!(page, "\n# Command line\n\n{}", render_paragraphs(help_of(&root)));
    page.push_str("`switchman help COMMAND` prints the same texts, and `switchman man DIR` writes them as manual pages.\n\n");
    page.push_str("| command | what it does |\n|---|---|\n");
    for command in visible_commands(&root) {
        let name = command.get_bin_name().unwrap();
        let aliases: String = command.get_visible_aliases().map(|alias| format!(", `{alias}`")).collect();
        let summary = escape(&help_text(command.get_about()));
        let _ =
            writeln!(page, "| [`{}`](#{}){aliases} | {summary} |", command.get_name(), heading_anchor(name));
    }
    page.push_str("\n## Options of every command\n\n");
    page.extend(root.get_arguments().filter(|arg| is_shown(arg)).map(render_option));
    page.push_str("- `-h`, `--help`: Print help; `--help` prints the long texts.\n");
    page.push_str("- `-V`, `--version`: Print the version.\n");
    let _ = write!(page, "\n{}", render_paragraphs(root.get_after_help()).trim_end());
    page.push('\n');
    for command in visible_commands(&root) {
        render_section(command, 2, &mut page);
    }
    page
}

fn visible_commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn render_section(command: &Command, depth: usize, page: &mut String) {
    let name = command.get_bin_name().unwrap();
    let _ = write!(page, "\n{} {name}\n\n{}", "#".repeat(depth), render_paragraphs(help_of(command)));
    let usage = command.clone().render_usage().to_string();
    let _ = write!(page, "```text\n{}\n```\n\n", usage.strip_prefix("Usage: ").unwrap_or(&usage));
    let own = |arg: &&Arg| is_shown(arg) && !arg.is_global_set();
    let (operands, options): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(own).partition(|arg| arg.is_positional());
    for args in [operands, options] {
        if !args.is_empty() {
            page.extend(args.into_iter().map(render_option));
            page.push('\n');
        }
    }
    page.push_str(&render_paragraphs(command.get_after_long_help().or(command.get_after_help())));
    for command in visible_commands(command) {
        render_section(command, depth + 1, page);
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
}

fn is_shown(arg: &Arg) -> bool {
    use ArgAction::{Help, HelpLong, HelpShort, Version};
    !arg.is_hide_set() && !matches!(arg.get_action(), Help | HelpShort | HelpLong | Version)
}

fn help_of(command: &Command) -> Option<&StyledStr> {
    command.get_long_about().or(command.get_about())
}

fn help_text(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// Renders the paragraphs of a help text, each followed by an empty line.
fn render_paragraphs(text: Option<&StyledStr>) -> String {
    let text = escape(&help_text(text));
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    paragraphs.map(|paragraph| format!("{}\n\n", wrap(&end_sentence(paragraph), ""))).collect()
}

fn render_option(arg: &Arg) -> String {
    let help = help_text(arg.get_long_help().or(arg.get_help()));
    // Some help texts end with their default.
    let (help, default) = match help.trim().strip_suffix(']').and_then(|help| help.rsplit_once("[default: "))
    {
        Some((help, default)) => (help.to_owned(), Some(default.to_owned())),
        None => (help, None),
    };
    let mut help = end_sentence(&escape(&help));
    if let Some(default) = default {
        let _ = write!(help, " Default: {}.", escape(&default));
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
    format!("{}\n", wrap(&format!("- {}: {help}", spell_option(arg)), "  "))
}

/// Spells an option as `-p`, `--port <PORT>`, with its aliases after that.
fn spell_option(arg: &Arg) -> String {
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

/// Adds the full stop that help texts lack.
fn end_sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', ':', '?']) { text.to_owned() } else { format!("{text}.") }
}
