//! `kill`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::{CommandTarget, list_other_hosts, parse_name};
use crate::cli::Context;
use crate::cli::failure::{fail_deployments, fail_version};
use crate::cli::host_args::HostArgs;
use crate::cli::lock_wait_args::LockWaitArgs;
use crate::config::env;
use crate::error::Failure;
use crate::model::deployment::Role;
use crate::model::duration;
use crate::model::name::ServiceName;
use crate::model::plural::Count;
use crate::model::version::Version;
use crate::ops::fleet::deployments::{
    self, FleetDeployError, FleetDeployment, KillOptions, KilledDeployment, Listing, VersionStatus,
};
use crate::world::lock::FleetLock;

#[derive(Debug, Args)]
pub struct KillArgs {
    /// The service, or the id of a deployment
    name: Option<String>,
    /// Kill this version only
    version: Option<Version>,
    /// Kill all versions of all services
    #[arg(short, long, conflicts_with = "name")]
    all: bool,
    #[command(flatten)]
    hosts: HostArgs,
    /// Limit the drain of requests in flight [default: roll.drain_timeout, or 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    drain_timeout: Option<Duration>,
    /// Close requests in flight at once, and count them
    #[arg(long)]
    force: bool,
    /// Keep the release on the host
    #[arg(long, visible_alias = "keep-image", short = 'i')]
    keep_files: bool,
    #[command(flatten)]
    pub(in crate::cli) lock_wait: LockWaitArgs,
}

/// The limit of the read of hosts that the command does not change.
const OTHER_HOSTS_TIMEOUT: Duration = Duration::from_secs(3);

fn describe_action(args: &KillArgs) -> String {
    match (&args.name, &args.version) {
        (Some(name), Some(version)) => format!("kill {name} {version}"),
        (Some(name), None) => format!("kill {name}"),
        (None, _) => "kill every version".to_owned(),
    }
}

/// Returns what a removal would break: the sentences of seed row R19 (docs/design/seed-systems.md#restate).
fn describe_risk(row: &FleetDeployment) -> String {
    match &row.status {
        VersionStatus::Active => {
            let hosts = row.hosts.iter().filter(|(_, view)| view.role == Role::Main);
            let hosts: Vec<&str> = hosts.map(|(host, _)| host.as_str()).collect();
            format!("Deployment is still Active. This means that it is main on {}", hosts.join(", "))
        }
        VersionStatus::Canary(share) => {
            format!("Deployment is a canary that answers {share} of the requests")
        }
        VersionStatus::Draining => {
            let count =
                row.active.map_or_else(|| "an unknown number of".to_owned(), |count| count.to_string());
            format!(
                "Deployment is still Draining. There are {count} invocations that will break if they do not end in time"
            )
        }
        VersionStatus::Drained => "The deployment is fully drained and is safe to remove".to_owned(),
    }
}

pub async fn kill(args: KillArgs, context: &Context) -> Result<(), Failure> {
    let target = CommandTarget::load_all_services_with_links(context, &args.hosts).await?;
    target.print_active_host(context);
    let complete = target.list().await;
    complete.require_complete()?;
    let listing = match (&args.name, args.all) {
        (Some(name), _) => complete.clone().filter_by_name(&parse_name(name, args.version.as_ref())?),
        (None, true) => complete.clone(),
        (None, false) => {
            context.renderer.print_listing(&complete, false);
            return Err(Failure::NoTargetNamed);
        }
    };
    if listing.rows.is_empty() {
        return Err(FleetDeployError::NoMatch.into());
    }
    let (actor, action) = (env::read_actor(), describe_action(&args));
    let parts = split_by_service(context, &target, &listing.rows)?;
    for (part, rows) in &parts {
        let CommandTarget { world, fleet, hosts } = part;
        let checked = deployments::check_kill(world, fleet, hosts, &complete, rows, &actor).await;
        share_wait_budget(&parts);
        match rows.first().filter(|_| !args.all) {
            Some(row) => checked.map_err(fail_version(&*action, &row.service, args.version.as_ref()))?,
            None => checked.map_err(fail_deployments(&*action))?,
        }
    }
    let CommandTarget { world, fleet, hosts } = &target;
    context.renderer.print_listing(&listing, false);
    for row in &listing.rows {
        context.renderer.print_remark(&format!("{} {}: {}", row.service, row.version, describe_risk(row)));
    }
    for (host, service) in deployments::find_unserved_backups(world, fleet, hosts, &listing.rows).await {
        context.renderer.print_remark(&format!(
            "{host}: no process listens on the backup port of {service} after this: its backup server goes DOWN"
        ));
    }
    let others = list_other_hosts(fleet, hosts);
    let elsewhere = deployments::list_answered(world, &others, OTHER_HOSTS_TIMEOUT).await;
    for line in deployments::describe_remaining(&listing.rows, &elsewhere.rows) {
        context.renderer.print_remark(&line);
    }
    if !context.confirm("Are you sure you want to kill the above service(s)?").await? {
        return Err(Failure::Declined("Service(s) not killed"));
    }
    let options = KillOptions {
        force: args.force,
        drain_timeout: args.drain_timeout.unwrap_or(fleet.limits.drain_timeout),
        keep_files: args.keep_files,
        actor,
    };
    kill_parts(context, &complete, &parts, &options, &action).await
}

/// Kills the versions of one service after another, and stops at the first error. What was killed before is printed, too.
async fn kill_parts(
    context: &Context,
    complete: &Listing,
    parts: &[(CommandTarget, Vec<FleetDeployment>)],
    options: &KillOptions,
    action: &str,
) -> Result<(), Failure> {
    let mut killed: Vec<KilledDeployment> = Vec::new();
    let mut result = Ok(());
    for (part, rows) in parts {
        let CommandTarget { world, fleet, hosts } = part;
        let report = |one: &KilledDeployment| {
            report_killed(context, one);
            killed.push(one.clone());
        };
        let ended = deployments::kill(world, fleet, hosts, (complete, rows), options, report).await;
        share_wait_budget(parts);
        if let Err(error) = ended {
            result = Err(fail_deployments(action)(error));
            break;
        }
    }
    if result.is_ok() || !killed.is_empty() {
        context.renderer.print_kill(&killed);
    }
    result.map_err(|cause| match killed.len() {
        0 => cause,
        killed => Failure::KilledPartially { killed, cause: Box::new(cause) },
    })
}

fn report_killed(context: &Context, killed: &KilledDeployment) {
    context.renderer.print_line(&format!("Service {} {} killed.", killed.service, killed.version));
    match killed.aborted_requests {
        Some(0) => {}
        Some(cut) => context.renderer.print_remark(&format!("closed {} in flight", Count(cut, "request"))),
        None => context.renderer.print_remark("the number of closed requests is unknown"),
    }
}

/// Leaves as much of `--wait-lock` to each service as the others have left: it limits the waits of the whole command.
fn share_wait_budget(parts: &[(CommandTarget, Vec<FleetDeployment>)]) {
    let locks = || parts.iter().map(|(part, _)| &part.world.lock);
    let left = locks().map(FleetLock::wait_budget).min().unwrap_or_default();
    for lock in locks() {
        lock.spend_wait(lock.wait_budget().saturating_sub(left));
    }
}

/// Returns the rows of each service with the target of that service: each has balancers and a lock of its own.
fn split_by_service(
    context: &Context,
    target: &CommandTarget,
    rows: &[FleetDeployment],
) -> Result<Vec<(CommandTarget, Vec<FleetDeployment>)>, Failure> {
    let mut by_service: BTreeMap<&ServiceName, Vec<FleetDeployment>> = BTreeMap::new();
    for row in rows {
        by_service.entry(&row.service).or_default().push(row.clone());
    }
    let select = |(service, rows)| Ok((target.select_service(context, service)?, rows));
    by_service.into_iter().map(select).collect()
}
