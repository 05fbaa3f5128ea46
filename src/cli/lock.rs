//! `lock`.

use clap::{Args, Subcommand};

use std::time::Duration;

use super::Context;
use super::lock_wait_args::LockWaitArgs;
use super::plain_text_arg::parse_plain_text;
use crate::config::env;
use crate::error::Failure;
use crate::ops::fleet::lock;

#[derive(Debug, Args)]
pub struct LockArgs {
    #[command(subcommand)]
    command: LockCommand,
}

#[derive(Debug, Subcommand)]
enum LockCommand {
    /// Show the holder of the lock, its purpose, age and heartbeat
    Status,
    /// Lock the fleet: no roll begins until the lock is released
    Acquire {
        /// State the reason, which is shown to operators who are refused
        #[arg(short, long, value_name = "TEXT", value_parser = parse_plain_text)]
        message: String,
        #[command(flatten)]
        lock_wait: LockWaitArgs,
    },
    /// Release your own lock, or another operator's with --force
    Release {
        /// Release the lock even if another operator holds it
        #[arg(long, requires = "reason")]
        force: bool,
        /// State the reason, which is kept in the history
        #[arg(long, value_name = "TEXT", value_parser = parse_plain_text, requires = "force")]
        reason: Option<String>,
    },
}

impl LockArgs {
    pub(super) fn lock_wait_limit(&self) -> Duration {
        match &self.command {
            LockCommand::Acquire { lock_wait, .. } => lock_wait.limit(),
            LockCommand::Status | LockCommand::Release { .. } => Duration::ZERO,
        }
    }
}

pub async fn run(args: LockArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.load_written_config()?;
    let world = context.build_fleet_world(&file, &fleet, &[]);
    let user = env::read_actor().user;
    match args.command {
        LockCommand::Status => context.renderer.print_lock(world.lock.read_holder().await?.as_ref()),
        LockCommand::Acquire { message, .. } => {
            let holder = lock::acquire_for_person(&world, &user, &message).await?;
            context.renderer.print_acquired_lock(&holder);
        }
        LockCommand::Release { reason, .. } => {
            let released = lock::release(&world, &user, reason.as_deref()).await?;
            context.renderer.print_released_lock(&released.holder);
        }
    }
    Ok(())
}
