//! `completions`, and the answers to a shell that completes a command line.

use std::ffi::OsString;
use std::sync::Arc;

use clap::{Args, Command};
use clap_complete::env::{CompleteEnv, Shells};
use clap_complete::{ArgValueCompleter, PathCompleter, Shell};

use super::Context;
use super::failure::fail_system;
use super::world_params::WorldFactory;
use crate::config::env;
use crate::error::Failure;

mod candidates;

use candidates::{CommandLine, list_paths};

/// The variable by which a shell's script requests candidates. It is not clap's own, which any program may have in its environment.
const REQUEST_VARIABLE: &str = "SWITCHMAN_COMPLETE";

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, context: &Context) -> Result<(), Failure> {
    context.renderer.print_text(&generate_script(args.shell)?);
    Ok(())
}

/// Generates the script that makes a shell request candidates from this program at each completion.
fn generate_script(shell: Shell) -> Result<String, Failure> {
    let shells = Shells::builtins();
    let mut script = Vec::new();
    if let Some(completer) = shells.completer(&shell.to_string()) {
        let written = completer.write_registration(
            REQUEST_VARIABLE,
            "switchman",
            "switchman",
            "switchman",
            &mut script,
        );
        written.map_err(fail_system("print the completion script"))?;
    }
    if shell == Shell::Zsh {
        // zsh loads the file `_switchman` at the first completion, and expects the answer to that one too.
        script.extend_from_slice(
            b"[[ \"${funcstack[1]}\" != _switchman ]] || _clap_dynamic_completer_switchman \"$@\"\n",
        );
    }
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// Answers a shell that completes a command line. Returns `false` if no shell requested it, so that the command is to be run.
/// An error is not printed: the operator is typing.
pub fn answer_shell(words: Vec<OsString>, build: fn() -> Command, world_factory: WorldFactory) -> bool {
    let line = CommandLine::new(&words, env::read_completion_index(), build, world_factory);
    let line = Arc::new(line);
    let working_dir = std::env::current_dir().ok();
    CompleteEnv::with_factory(|| build_command(&line))
        .var(REQUEST_VARIABLE)
        .try_complete(words, working_dir.as_deref())
        .unwrap_or(true)
}

/// Builds the command line with candidates for the names of hosts, services, versions and ids. Without the commands that switchman
/// starts by itself: clap offers hidden ones where no other matches.
fn build_command(line: &Arc<CommandLine>) -> Command {
    let whole = (line.build)();
    let commands = whole.get_subcommands().filter(|one| !one.is_hide_set()).cloned();
    let commands: Vec<Command> = commands.map(|one| add_candidates(one, line)).collect();
    let root = Command::new("switchman").args(whole.get_arguments()).subcommands(commands);
    add_candidates(root, line)
}

fn add_candidates(command: Command, line: &Arc<CommandLine>) -> Command {
    let is_new_version = command.get_name() == "deploy";
    command.mut_args(|arg| {
        let is_positional = arg.is_positional();
        let line = line.clone();
        match arg.get_id().as_str() {
            "hosts" => arg.add(line.completer(|line, _| line.list_hosts())),
            "service" if !is_positional => arg.add(line.completer(|line, _| line.list_services())),
            "history_of" => arg.add(line.completer(|line, _| line.list_services())),
            "name" if is_positional => arg.add(line.completer(CommandLine::list_names)),
            "version" if is_positional && !is_new_version => {
                arg.add(line.completer(|line, _| line.list_versions()))
            }
            "version_or_source" => arg.add(line.completer(|line, typed| {
                let mut both = line.list_versions();
                both.extend(list_paths(typed));
                both
            })),
            "source" => arg.add(ArgValueCompleter::new(PathCompleter::any())),
            _ => arg,
        }
    })
}
