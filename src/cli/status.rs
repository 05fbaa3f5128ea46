//! `status`.

use std::time::Duration;

use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::model::duration;
use crate::model::name::HostName;
use crate::ops::status;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The host, when this machine's name and addresses do not tell
    #[arg(long, value_name = "HOST")]
    host: Option<HostName>,
    /// Show it again and again, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Between two looks of --watch
    #[arg(short = 'n', long, value_name = "DURATION", value_parser = duration::parse, default_value = "1s")]
    interval: Duration,
}

pub async fn run(args: StatusArgs, context: &Context) -> Result<(), Failure> {
    let (_, fleet) = context.config()?;
    let world = context.world(Some(&fleet));
    let host = context.host(&world, &fleet, args.host.as_ref())?;
    loop {
        let status = status::status(&world, &fleet, &host).await;
        context.render.status(&status, args.watch);
        if !args.watch {
            return Ok(());
        }
        context.render.flush()?;
        tokio::select! {
            () = context.stop.requested() => return Ok(()),
            () = tokio::time::sleep(args.interval) => {}
        }
    }
}
