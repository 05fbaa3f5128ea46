//! `update` and `access`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::deploy::{HowArgs, source};
use super::{Place, service_of};
use crate::cli::Context;
use crate::config::env;
use crate::error::Failure;
use crate::model::api::deployments::AccessRequest;
use crate::model::duration;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::{Version, VersionError};
use crate::ops::fleet::deployments::list;
use crate::ops::fleet::deployments::{self, UpdateOptions};

#[derive(Debug, Args)]
#[command(override_usage = "switchman update [OPTIONS] <NAME VERSION | ID> <SOURCE> [-- <CMD>...]")]
pub struct UpdateArgs {
    /// NAME VERSION SOURCE, or ID SOURCE: which deployment, and the new code: a directory, a .tar.gz, or an http:// address
    #[arg(value_name = "NAME VERSION|ID SOURCE", required = true, num_args = 2..=3)]
    what: Vec<String>,
    /// Only this host; may be given several times [default: every host that has it]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<HostName>,
    /// How long the old instances may take to drain [default: roll.drain_timeout, or 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    drain_timeout: Option<Duration>,
    #[command(flatten)]
    how: HowArgs,
}

pub async fn update(args: UpdateArgs, context: &Context) -> Result<(), Failure> {
    let (name, version, new) = which(&args.what)?;
    let service = service_of(context, name, &args.hosts).await?;
    let place = Place::of(context, &service, &args.hosts)?;
    place.say_host(context);
    let row = place.row(name, version.as_ref()).await?;
    let options = UpdateOptions {
        source: source(new),
        how: args.how.change(new),
        drain_timeout: args.drain_timeout.unwrap_or(place.fleet.limits.drain_timeout),
        actor: env::actor(),
    };
    deployments::update(&place.world, &place.fleet, &place.hosts, &row, &options).await?;
    context.render.sentence(&format!("{service} {} updated in place", row.version));
    let listing = list(&place.world, &place.hosts).await.with_id(&row.id);
    context.render.listing(&listing, true);
    Ok(())
}

/// NAME VERSION SOURCE or ID SOURCE.
fn which(words: &[String]) -> Result<(&str, Option<Version>, &str), Failure> {
    let what = || "read what is to be updated".to_owned();
    match words {
        [name, version, source] => {
            let wrong = |error: VersionError| Failure::Other { what: what(), why: error.to_string() };
            let version = version.parse().map_err(wrong)?;
            Ok((name, Some(version), source))
        }
        [id, source] if deployments::as_id(id).is_some() => Ok((id, None, source)),
        _ => Err(Failure::Usage { what: what(), why: "expected NAME VERSION SOURCE, or ID SOURCE" }),
    }
}

#[derive(Debug, Args)]
pub struct AccessArgs {
    /// The service
    name: ServiceName,
    /// public: both its ports lead to it; private: no port does, and its load balancers see it DOWN
    access: AccessArg,
    /// Only this host; may be given several times [default: every host]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<HostName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AccessArg {
    Public,
    Private,
}

pub async fn access(args: AccessArgs, context: &Context) -> Result<(), Failure> {
    let place = Place::of(context, &args.name, &args.hosts)?;
    place.say_host(context);
    let public = args.access == AccessArg::Public;
    // R27
    if !context.confirm("Are you sure you want to apply these changes?")? {
        return Err(Failure::Declined("No changes were made."));
    }
    let request = AccessRequest { public, actor: env::actor() };
    deployments::access(&place.world, &place.hosts, &args.name, &request).await?;
    let word = if public { "public" } else { "private" };
    context.render.sentence(&format!("{} is {word}", args.name));
    Ok(())
}
