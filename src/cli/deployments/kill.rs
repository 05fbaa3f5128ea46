//! `kill`.

use std::time::Duration;

use clap::Args;

use super::{CommandTarget, parse_name};
use crate::cli::Context;
use crate::cli::host_args::HostArgs;
use crate::config::env;
use crate::error::Failure;
use crate::model::deployment::Role;
use crate::model::duration;
use crate::model::version::Version;
use crate::ops::fleet::deployments::{self, FleetDeployError, FleetDeployment, KillOptions, VersionStatus};

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
}

/// Returns what a removal would break: the sentences of seed row R19 (docs/design/seed-systems.md#restate).
fn describe_risk(row: &FleetDeployment) -> String {
    match &row.status {
        VersionStatus::Active => {
            let hosts = row.hosts.iter().filter(|(_, view)| view.role == Role::Main);
            let hosts: Vec<&str> = hosts.map(|(host, _)| host.as_str()).collect();
            format!("Deployment is still Active. This means that it is main on {}", hosts.join(", "))
        }
        VersionStatus::Canary(share) => format!("Deployment is a canary. It answers {share} of the requests"),
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
    let target = CommandTarget::load_all_services(context, &args.hosts)?;
    target.print_active_host(context);
    let listing = target.list().await;
    listing.require_complete()?;
    let whole = listing.clone();
    let listing = match (&args.name, args.all) {
        (Some(name), _) => listing.filter_by_name(&parse_name(name, args.version.as_ref())?),
        (None, true) => listing,
        (None, false) => {
            context.renderer.print_listing(&listing, false);
            return Err(Failure::NoTargetNamed);
        }
    };
    if listing.rows.is_empty() {
        return Err(FleetDeployError::NoMatch.into());
    }
    context.renderer.print_listing(&listing, false);
    for row in &listing.rows {
        context.renderer.print_remark(&format!("{} {}: {}", row.service, row.version, describe_risk(row)));
    }
    let actor = env::read_actor();
    deployments::check_kill(&target.world, &target.fleet, &target.hosts, &whole, &listing.rows, &actor)
        .await?;
    let (world, fleet, hosts) = (&target.world, &target.fleet, &target.hosts);
    for (host, service) in deployments::find_unserved_backups(world, fleet, hosts, &listing.rows).await {
        context.renderer.print_remark(&format!(
            "{host}: nothing listens on the backup port of {service} after this: HAProxy has no server left there"
        ));
    }
    if !context.confirm("Are you sure you want to kill the above service(s)?")? {
        return Err(Failure::Declined("Service(s) not killed"));
    }
    let options = KillOptions {
        force: args.force,
        drain_timeout: args.drain_timeout.unwrap_or(target.fleet.limits.drain_timeout),
        keep_files: args.keep_files,
        actor,
    };
    let report_killed = |killed: &deployments::KilledDeployment| {
        context.renderer.print_line(&format!("Service {} {} killed.", killed.service, killed.version));
        match killed.aborted_requests {
            Some(0) => {}
            Some(cut) => context.renderer.print_remark(&format!("{cut} requests in flight were closed")),
            None => context.renderer.print_remark("the number of closed requests is unknown"),
        }
    };
    let killed = deployments::kill(
        &target.world,
        &target.fleet,
        &target.hosts,
        (&whole, &listing.rows),
        &options,
        report_killed,
    )
    .await?;
    context.renderer.print_kill(&killed);
    Ok(())
}
