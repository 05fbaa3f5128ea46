//! The flags of commands that refresh their output.

use std::time::Duration;

use clap::Args;

use super::Context;
use super::interrupt::InterruptPolicy;
use crate::error::Failure;
use crate::model::duration;

#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// Refresh the output until Ctrl-C
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Refresh --watch at this interval
    #[arg(short = 'n', long, value_name = "DURATION", value_parser = duration::parse, default_value = "1s")]
    interval: Duration,
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
