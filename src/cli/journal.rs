//! `journal`.

use clap::{Args, Subcommand};

use super::Context;
use crate::config;
use crate::config::env;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::ops::fleet::journal_move::move_journal;

#[derive(Debug, Args)]
pub struct JournalArgs {
    #[command(subcommand)]
    command: JournalCommand,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// Copy the journal to another store, check it there, and lock the old one
    ///
    /// The other store has to be empty, or to have what an interrupted move copied to it. Past and unfinished rolls and promotions,
    /// and the notes on the lock, are copied under both locks. The old store stays as it is. It is locked, so that an operator
    /// whose switchman.yaml still names it is refused.
    Move {
        /// Name the other store, in the form of the key `journal` of switchman.yaml
        ///
        /// Examples: `{host: ops@lb1}`, `{path: /srv/journal}`, `{postgres: "postgresql://ops@db1/switchman"}`. A password belongs
        /// into a secret_file, since other users of this machine can read command lines.
        #[arg(long, value_name = "LOCATION")]
        to: String,
    },
}

pub async fn run(args: JournalArgs, context: &Context) -> Result<(), Failure> {
    let JournalCommand::Move { to } = args.command;
    let (file, fleet) = context.load_written_config()?;
    let location = config::parse_journal(&file, &to, &fleet)?;
    let from = context.build_fleet_world(&file, &fleet, &[]);
    let target = Fleet { journal: location, ..fleet };
    let world = context.build_target_world(&file, &target);
    let moved = move_journal(&from, &world, &env::read_actor().user).await?;
    context.renderer.print_moved_journal(&moved, &to, &file);
    Ok(())
}
