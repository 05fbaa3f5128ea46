//! Snapshots of what the built program prints: help texts and usage errors. Errors and findings have theirs in `src/error`.
//!
//! `UPDATE_SNAPSHOTS=1 cargo nextest run -E 'test(/snapshots/)'` rewrites the files of `tests/snapshots/`.

use std::process::{Command, Output, Stdio};

mod help;
mod troubleshooting;
mod usage;

/// Runs the program without the environment of this machine: help texts show values of variables.
#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn run_switchman(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_switchman"))
        .args(args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
