//! `merge`.

use clap::Args;

use super::CommandTarget;
use crate::cli::Context;
use crate::cli::failure::fail_version;
use crate::cli::host_args::HostArgs;
use crate::cli::lock_wait_args::LockWaitArgs;
use crate::config::env;
use crate::error::Failure;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::Version;
use crate::ops::fleet::deployments;

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The service, as named in the configuration
    name: ServiceName,
    /// The version that hosts have under different ids
    version: Version,
    #[command(flatten)]
    pub(in crate::cli) lock_wait: LockWaitArgs,
}

pub async fn merge(args: MergeArgs, context: &Context) -> Result<(), Failure> {
    let target = CommandTarget::load_service(context, &args.name, &HostArgs::default()).await?;
    let (name, actor) = ((&args.name, &args.version), env::read_actor());
    let merged = deployments::merge(&target.world, &target.fleet, name, &actor).await;
    let (id, changed) = merged.map_err(fail_version(
        format!("merge {} {}", args.name, args.version),
        &args.name,
        Some(&args.version),
    ))?;
    let (service, version) = name;
    let hosts: Vec<&str> = changed.iter().map(HostName::as_str).collect();
    context.renderer.print_line(&if hosts.is_empty() {
        format!("{service} {version} is one deployment already: {id}")
    } else {
        format!("{service} {version} is one deployment now: {id} (changed on {})", hosts.join(", "))
    });
    context.renderer.print_listing(&target.list().await.filter_by_id(&id), true);
    Ok(())
}
