//! `assign` and `rollback`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{CommandTarget, load_and_list, parse_name, require_version};
use crate::cli::Context;
use crate::cli::failure::fail_version;
use crate::cli::host_args::HostArgs;
use crate::cli::lock_wait_args::LockWaitArgs;
use crate::config::env;
use crate::error::Failure;
use crate::model::deployment::DeploymentId;
use crate::model::duration;
use crate::model::field::Field;
use crate::model::fleet::Fleet;
use crate::model::name::ServiceName;
use crate::model::percent::Percent;
use crate::model::roll::{Batch, NewMain, RollSpec, Work};
use crate::model::version::Version;
use crate::ops::fleet::deployments::{
    self, AssignOptions, CompareOptions, DeploymentName, FleetDeployment, Listing,
};
use crate::plan::compare::{ComparedHeaders, Criteria};

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
    #[command(flatten)]
    pub(in crate::cli) lock_wait: LockWaitArgs,
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
    let name = parse_name(&args.name, args.version.as_ref())?;
    let (place, listing) = load_and_list(context, &name, &args.hosts).await?;
    // Checks come before the question, never after it (docs/design/README.md#invariants, 14).
    let target = listing.resolve_target(&name, &place.hosts)?;
    let FleetDeployment { service, version, .. } = target;
    if !target.is_main() {
        check_match_requirement(&args.match_requirement, &place, &listing, target, context).await?;
    }
    let action = || format!("assign {service} {version}");
    let options = build_options(&args, &place, target);
    let checked = deployments::check_assign(&place.world, &place.fleet, &place.hosts, target, &options).await;
    checked.map_err(fail_version(action(), service, Some(version)))?;
    place.print_active_host(context);
    // Nothing is changed: there is nothing to confirm.
    let is_confirmed =
        target.is_main() || context.confirm(&format!("Change {service} {version} to main?")).await?;
    if !is_confirmed {
        return Err(Failure::Declined("Assign cancelled."));
    }
    // The operator may take minutes to answer, and another command may have changed main by then.
    let listing_after_answer;
    let target = if context.globals.yes {
        target
    } else {
        listing_after_answer = place.list().await;
        listing_after_answer.resolve_target(&DeploymentName::Id(target.id.clone()), &place.hosts)?
    };
    let options = build_options(&args, &place, target);
    run_assign(context, &place, target, &options).await
}

async fn run_assign(
    context: &Context,
    place: &CommandTarget,
    target: &FleetDeployment,
    options: &AssignOptions,
) -> Result<(), Failure> {
    if options.roll.is_some() {
        context.renderer.follow_roll();
    }
    let FleetDeployment { service, version, .. } = target;
    let assigning = deployments::assign(&place.world, &place.fleet, &place.hosts, target, options);
    let report = assigning.await.map_err(fail_version(
        format!("assign {service} {version}"),
        service,
        Some(version),
    ))?;
    context.renderer.print_line(&if report.is_already_main {
        format!("{service} {version} is main already: nothing changed")
    } else {
        format!("Changed main version to {service} {version}")
    });
    // The table shows the hosts as they are after the change.
    let listing = place.list().await.filter(Some(service), None);
    context.renderer.print_assign(&report, &listing);
    Ok(())
}

/// Makes a deployment main with the defaults of `assign`, without a prompt: for `deploy --assign` (seed row R3,
/// docs/design/seed-systems.md#restate).
pub(super) async fn make_main(
    context: &Context,
    place: &CommandTarget,
    id: &DeploymentId,
) -> Result<(), Failure> {
    let listing = place.list().await;
    let target = listing.resolve_target(&DeploymentName::Id(id.clone()), &place.hosts)?;
    let limits = AssignLimits::from_fleet(&place.fleet);
    let options = AssignOptions {
        watch: limits.watch,
        wait: true,
        actor: env::read_actor(),
        roll: Some(build_roll(place, target, &limits)),
    };
    run_assign(context, place, target, &options).await
}

/// Does nothing without `--require-match`.
async fn check_match_requirement(
    proof: &MatchRequirementArgs,
    place: &CommandTarget,
    listing: &Listing,
    target: &FleetDeployment,
    context: &Context,
) -> Result<(), Failure> {
    if proof.require_match.is_none() {
        return Ok(());
    }
    let MatchRequirementArgs { require_match, min_samples, ignore } = proof;
    let criteria = Criteria {
        require_match: *require_match,
        min_samples: *min_samples,
        ignore: ignore.clone(),
        headers: ComparedHeaders::default(),
    };
    let (service, version) = (target.service.clone(), target.version.clone());
    let options = CompareOptions { service, version, criteria };
    let action = format!("compare {} {} with main", options.service, options.version);
    let report = deployments::require_match(&place.world, &place.hosts, listing, &options).await;
    let report = report.map_err(fail_version(action, &target.service, Some(&target.version)))?;
    context.renderer.print_remark(&report.reason);
    Ok(())
}

/// The limits of an assign.
struct AssignLimits {
    watch: Duration,
    batch: Batch,
    drain_timeout: Duration,
}

impl AssignLimits {
    fn from_fleet(fleet: &Fleet) -> Self {
        Self {
            watch: fleet.versions.watch,
            batch: fleet.roll.batch,
            drain_timeout: fleet.limits.drain_timeout,
        }
    }
}

fn build_roll(place: &CommandTarget, target: &FleetDeployment, limits: &AssignLimits) -> RollSpec {
    let CommandTarget { fleet, hosts, .. } = place;
    RollSpec {
        service: target.service.clone(),
        hosts: hosts.iter().map(|host| host.name.clone()).collect(),
        // The roll records them.
        found_hosts: vec![],
        batch: limits.batch,
        max_failures: fleet.roll.max_failures,
        on_failure: fleet.roll.on_failure,
        drain_timeout: limits.drain_timeout,
        health_timeout: fleet.roll.health_timeout,
        force: false,
        work: Work::Assign(NewMain { version: target.version.clone(), trial: limits.watch }),
    }
}

fn build_options(args: &AssignArgs, place: &CommandTarget, target: &FleetDeployment) -> AssignOptions {
    let defaults = AssignLimits::from_fleet(&place.fleet);
    let limits = AssignLimits {
        watch: args.watch.unwrap_or(defaults.watch),
        batch: args.batch.unwrap_or(defaults.batch),
        drain_timeout: args.drain_timeout.unwrap_or(defaults.drain_timeout),
    };
    AssignOptions {
        watch: limits.watch,
        wait: !args.no_wait,
        actor: env::read_actor(),
        roll: match args.strategy {
            StrategyArg::Rolling => Some(build_roll(place, target, &limits)),
            StrategyArg::Flip => None,
        },
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
    let place = CommandTarget::load_service(context, &args.name, &args.hosts).await?;
    place.print_active_host(context);
    let actor = env::read_actor();
    let put = deployments::rollback(&place.world, &place.fleet, &place.hosts, &args.name, &actor).await;
    let put = put.map_err(fail_version(format!("roll {} back", args.name), &args.name, None))?;
    context.renderer.print_line(&format!("Changed main version to {} {}", args.name, put.version));
    let listing = place.list().await.filter(Some(&args.name), None);
    context.renderer.print_listing(&listing, false);
    Ok(())
}
