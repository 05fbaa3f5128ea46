//! `lock`.

use clap::{Args, Subcommand};

use super::Context;
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
    /// Who holds the fleet, since when, what for, and whether they are alive
    Status,
    /// Hold the fleet: no roll begins until it is released
    Acquire {
        /// Why; whoever is refused reads it
        #[arg(short, long, value_name = "TEXT")]
        message: String,
    },
    /// Let it go: one's own, or anybody's with --force
    Release {
        /// Also when somebody else holds it
        #[arg(long, requires = "reason")]
        force: bool,
        /// Why; the history keeps it
        #[arg(long, value_name = "TEXT", requires = "force")]
        reason: Option<String>,
    },
}

pub async fn run(args: LockArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.load_config()?;
    let world = context.build_fleet_world(&file, &fleet, &[]);
    let user = env::actor().user;
    match args.command {
        LockCommand::Status => context.renderer.lock(world.lock.view()?.as_ref()),
        LockCommand::Acquire { message } => {
            let holder = lock::acquire_for_person(&world, &user, &message).await?;
            context.renderer.print_remark(&format!("the fleet is held by {holder}"));
        }
        LockCommand::Release { reason, .. } => {
            let held = lock::release(&world, &user, reason.as_deref())?;
            context.renderer.print_remark(&format!("released: {}", held.holder));
        }
    }
    Ok(())
}
