//! The flag `--wait-lock`, with the same meaning for every command that takes the fleet lock.

use std::time::Duration;

use clap::Args;

use crate::model::duration::{self, DurationError};

#[derive(Debug, Default, Args)]
pub struct LockWaitArgs {
    /// Wait this long for the fleet lock if another command holds it [default: 0s, refuse at once]
    #[arg(long, value_name = "DURATION", value_parser = parse_limit, env = "SWITCHMAN_WAIT_LOCK")]
    wait_lock: Option<Duration>,
}

impl LockWaitArgs {
    pub(super) fn limit(&self) -> Duration {
        self.wait_lock.unwrap_or_default()
    }
}

fn parse_limit(text: &str) -> Result<Duration, DurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) }
}
