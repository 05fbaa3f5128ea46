//! `assign` and `rollback`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{CommandTarget, find_deployment, require_version};
use crate::cli::Context;
use crate::cli::host_args::HostArgs;
use crate::config::env;
use crate::error::Failure;
use crate::model::duration;
use crate::model::field::Field;
use crate::model::fleet::Fleet;
use crate::model::name::ServiceName;
use crate::model::percent::Percent;
use crate::model::roll::{Batch, RollSpec};
use crate::model::version::Version;
use crate::ops::fleet::deployments::{self, AssignOptions, CompareOptions, FleetDeployError, Strategy};
use crate::plan::compare::Criteria;

#[derive(Debug, Args)]
#[command(override_usage = "switchman assign [OPTIONS] <NAME VERSION | ID>")]
pub struct AssignArgs {
    /// The service, or the id of a deployment
    name: String,
    /// The version to make main; omit it when NAME is an id
    version: Option<Version>,
    #[command(flatten)]
    hosts: HostArgs,
    /// Change main by this strategy
    #[arg(long, value_enum, default_value = "rolling")]
    strategy: StrategyArg,
    /// Watch the new main for this long; 0s: not at all [default: versions.watch, or 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    watch: Option<Duration>,
    /// Do not wait for load balancers' idle connections to the old version.
    ///
    /// Only for --strategy flip, which otherwise waits until these connections have ended.
    #[arg(long)]
    no_wait: bool,
    /// Take this many hosts out at a time, for rolling [default: roll.batch, or 1]
    #[arg(long, value_name = "N|P%")]
    batch: Option<Batch>,
    /// Limit the drain of each host, for rolling [default: roll.drain_timeout, or 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    drain_timeout: Option<Duration>,
    #[command(flatten)]
    match_requirement: MatchRequirementArgs,
}

/// The match with main that the version's answers to copies must have shown.
#[derive(Debug, Args)]
struct MatchRequirementArgs {
    /// Refuse unless this share of its answers to copies matched main's.
    ///
    /// The answers are judged as by `switchman compare`.
    #[arg(long, value_name = "P")]
    require_match: Option<Percent>,
    /// Refuse with fewer compared answers than this, for --require-match
    #[arg(long, value_name = "N", default_value = "1000", requires = "require_match")]
    min_samples: u64,
    /// Ignore this field for --require-match; may be given several times
    #[arg(long = "ignore", value_name = "FIELD", requires = "require_match")]
    ignore: Vec<Field>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StrategyArg {
    Rolling,
    Flip,
}

pub async fn assign(args: AssignArgs, context: &Context) -> Result<(), Failure> {
    require_version(&args.name, args.version.as_ref(), || format!("make a version of {} main", args.name))?;
    let (service, target) = CommandTarget::load_named(context, &args.name, &args.hosts).await?;
    target.print_active_host(context);
    // Checks come before the question, never after it (docs/design/README.md#invariants, 14).
    let listing = target.list().await;
    if !listing.rows.iter().any(|row| row.service == service) {
        return Err(FleetDeployError::NoMain(service).into());
    }
    let row = find_deployment(listing, &args.name, args.version.as_ref())?;
    let version = row.version.clone();
    if row.main != Some(true) {
        check_match_requirement(&args.match_requirement, &target, &service, &version, context).await?;
    }
    if !context.confirm(&format!("Change {service} {version} to main?"))? {
        return Err(Failure::Declined("Assign cancelled."));
    }
    let options = build_options(&args, &target.fleet, &service, &version);
    if options.strategy == Strategy::Rolling {
        context.renderer.follow_roll();
    }
    let report = deployments::assign(&target.world, &target.fleet, &target.hosts, &options).await?;
    context.renderer.print_line(&format!("Changed main version to {service} {version}"));
    let listing = target.list().await.filter(Some(&service), None);
    context.renderer.print_assign(&report, &listing);
    Ok(())
}

/// Does nothing without `--require-match`.
async fn check_match_requirement(
    requirement: &MatchRequirementArgs,
    target: &CommandTarget,
    service: &ServiceName,
    version: &Version,
    context: &Context,
) -> Result<(), Failure> {
    if requirement.require_match.is_none() {
        return Ok(());
    }
    let MatchRequirementArgs { require_match, min_samples, ignore } = requirement;
    let demand =
        Criteria { require_match: *require_match, min_samples: *min_samples, ignore: ignore.clone() };
    let options = CompareOptions { service: service.clone(), version: version.clone(), demand };
    let report = deployments::require_match(&target.world, &target.hosts, &options).await?;
    context.renderer.print_remark(&report.reason);
    Ok(())
}

fn build_options(
    args: &AssignArgs,
    fleet: &Fleet,
    service: &ServiceName,
    version: &Version,
) -> AssignOptions {
    let roll = RollSpec {
        service: service.clone(),
        hosts: vec![],
        batch: args.batch.unwrap_or(fleet.roll.batch),
        max_failures: fleet.roll.max_failures,
        on_failure: fleet.roll.on_failure,
        drain_timeout: args.drain_timeout.unwrap_or(fleet.limits.drain_timeout),
        health_timeout: fleet.roll.health_timeout,
        command: vec![],
        remote: false,
        command_timeout: Duration::ZERO,
        force: false,
        assign: None,
    };
    AssignOptions {
        service: service.clone(),
        version: version.clone(),
        strategy: match args.strategy {
            StrategyArg::Rolling => Strategy::Rolling,
            StrategyArg::Flip => Strategy::Flip,
        },
        watch: args.watch.unwrap_or(fleet.versions.watch),
        wait: !args.no_wait,
        actor: env::read_actor(),
        roll,
    }
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The service
    name: ServiceName,
    #[command(flatten)]
    hosts: HostArgs,
}

pub async fn rollback(args: RollbackArgs, context: &Context) -> Result<(), Failure> {
    let target = CommandTarget::load_service(context, &args.name, &args.hosts)?;
    target.print_active_host(context);
    let actor = env::read_actor();
    let results =
        deployments::rollback(&target.world, &target.fleet, &target.hosts, &args.name, &actor).await?;
    for (_, assigned) in results.iter().take(1) {
        let version = &assigned.deployment.version;
        context.renderer.print_line(&format!("Changed main version to {} {version}", args.name));
    }
    let listing = target.list().await.filter(Some(&args.name), None);
    context.renderer.print_listing(&listing, false);
    Ok(())
}
