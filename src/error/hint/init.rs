//! The next action after a failure of `init`.

use crate::config::host_edit::HostEditError;
use crate::lint::{AdoptionError, UnclearLine};
use crate::ops::init::InitError;

pub const fn init_hint(error: &InitError) -> &'static str {
    match error {
        InitError::AlreadyExists { .. } => {
            "nothing was written; name another directory, or replace them with `--force`"
        }
        InitError::Directory(_) => "nothing was written; name another directory: `switchman init DIR`",
        InitError::Files(_) => {
            "nothing was left in the directory; check who may write there, or name another: `switchman init DIR`"
        }
        InitError::Template(_) => {
            "nothing was left in the directory; report this: a template of this switchman is wrong"
        }
    }
}

pub fn adoption_hint(error: &AdoptionError) -> &'static str {
    match error {
        AdoptionError::SeveralBackends { .. } | AdoptionError::UnknownBackend { .. } => {
            "nothing was written; choose with `--backend NAME`, once for each service, the main service first"
        }
        AdoptionError::ServiceName { .. } => "nothing was written; name the service with `--name NAME`",
        AdoptionError::UnknownHost { .. } => {
            "nothing was written; with `--from`, `--host` gives an address to a host of the files"
        }
        AdoptionError::HostsDiffer { .. } => {
            "nothing was written; choose one with `--backend NAME`: all services of a switchman.yaml have the same hosts"
        }
        AdoptionError::Unclear { lines } if has_no_address(lines) => {
            "nothing was written; run it again with `--host NAME=ADDRESS` for each of these hosts"
        }
        AdoptionError::NoBackend | AdoptionError::Unclear { .. } | AdoptionError::NoPort { .. } => {
            "nothing was written; change a copy of the file, or write switchman.yaml by hand"
        }
    }
}

/// Whether every line lacks no more than the address of its host.
fn has_no_address(lines: &[UnclearLine]) -> bool {
    lines.iter().all(|line| line.lacks_address)
}

pub const fn host_edit_hint(error: &HostEditError) -> &'static str {
    match error {
        HostEditError::Duplicate(_) => {
            "nothing was changed; give the new host a name and an address of its own"
        }
        HostEditError::NoHosts | HostEditError::UnknownForm => {
            "nothing was changed; add the entry to `hosts` by hand, as NAME: {address: ADDRESS}, then run `switchman check`"
        }
    }
}
