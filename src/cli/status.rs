//! `status`.

use clap::Args;

use super::Context;
use super::host_args::HostArgs;
use super::interrupt::InterruptPolicy;
use super::refresh_args::RefreshArgs;
use super::render::RollView;
use crate::error::Failure;
use crate::ops::fleet::roll;
use crate::ops::fleet::status;
use crate::plan::host_selection::HostSelection;
use crate::world::reporter::{Event, Reporter};

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("Show this host only; may be given several times [default: this machine, or all if it is no host]")))]
pub struct StatusArgs {
    #[command(flatten)]
    hosts: HostArgs,
    #[command(flatten)]
    refresh: RefreshArgs,
}

impl StatusArgs {
    pub(super) const fn interrupt_policy(&self) -> InterruptPolicy {
        self.refresh.interrupt_policy()
    }
}

pub async fn run(args: StatusArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.load_config().await?;
    let hosts = context.select_hosts(&fleet, args.hosts.select_or(HostSelection::ThisOrAll))?;
    let world = context.build_fleet_world(&file, &fleet, &hosts);
    loop {
        let statuses = hosts.iter().map(|host| status::read_status(&world, &fleet, host));
        let statuses = futures_util::future::join_all(statuses).await;
        // A journal that this user may not read hides the roll, not the hosts.
        let (progress, lock) = match (roll::read_last(&world).await, world.lock.read_holder().await) {
            (Ok(progress), Ok(lock)) => (progress.filter(|progress| !progress.is_finished()), lock),
            (Err(error), _) | (_, Err(error)) => {
                context.renderer.report(&Event::Warning { text: error.to_string() });
                (None, None)
            }
        };
        let view = (progress.is_some() || lock.is_some()).then_some(RollView { progress, lock });
        let mains = status::find_mains_difference(&world, &fleet, &statuses).await;
        context.renderer.print_status(&statuses, mains.as_ref(), view.as_ref(), args.refresh.watch);
        if !args.refresh.watch || !args.refresh.wait_for_next(context).await? {
            return Ok(());
        }
    }
}
