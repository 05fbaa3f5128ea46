//! The only place that reads the environment.

use std::path::PathBuf;

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

/// Reads the user id of the caller of sudo; `None`: the command was not started by sudo.
pub fn read_sudo_uid() -> Option<u32> {
    read_text("SUDO_UID")?.parse().ok()
}

/// Reads a variable of the caller's own environment, for `deploy --env NAME`. An empty one is set.
#[allow(clippy::disallowed_methods, reason = "the only reader of the environment")]
pub fn read_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads the index of the word that a shell completes.
pub fn read_completion_index() -> Option<usize> {
    read_text("_CLAP_COMPLETE_INDEX")?.parse().ok()
}

/// Reads the log filter from `SWITCHMAN_LOG`, in the syntax of `env_logger`.
pub fn read_log_filter() -> Option<String> {
    read_text("SWITCHMAN_LOG")
}

/// The key and the known hosts of ssh: each as a file, or as its text.
#[derive(Default)]
pub struct SshVariables {
    pub key: Option<String>,
    pub key_file: Option<PathBuf>,
    pub known_hosts: Option<String>,
    pub known_hosts_file: Option<PathBuf>,
}

/// Reads the variables for ssh.
pub fn read_ssh_variables() -> SshVariables {
    SshVariables {
        key: read_text("SWITCHMAN_SSH_KEY"),
        key_file: read_text("SWITCHMAN_SSH_KEY_FILE").map(PathBuf::from),
        known_hosts: read_text("SWITCHMAN_SSH_KNOWN_HOSTS"),
        known_hosts_file: read_text("SWITCHMAN_SSH_KNOWN_HOSTS_FILE").map(PathBuf::from),
    }
}

/// The place of the journal: it replaces `journal` of the configuration.
#[derive(Default)]
pub struct JournalVariables {
    /// In the syntax of `journal`, or the URL of a PostgreSQL database.
    pub location: Option<String>,
    /// A password or an ACL token, instead of `secret_file`.
    pub secret: Option<String>,
}

/// The variable that names the place of the journal.
pub const JOURNAL_VARIABLE: &str = "SWITCHMAN_JOURNAL";

/// Reads the variables of the journal.
pub fn read_journal_variables() -> JournalVariables {
    JournalVariables {
        location: read_text(JOURNAL_VARIABLE),
        secret: read_text("SWITCHMAN_JOURNAL_SECRET").map(|secret| secret.trim_end().to_owned()),
    }
}

#[allow(clippy::disallowed_methods, reason = "the only reader of the environment")]
fn read_text(key: &str) -> Option<String> {
    std::env::var(key).ok().filter(|value| !value.is_empty())
}
