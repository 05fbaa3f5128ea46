//! `world::runner`: systemd where it is process 1, else a supervisor of our own.

use std::path::Path;
use std::sync::Arc;

use super::supervisor::Supervisor;
use crate::world::runner::Runner;

/// The runner of this machine; `state_dir` is switchman's own.
pub fn here(state_dir: &Path) -> Arc<dyn Runner> {
    Arc::new(Supervisor::new(state_dir))
}
