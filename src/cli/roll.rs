//! `roll`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Context;
use super::host_args::HostArgs;
use super::interrupt;
use super::lock_wait_args::LockWaitArgs;
use super::plain_text_arg::parse_plain_text;
use super::render::RollView;
use super::summary::{Summary, SummaryArgs};
use crate::config::env;
use crate::error::Failure;
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::roll::{Batch, OnFailure, RollSpec, Work};
use crate::ops::fleet::roll::{self, RollError, RollReport};
use crate::plan::host_selection::HostSelection;
use crate::world::FleetWorld;

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.conflicts_with("verb").help("Act on this host only; may be given several times, in roll order [default: every host]")))]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RollArgs {
    #[command(flatten)]
    hosts: HostArgs,
    /// Take this many hosts out at a time, or this percentage [default: roll.batch, or 1]
    #[arg(long, value_name = "N|P%", conflicts_with = "verb")]
    batch: Option<Batch>,
    /// Stop the roll when more hosts than this fail [default: roll.max_failures, or 0]
    #[arg(long, value_name = "N", conflicts_with = "verb")]
    max_failures: Option<u32>,
    /// Limit the drain of each host [default: roll.drain_timeout, or 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "verb")]
    drain_timeout: Option<Duration>,
    /// Limit the wait for a healthy main vhost after the command [default: roll.health_timeout, or 1m]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "verb")]
    health_timeout: Option<Duration>,
    /// End the command when it takes longer [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "verb")]
    command_timeout: Option<Duration>,
    /// Leave out or put back the rest of the batch when the roll stops.
    ///
    /// This concerns hosts that are out and have not begun the command when one failure too many stops the roll: they stay out
    /// for --resume, or are put back. The host that failed is always put back if its main vhost is healthy
    /// [default: roll.on_failure, or stop]
    #[arg(long, value_enum, conflicts_with = "verb")]
    on_failure: Option<OnFailureArg>,
    /// Run the command on the host instead of on this machine
    #[arg(long, conflicts_with = "verb")]
    remote: bool,
    /// Continue with requests still in flight after the drain timeout.
    ///
    /// The command may then cut these requests.
    #[arg(long, conflicts_with = "verb")]
    force: bool,
    #[command(flatten)]
    lock_wait: LockWaitArgs,
    #[command(flatten)]
    summary: SummaryArgs,
    /// Take over hosts that another operation took out of service; needs --force
    #[arg(long, value_name = "TEXT", value_parser = parse_plain_text, requires = "force")]
    reason: Option<String>,
    /// Run the checks of a roll, print its steps and their longest waits, and change nothing
    #[arg(long, conflicts_with = "verb")]
    dry_run: bool,
    /// Show the progress of the last roll
    #[arg(long, group = "verb")]
    status: bool,
    /// Resume the last roll with its original options.
    ///
    /// A command that succeeded on a host is not run there again.
    #[arg(long, group = "verb")]
    resume: bool,
    /// Put back every host that the last roll took out, if its main vhost is healthy
    #[arg(long, group = "verb")]
    abort: bool,
    /// Succeed where no roll is unfinished, for --resume and --abort in scripts
    #[arg(long, requires = "verb", conflicts_with_all = ["status", "command"])]
    if_any: bool,
    /// The command to run for each host, without a shell.
    ///
    /// Its environment has SWITCHMAN_HOST, SWITCHMAN_ADDRESS, SWITCHMAN_SERVICE, SWITCHMAN_STEP, SWITCHMAN_ROLL_ID and
    /// SWITCHMAN_ATTEMPT. It may run again after a crash.
    #[arg(last = true, value_name = "CMD", required_unless_present = "verb", conflicts_with = "verb")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnFailureArg {
    Stop,
    Return,
}

impl RollArgs {
    pub(super) const fn is_read_only(&self) -> bool {
        self.status || self.dry_run
    }

    pub(super) fn lock_wait_limit(&self) -> Duration {
        if self.is_read_only() { Duration::ZERO } else { self.lock_wait.limit() }
    }
}

pub async fn run(args: RollArgs, context: &Context) -> Result<(), Failure> {
    let forced_stop = Failure::ForcedStop { recovery: interrupt::ROLL_RECOVERY };
    let Some(summary) = args.summary.open(&context.renderer, forced_stop)? else {
        return run_verb(&args, context, None).await.map(drop);
    };
    let ended = run_verb(&args, context, Some(&summary)).await;
    summary.write(ended.as_ref().err(), ended.as_deref().unwrap_or_default());
    ended.map(drop)
}

/// Returns the outcome in words where no roll was touched.
async fn run_verb(args: &RollArgs, context: &Context, summary: Option<&Summary>) -> Result<String, Failure> {
    if args.status {
        let (file, fleet) = context.load_written_config()?;
        let world = context.build_fleet_world(&file, &fleet, &[]);
        let view =
            RollView { progress: roll::read_last(&world).await?, lock: world.lock.read_holder().await? };
        context.renderer.print_roll_status(&view);
        return Ok(String::new());
    }
    let is_recorded = args.resume || args.abort;
    let (file, fleet) =
        if is_recorded { context.load_recorded_config().await? } else { context.load_config().await? };
    let hosts = context.select_hosts(&fleet, args.hosts.select_or(HostSelection::All))?;
    let spec = build_spec(args, &fleet, &hosts);
    let mut world = context.build_fleet_world(&file, &fleet, &hosts);
    if let Some(summary) = summary {
        world.reporter = summary.record_outputs(world.reporter);
    }
    let actor = env::read_actor().with_reason(args.reason.as_deref(), args.force);
    if args.dry_run {
        let plan = roll::plan(&world, &fleet, &spec).await;
        context.renderer.print_plan(&plan.map_err(|error| Failure::Roll(error.into()))?);
        roll::check(&world, &fleet, &spec, &actor).await?;
        return Ok(String::new());
    }
    context.renderer.follow_roll();
    let ended = if args.resume {
        roll::resume(&world, &fleet, &actor).await
    } else if args.abort {
        roll::abort(&world, &fleet, &actor).await
    } else {
        roll::run(&world, &fleet, &spec, &actor).await
    };
    if let Some(summary) = summary {
        note_progress(summary, &world, &ended).await;
    }
    if let Ok(report) = &ended {
        context.report_host_changes(&report.progress.spec).await;
    }
    match ended {
        Err(nothing @ (RollError::NotFound { .. } | RollError::Finished { .. })) if args.if_any => {
            Ok(context.renderer.print_no_unfinished_roll(&nothing))
        }
        ended => context.renderer.print_roll_result(&ended?).map(|()| String::new()),
    }
}

/// Keeps the progress of the roll that this command was about, for its summary.
async fn note_progress(summary: &Summary, world: &FleetWorld, ended: &Result<RollReport, RollError>) {
    match ended {
        Ok(report) => summary.note_progress(&report.progress),
        Err(RollError::Unfinished { progress }) => summary.note_progress(progress),
        // What is recorded of a roll that could not record its end.
        Err(RollError::Journal(_)) => {
            if let Ok(Some(progress)) = roll::read_last(world).await {
                summary.note_progress(&progress);
            }
        }
        Err(_) => {}
    }
}

fn build_spec(args: &RollArgs, fleet: &Fleet, hosts: &[Host]) -> RollSpec {
    RollSpec {
        service: fleet.service.clone(),
        hosts: hosts.iter().map(|host| host.name.clone()).collect(),
        // The roll records them.
        found_hosts: vec![],
        batch: args.batch.unwrap_or(fleet.roll.batch),
        max_failures: args.max_failures.unwrap_or(fleet.roll.max_failures),
        on_failure: match args.on_failure {
            Some(OnFailureArg::Stop) => OnFailure::Stop,
            Some(OnFailureArg::Return) => OnFailure::Return,
            None => fleet.roll.on_failure,
        },
        drain_timeout: args.drain_timeout.unwrap_or(fleet.limits.drain_timeout),
        health_timeout: args.health_timeout.unwrap_or(fleet.roll.health_timeout),
        force: args.force,
        work: Work::Command {
            argv: args.command.clone(),
            remote: args.remote,
            timeout: args.command_timeout.filter(|timeout| !timeout.is_zero()),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind::ArgumentConflict;

    use crate::cli::Cli;

    /// The journal has the original options: a flag given with `--resume` would be ignored.
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
        assert_eq!(read("switchman roll --resume --if-any --wait-lock 10m"), Ok(()));
        assert_eq!(read("switchman roll --abort --if-any --wait-lock 0"), Ok(()));
        assert_eq!(read("switchman roll --if-any --status"), Err(ArgumentConflict));
        assert_eq!(read("switchman roll --if-any -- true"), Err(ArgumentConflict));
        assert_eq!(read("switchman roll --batch 2 --dry-run -- true"), Ok(()));
    }
}
