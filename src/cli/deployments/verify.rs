//! `verify`.

use clap::Args;

use super::CommandTarget;
use crate::cli::Context;
use crate::cli::host_args::HostArgs;
use crate::error::Failure;
use crate::model::name::ServiceName;
use crate::model::version::Version;
use crate::ops::fleet::deployments;

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("Verify the releases of this host only; may be given several times [default: every host]")))]
pub struct VerifyArgs {
    /// The service, as named in the configuration [default: every service]
    name: Option<ServiceName>,
    /// Verify the releases of this version only
    version: Option<Version>,
    #[command(flatten)]
    hosts: HostArgs,
}

pub async fn verify(args: VerifyArgs, context: &Context) -> Result<(), Failure> {
    let target = match &args.name {
        Some(name) => CommandTarget::load_service(context, name, &args.hosts).await?,
        None => CommandTarget::load_all_services(context, &args.hosts).await?,
    };
    let (name, version) = (args.name.as_ref(), args.version.as_ref());
    let verification = deployments::verify(&target.world, &target.hosts, name, version).await;
    context.renderer.print_verification(&verification);
    Ok(verification.require_unchanged(target.hosts.len())?)
}
