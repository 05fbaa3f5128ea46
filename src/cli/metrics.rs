//! `metrics`.

use clap::Args;

use super::Context;
use super::host_args::HostArgs;
use crate::error::Failure;
use crate::ops::fleet::metrics;

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("Read this host only; may be given several times [default: every host]")))]
pub struct MetricsArgs {
    #[command(flatten)]
    hosts: HostArgs,
}

pub async fn run(args: MetricsArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.load_config().await?;
    let hosts = context.select_hosts_or_all(&fleet, &args.hosts)?;
    let names = context
        .globals
        .service
        .clone()
        .map_or_else(|| fleet.service_names().cloned().collect(), |one| vec![one]);
    let services = names.iter().filter_map(|name| fleet.for_service(name));
    let services: Vec<_> = services
        .map(|fleet| {
            let world = context.build_fleet_world(&file, &fleet, &hosts);
            (fleet, world)
        })
        .collect();
    context.renderer.print_text(&metrics::collect_numbers(&services, &hosts).await.render());
    Ok(())
}
