//! `status`.

use std::time::Duration;

use clap::Args;

use super::Context;
use super::host_args::HostArgs;
use super::render::RollView;
use crate::error::Failure;
use crate::model::duration;
use crate::ops::fleet::roll;
use crate::ops::fleet::status;
use crate::plan::host_selection::HostSelection;
use crate::world::reporter::{Event, Reporter};

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("Act on this host only; may be given several times [default: this machine, or all if it is no host]")))]
pub struct StatusArgs {
    #[command(flatten)]
    hosts: HostArgs,
    /// Refresh the output until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Refresh --watch at this interval
    #[arg(short = 'n', long, value_name = "DURATION", value_parser = duration::parse, default_value = "1s")]
    interval: Duration,
}

pub async fn run(args: StatusArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.load_config()?;
    let hosts = context.select_hosts(&fleet, args.hosts.select_or(HostSelection::ThisOrAll))?;
    let world = context.build_fleet_world(&file, &fleet, &hosts);
    loop {
        let looks = hosts.iter().map(|host| status::read_status(&world, &fleet, host));
        let looks = futures_util::future::join_all(looks).await;
        // A journal that this user may not read hides the roll, not the hosts.
        let (standing, lock) = match (roll::read_last(&world), world.lock.view()) {
            (Ok(standing), Ok(lock)) => (standing.filter(|standing| !standing.is_finished()), lock),
            (Err(error), _) | (_, Err(error)) => {
                context.renderer.report(&Event::Warning { text: error.to_string() });
                (None, None)
            }
        };
        let view = (standing.is_some() || lock.is_some()).then_some(RollView { standing, lock });
        context.renderer.status(&looks, view.as_ref(), args.watch);
        if !args.watch {
            return Ok(());
        }
        context.renderer.flush()?;
        tokio::select! {
            () = context.stop.wait() => return Ok(()),
            () = tokio::time::sleep(args.interval) => {}
        }
    }
}
