//! The flags of commands that refresh their output.

use std::time::Duration;

use clap::Args;

use super::Context;
use super::interrupt::InterruptPolicy;
use crate::error::Failure;
use crate::model::duration::{self, DurationError};

#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// Refresh the output until Ctrl-C
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Refresh --watch at this interval
    #[arg(short = 'n', long, value_name = "DURATION", value_parser = parse_interval, default_value = "1s")]
    interval: Duration,
}

/// Reads a duration, or a plain number of seconds (seed row R23, docs/design/seed-systems.md#restate).
fn parse_interval(text: &str) -> Result<Duration, DurationError> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => duration::parse(&format!("{seconds}s")),
        _ => duration::parse(text),
    }
}

impl RefreshArgs {
    pub(super) const fn interrupt_policy(&self) -> InterruptPolicy {
        if self.watch { InterruptPolicy::Complete } else { InterruptPolicy::Fail }
    }

    /// Shows the collected output and waits for the next refresh. Returns `false` when the operator stops the command.
    pub(super) async fn wait_for_next(&self, context: &Context) -> Result<bool, Failure> {
        context.renderer.flush()?;
        tokio::select! {
            () = context.stop.wait() => Ok(false),
            () = tokio::time::sleep(self.interval) => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: R23.
    #[test]
    fn r23_interval_is_a_duration_or_plain_seconds() {
        assert_eq!(parse_interval("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_interval("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "0", "-1", "2x"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }
}
