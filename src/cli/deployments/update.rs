//! `update` and `access`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::deploy::{InstanceArgs, parse_source};
use super::{CommandTarget, load_and_list, parse_name};
use crate::cli::Context;
use crate::cli::failure::{fail_usage, fail_version};
use crate::cli::host_args::HostArgs;
use crate::cli::lock_wait_args::LockWaitArgs;
use crate::config::env;
use crate::error::Failure;
use crate::model::account::build_account_name;
use crate::model::api::deployments::{AccessRequest, DeploymentView};
use crate::model::deployment::{RunSpecChange, Workload};
use crate::model::duration;
use crate::model::name::{HostName, ServiceName};
use crate::model::plural::Count;
use crate::model::version::{ParseVersionError, Version};
use crate::ops::fleet::deployments::{self, FleetDeployment, UpdateOptions};

#[derive(Debug, Args)]
#[command(override_usage = "switchman update [OPTIONS] <NAME VERSION | ID> <SOURCE> [-- <CMD>...]")]
#[command(mut_arg("user", |arg| arg.help("Run the program as this user of the host [default: as before]")))]
#[command(mut_arg("server", |arg| arg.help("Serve a release without CMD with this web server [default: as before]")))]
#[command(mut_arg("grace", |arg| arg.help("Wait this long between TERM and KILL [default: as before]")))]
pub struct UpdateArgs {
    /// The service, or the id of a deployment
    name: String,
    /// The version; omit it when NAME is an id
    #[arg(value_name = "VERSION")]
    version_or_source: Option<String>,
    /// The new code, always required: a directory, a .tar.gz, or an http:// address
    source: Option<String>,
    #[command(flatten)]
    hosts: HostArgs,
    /// Limit the drain of the old instances [default: roll.drain_timeout, or 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    drain_timeout: Option<Duration>,
    #[command(flatten)]
    pub(in crate::cli) lock_wait: LockWaitArgs,
    #[command(flatten)]
    how: InstanceArgs,
}

pub async fn update(args: UpdateArgs, context: &Context) -> Result<(), Failure> {
    let (version, new) = parse_target(&args)?;
    let new = new.to_owned();
    let name = parse_name(&args.name, version.as_ref())?;
    let (place, listing) = load_and_list(context, &name, &args.hosts).await?;
    let row = listing.resolve(&name)?;
    place.print_active_host(context);
    let run_change = args.how.into_change("update", &new)?;
    require_sandbox(row, &run_change)?;
    let options = UpdateOptions {
        source: parse_source(&new),
        run_change,
        drain_timeout: args.drain_timeout.unwrap_or(place.fleet.limits.drain_timeout),
        actor: env::read_actor(),
    };
    let updated = deployments::update(&place.world, &place.fleet, &place.hosts, row, &options).await;
    updated.map_err(fail_version(
        format!("update {} {}", row.service, row.version),
        &row.service,
        Some(&row.version),
    ))?;
    context.renderer.print_line(&format!("{} {} updated in place", row.service, row.version));
    let listing = place.list().await.filter_by_id(&row.id);
    context.renderer.print_listing(&listing, true);
    Ok(())
}

/// Refuses an exception from a sandbox that the deployment has not: with one, its program would run as another user.
fn require_sandbox(row: &FleetDeployment, change: &RunSpecChange) -> Result<(), Failure> {
    let has_none = |(_, view): &(HostName, DeploymentView)| {
        let how = &view.deployment.instance.how;
        how.sandbox.is_none() && how.user.is_none() && matches!(how.workload, Workload::Command { .. })
    };
    let needs_user = change.allow.is_some() && change.user.is_none();
    match row.hosts.iter().find(|host| needs_user && has_none(host)) {
        Some((host, _)) => {
            let account = build_account_name(&row.service);
            let reason = format!(
                "on {host} its program runs as the user of the host's switchman, without a sandbox; name a user too: `--user {account}`, \
                 or `--user root`"
            );
            Err(fail_usage("update", "make an exception from the sandbox", reason))
        }
        None => Ok(()),
    }
}

/// Returns the version and the source of `NAME VERSION SOURCE`, or the source of `ID SOURCE`.
fn parse_target(args: &UpdateArgs) -> Result<(Option<Version>, &str), Failure> {
    let action = "read the deployment to update";
    match (&args.version_or_source, &args.source) {
        (Some(version), Some(source)) => {
            let version = version
                .parse()
                .map_err(|error: ParseVersionError| fail_usage("update", action, error.to_string()))?;
            Ok((Some(version), source))
        }
        (Some(source), None) if deployments::parse_id(&args.name).is_some() => Ok((None, source)),
        _ => Err(fail_usage("update", action, "expected NAME VERSION SOURCE, or ID SOURCE")),
    }
}

#[derive(Debug, Args)]
pub struct AccessArgs {
    /// The service
    name: ServiceName,
    /// public: forward both its ports; private: forward none.
    ///
    /// Load balancers mark a private service DOWN. Every host is checked before the first one is changed.
    access: AccessArg,
    #[command(flatten)]
    hosts: HostArgs,
    #[command(flatten)]
    pub(in crate::cli) lock_wait: LockWaitArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AccessArg {
    Public,
    Private,
}

pub async fn set_access(args: AccessArgs, context: &Context) -> Result<(), Failure> {
    let place = CommandTarget::load_service(context, &args.name, &args.hosts).await?;
    place.print_active_host(context);
    let public = args.access == AccessArg::Public;
    let request = AccessRequest { public, actor: env::read_actor(), dry_run: false };
    let word = if public { "public" } else { "private" };
    let action = format!("make {} {word}", args.name);
    let CommandTarget { world, fleet, hosts } = &place;
    let checked = deployments::check_access(world, fleet, hosts, &args.name, &request).await;
    checked.map_err(fail_version(&*action, &args.name, None))?;
    if !public {
        context.renderer.print_remark(&describe_private(&place, &args.name));
    }
    // R27
    if !context.confirm("Are you sure you want to apply these changes?").await? {
        return Err(Failure::Declined("No changes were made."));
    }
    let set = deployments::set_access(world, fleet, hosts, &args.name, &request).await;
    set.map_err(fail_version(&*action, &args.name, None))?;
    context.renderer.print_line(&format!("{} is {word}", args.name));
    Ok(())
}

/// Describes what users lose while the service is private on these hosts.
fn describe_private(target: &CommandTarget, service: &ServiceName) -> String {
    let CommandTarget { fleet, hosts, .. } = target;
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    let left = fleet.hosts.iter().filter(|host| !names.contains(&host.name.as_str())).count();
    let mut text =
        format!("{}: no port is forwarded to {service}, and load balancers mark it DOWN", names.join(", "));
    let min_up = fleet.limits.min_up;
    if left == 0 {
        text.push_str("; no other host is left, and users get errors");
    } else if left < usize::try_from(min_up).unwrap_or(usize::MAX) {
        let left = Count(left, "other host");
        text = format!("{text}; {left} left, and `roll.min_up` requires {min_up}");
    }
    text
}
