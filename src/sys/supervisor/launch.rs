//! Starts a keeper that is a child of no caller, waits for its report, and passes that on.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use super::instance_dir::{InstanceDir, StartReport};
use crate::sys::exec::{DEFAULT_PATH, OWN_EXE, Program};

/// Complaints of keepers that are kept, bytes.
const MAX_LOG_BYTES: u64 = 1024 * 1024;

pub fn launch(dir: &Path) -> Result<(), String> {
    let text = match start_monitor(dir) {
        Ok(text) if text.is_empty() => {
            serde_json::to_vec(&StartReport::Failed { why: read_last_log_line(dir) })
        }
        Ok(text) => Ok(text),
        Err(error) => {
            serde_json::to_vec(&StartReport::Failed { why: format!("cannot start its keeper: {error}") })
        }
    };
    let text = text.map_err(|error| error.to_string())?;
    let mut out = io::stdout();
    out.write_all(&text).and_then(|()| out.flush()).map_err(|error| error.to_string())
}

fn start_monitor(dir: &Path) -> io::Result<Vec<u8>> {
    let complaints = InstanceDir::new(dir).file_path("keeper.log");
    if fs::metadata(&complaints).is_ok_and(|file| file.len() > MAX_LOG_BYTES) {
        fs::remove_file(&complaints)?;
    }
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // Nothing of the caller is inherited: a caller may be an instance itself, with the mark of another one.
    Program::new(OWN_EXE)
        .args(["supervise", "--role", "monitor"])
        .arg(dir)
        .env("PATH", DEFAULT_PATH)
        .orphan(&write, &complaints)?;
    drop(write);
    let mut text = Vec::new();
    File::from(read).read_to_end(&mut text)?;
    Ok(text)
}

fn read_last_log_line(dir: &Path) -> String {
    let complaints = fs::read_to_string(InstanceDir::new(dir).file_path("keeper.log")).unwrap_or_default();
    complaints.lines().last().unwrap_or("it reported nothing").to_owned()
}
