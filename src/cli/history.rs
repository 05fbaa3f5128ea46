//! `history`.

use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::model::name::ServiceName;

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only this service
    service: Option<ServiceName>,
    /// The latest so many rows
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: u32,
}

pub fn run(args: &HistoryArgs, context: &Context) -> Result<(), Failure> {
    let world = context.world(None);
    let rows = world.store.history(args.service.as_ref(), args.limit)?;
    context.render.history(&rows);
    Ok(())
}
