//! `completions`.

use clap::{Args, Command};
use clap_complete::Shell;

use super::Context;
use crate::error::Failure;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, command: &Command, context: &Context) -> Result<(), Failure> {
    context.renderer.print_text(&String::from_utf8_lossy(&generate_script(args.shell, command)));
    Ok(())
}

fn generate_script(shell: Shell, command: &Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut remove_hidden_commands(command), "switchman", &mut script);
    script
}

/// Without the commands that switchman starts by itself: the generators offer hidden ones too, and clap takes none away again.
fn remove_hidden_commands(whole: &Command) -> Command {
    let about = whole.get_about().cloned().unwrap_or_default();
    let commands = whole.get_subcommands().filter(|one| !one.is_hide_set());
    Command::new("switchman")
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .args(whole.get_arguments())
        .subcommands(commands)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// Each shell names a command by its help text or by its branch.
    #[test]
    fn completions_omit_hidden_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = String::from_utf8(generate_script(shell, &Cli::command())).unwrap();
            for hidden in ["supervise", "Proxy a host", "switchman,proxy", "switchman;proxy"] {
                assert!(!script.contains(hidden), "{shell}: {hidden}");
            }
            for offered in ["promote", "journal-dir", "max-failures"] {
                assert!(script.contains(offered), "{shell}: {offered}");
            }
        }
    }
}
