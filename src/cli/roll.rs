//! `roll`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Context;
use super::render::RollView;
use crate::config::env;
use crate::error::Failure;
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::roll::{Batch, OnFailure, RollSpec};
use crate::ops::fleet::roll;
use crate::plan::host_selection::HostSelection;
use crate::plan::roll::plan;

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RollArgs {
    /// Only this host; may be given several times, in the order they are taken out [default: every host]
    #[arg(long = "host", value_name = "HOST", conflicts_with = "verb")]
    hosts: Vec<HostName>,
    /// How many hosts are out at a time: a number, or a percentage such as 25% [default: roll.batch, or 1]
    #[arg(long, value_name = "N|P%", conflicts_with = "verb")]
    batch: Option<Batch>,
    /// How many hosts of the whole roll may fail; one more stops it [default: roll.max_failures, or 0]
    #[arg(long, value_name = "N", conflicts_with = "verb")]
    max_failures: Option<u32>,
    /// How long requests in flight are waited for [default: roll.drain_timeout, or 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "verb")]
    drain_timeout: Option<Duration>,
    /// How long the main vhost may take to become healthy after the command [default: roll.health_timeout, or 1m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "verb")]
    health_timeout: Option<Duration>,
    /// Ends the command when it takes longer [default: no bound]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "verb")]
    command_timeout: Option<Duration>,
    /// What becomes of the other hosts of a batch that are out when one failure too many stops the roll, and have not begun
    /// the command: they stay out for --resume, or are put back. The one that failed is always put back if its main vhost is
    /// healthy [default: roll.on_failure, or stop]
    #[arg(long, value_enum, conflicts_with = "verb")]
    on_failure: Option<OnFailureArg>,
    /// Run the command on the host instead of here
    #[arg(long, conflicts_with = "verb")]
    remote: bool,
    /// Go on when requests are still in flight at the end of the drain timeout; they are cut by what comes next
    #[arg(long, conflicts_with = "verb")]
    force: bool,
    /// Print what would be done, with the longest waits; asks nobody, does nothing
    #[arg(long, conflicts_with = "verb")]
    dry_run: bool,
    /// Show where the last roll stands
    #[arg(long, group = "verb")]
    status: bool,
    /// Go on with the last roll, as it was asked for. A command that ended well is not run again
    #[arg(long, group = "verb")]
    resume: bool,
    /// Put every host back that the last roll has taken out, as far as its main vhost is healthy
    #[arg(long, group = "verb")]
    abort: bool,
    /// The command, run for each host without a shell; its environment has SWITCHMAN_HOST, SWITCHMAN_ADDRESS,
    /// SWITCHMAN_SERVICE, SWITCHMAN_STEP, SWITCHMAN_ROLL_ID and SWITCHMAN_ATTEMPT. It may run again after a crash
    #[arg(last = true, value_name = "CMD", required_unless_present = "verb", conflicts_with = "verb")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnFailureArg {
    Stop,
    Return,
}

pub async fn run(args: RollArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.load_config()?;
    let asked = if args.hosts.is_empty() { HostSelection::All } else { HostSelection::Named(&args.hosts) };
    let hosts = context.select_hosts(&fleet, asked)?;
    if args.status {
        let world = context.build_fleet_world(&file, &fleet, &[]);
        let view = RollView { standing: roll::read_last(&world)?, lock: world.lock.view()? };
        context.renderer.print_roll_status(&view);
        return Ok(());
    }
    let spec = build_spec(&args, &fleet, &hosts);
    if args.dry_run {
        context.renderer.plan(&plan(&fleet, &spec).map_err(|error| Failure::Roll(error.into()))?);
        return Ok(());
    }
    let (world, actor) = (context.build_fleet_world(&file, &fleet, &hosts), env::actor());
    context.renderer.follow_roll();
    let report = if args.resume {
        roll::resume(&world, &fleet, &actor).await?
    } else if args.abort {
        roll::abort(&world, &fleet, &actor).await?
    } else {
        roll::run(&world, &fleet, &spec, &actor).await?
    };
    context.renderer.print_roll_result(&report)
}

fn build_spec(args: &RollArgs, fleet: &Fleet, hosts: &[Host]) -> RollSpec {
    RollSpec {
        service: fleet.service.clone(),
        hosts: hosts.iter().map(|host| host.name.clone()).collect(),
        batch: args.batch.unwrap_or(fleet.roll.batch),
        max_failures: args.max_failures.unwrap_or(fleet.roll.max_failures),
        on_failure: match args.on_failure {
            Some(OnFailureArg::Stop) => OnFailure::Stop,
            Some(OnFailureArg::Return) => OnFailure::Return,
            None => fleet.roll.on_failure,
        },
        drain_timeout: args.drain_timeout.unwrap_or(fleet.limits.drain_timeout),
        health_timeout: args.health_timeout.unwrap_or(fleet.roll.health_timeout),
        command: args.command.clone(),
        assign: None,
        remote: args.remote,
        command_timeout: args.command_timeout.unwrap_or_default(),
        force: args.force,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind::ArgumentConflict;

    use crate::cli::Cli;

    /// What was asked for is in the journal: a flag beside it would be ignored.
    #[test]
    fn resume_conflicts_with_flags_of_a_new_roll() {
        let read =
            |args: &str| Cli::try_parse_from(args.split(' ')).map(|_| ()).map_err(|error| error.kind());
        for flag in
            ["--batch 2", "--host web1", "--force", "--remote", "--drain-timeout 1m", "--dry-run", "-- true"]
        {
            assert_eq!(read(&format!("switchman roll --resume {flag}")), Err(ArgumentConflict), "{flag}");
        }
        assert_eq!(read("switchman roll --resume --output json"), Ok(()));
        assert_eq!(read("switchman roll --batch 2 --dry-run -- true"), Ok(()));
    }
}
