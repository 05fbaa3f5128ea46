//! The only place that reads the environment.

use nix::unistd::{Uid, User};

use crate::model::history::Actor;

/// Returns the operator who runs this process; with sudo, the user who called it.
pub fn read_actor() -> Actor {
    let of_process = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    let user =
        read_text("SUDO_USER").or_else(of_process).unwrap_or_else(|| format!("uid {}", Uid::current()));
    let machine = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    // The command of a roll belongs to that roll.
    let roll = read_text("SWITCHMAN_ROLL_ID").and_then(|id| id.parse().ok());
    Actor { machine: machine.unwrap_or_default(), roll, ..Actor::new(user, std::process::id()) }
}

/// Reads a variable of the caller's own environment, for `deploy --env NAME`.
pub fn read_variable(name: &str) -> Option<String> {
    read_text(name)
}

/// Reads the index of the word that a shell completes.
pub fn read_completion_index() -> Option<usize> {
    read_text("_CLAP_COMPLETE_INDEX")?.parse().ok()
}

/// Reads the log filter from `SWITCHMAN_LOG`, in the syntax of `env_logger`.
pub fn read_log_filter() -> Option<String> {
    read_text("SWITCHMAN_LOG")
}

#[allow(clippy::disallowed_methods, reason = "the only reader of the environment")]
fn read_text(key: &str) -> Option<String> {
    std::env::var(key).ok().filter(|value| !value.is_empty())
}
