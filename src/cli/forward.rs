//! `enable-forward` and `disable-forward`.

use std::time::Duration;

use clap::Args;

use super::Context;
use crate::config::env;
use crate::error::Failure;
use crate::model::duration;
use crate::model::name::HostName;
use crate::ops::forward::{self, Options};

#[derive(Debug, Args)]
pub struct EnableArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct DisableArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// After DOWN, wait until nothing is in flight (at most roll.drain_timeout; then the forward goes back on)
    #[arg(long, conflicts_with = "no_wait")]
    drain: bool,
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// The host, when this machine's name and addresses do not tell
    #[arg(long, value_name = "HOST")]
    host: Option<HostName>,
    /// Return when the kernel is switched, without waiting for HAProxy to see it
    #[arg(long)]
    no_wait: bool,
    /// Override every refusal; says what was overridden
    #[arg(long)]
    force: bool,
    /// How long HAProxy may take to see it [default: twice the bound of its check settings, and 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

pub async fn enable(args: EnableArgs, context: &Context) -> Result<(), Failure> {
    let (_, fleet) = context.config()?;
    let world = context.world(Some(&fleet));
    let host = context.host(&world, &fleet, args.common.host.as_ref())?;
    let switched = forward::enable(&world, &fleet, &host, &options(&args.common, false)).await?;
    context.render.switched(&switched);
    Ok(())
}

pub async fn disable(args: DisableArgs, context: &Context) -> Result<(), Failure> {
    let (_, fleet) = context.config()?;
    let world = context.world(Some(&fleet));
    let host = context.host(&world, &fleet, args.common.host.as_ref())?;
    let switched = forward::disable(&world, &fleet, &host, &options(&args.common, args.drain)).await?;
    context.render.switched(&switched);
    Ok(())
}

fn options(args: &CommonArgs, drain: bool) -> Options {
    Options { actor: env::actor(), wait: !args.no_wait, drain, force: args.force, timeout: args.timeout }
}
