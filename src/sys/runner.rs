//! `world::runner`: systemd where it is process 1, else a supervisor of our own.

use std::path::Path;
use std::sync::Arc;

use super::supervisor::Supervisor;
use super::systemd::Systemd;
use crate::world::runner::Runner;

/// The runner of this machine; `state_dir` is switchman's own. Units of a plain user are elsewhere, if there are any.
pub fn detect_runner(state_dir: &Path) -> Arc<dyn Runner> {
    if Systemd::is_running() && nix::unistd::geteuid().is_root() {
        return Arc::new(Systemd::new(state_dir));
    }
    Arc::new(Supervisor::new(state_dir))
}
