//! The system's ssh with the operator's own configuration, keys and jump hosts; it never prompts.

use crate::model::shell::join_words;
use crate::sys::exec::Program;

pub mod stderr;

/// A connection that is dead is noticed after 15 s.
const LIMITS: [&str; 6] =
    ["-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"];

/// Builds an ssh that runs a command with words quoted for the remote shell.
pub fn build_remote_program(destination: &str, options: &[String], command: &[String]) -> Program {
    // A command that the operator's configuration names for the host would be in the way of ours.
    build_program(&["-T", "-o", "BatchMode=yes", "-o", "RemoteCommand=none"], options, &[], destination)
        .arg(join_words(command))
}

/// Builds an ssh that forwards a socket of this machine to one of the destination, and does nothing else. It is no client of
/// another ssh (ssh_config(5), ControlPath): that one would keep the forward when ours has ended.
pub fn build_forward_program(destination: &str, options: &[String], forward: &str) -> Program {
    // What is refused at the other end is only logged at this level. Forwards of the operator's own configuration may fail.
    let first = [
        "-N",
        "-T",
        "-o",
        "BatchMode=yes",
        "-o",
        "RemoteCommand=none",
        "-o",
        "LogLevel=INFO",
        "-o",
        "ExitOnForwardFailure=no",
    ];
    build_program(&first, options, &["-S", "none", "-L", forward], destination)
}

/// Puts the operator's options before the limits: of an option given twice, ssh takes the first (ssh_config(5)).
fn build_program(first: &[&str], options: &[String], last: &[&str], destination: &str) -> Program {
    Program::new("ssh").args(first).args(options).args(LIMITS).args(last).args(["--", destination])
}
