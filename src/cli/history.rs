//! `history`.

use std::path::Path;

use clap::Args;

use super::Context;
use super::failure::fail_deployments;
use super::host_args::HostArgs;
use crate::config::ConfigError;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::history::HistoryEntry;
use crate::model::name::ServiceName;
use crate::model::roll::RollId;
use crate::ops::fleet::deployments::{FleetDeployError, read_histories};
use crate::ops::fleet::roll;
use crate::plan::roll::progress::build_progress;

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Show changes of this service on every host [default: all changes of this host, and past rolls]
    #[arg(id = "history_of", value_name = "SERVICE")]
    service: Option<ServiceName>,
    /// Show the latest rows, at most this many
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: u32,
    /// Show this roll, host by host
    #[arg(long, value_name = "ROLL", conflicts_with = "history_of")]
    roll: Option<RollId>,
}

pub async fn run(args: &HistoryArgs, context: &Context) -> Result<(), Failure> {
    if let Some(service) = &args.service
        && let Ok((file, fleet)) = context.load_service_config(service).await
        && !fleet.hosts.is_empty()
        && !context.globals.local
    {
        return show_host_histories(args, service, context, &file, &fleet).await;
    }
    let rows = context.build_host_world(None).store.load_history(args.service.as_ref(), args.limit)?;
    // A host without a configuration has no rolls to list.
    let (file, fleet) = match context.load_config().await {
        Err(Failure::Config(ConfigError::NotFound)) if args.roll.is_none() => {
            require_known(args.service.as_ref(), &rows, None)?;
            context.renderer.print_history(&rows, &[], &[]);
            return Ok(());
        }
        read => read?,
    };
    require_known(args.service.as_ref(), &rows, Some(&fleet))?;
    let world = context.build_fleet_world(&file, &fleet, &[]);
    if let Some(id) = &args.roll {
        let found = build_progress(&world.journal.load(id, 0).await?);
        let found = found.ok_or_else(|| Failure::UnknownRoll { roll: id.clone() })?;
        context.renderer.print_past_roll(&found);
        context.renderer.print_shared_outputs(&world.outputs.load_shared(id).await?);
        return Ok(());
    }
    context.renderer.print_history(
        &rows,
        &roll::read_past(&world, args.limit).await?,
        &world.lock.load_notes(args.limit).await?,
    );
    Ok(())
}

/// Returns an error for a service that neither the configuration nor the history has (seed row D13,
/// docs/design/seed-systems.md#mvi-and-daeploy).
fn require_known(
    service: Option<&ServiceName>,
    rows: &[HistoryEntry],
    fleet: Option<&Fleet>,
) -> Result<(), Failure> {
    let Some(service) = service else { return Ok(()) };
    let is_configured = fleet.is_some_and(|fleet| fleet.service_names().any(|known| known == service));
    if is_configured || !rows.is_empty() {
        return Ok(());
    }
    Err(FleetDeployError::NoMain(service.clone()).into())
}

/// Prints the changes of a service, as each host has recorded them.
async fn show_host_histories(
    args: &HistoryArgs,
    service: &ServiceName,
    context: &Context,
    file: &Path,
    fleet: &Fleet,
) -> Result<(), Failure> {
    let hosts = context.select_hosts_or_all(fleet, &HostArgs::default())?;
    let world = context.build_fleet_world(file, fleet, &hosts);
    let histories = read_histories(&world, &hosts, service, args.limit).await;
    context.renderer.print_histories(&histories.hosts);
    let answered = histories.require_answers();
    answered.map_err(fail_deployments(format!("show the history of {service}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind::ArgumentConflict;

    use crate::cli::Cli;

    #[test]
    fn history_accepts_the_service_of_the_configuration() {
        let read =
            |line: &str| Cli::try_parse_from(line.split(' ')).map(|_| ()).map_err(|error| error.kind());
        let roll = "switchman history --roll r20261121-085642-7e99";
        assert_eq!(read(&format!("{roll} --service shop")), Ok(()));
        assert_eq!(read("switchman history shop --service shop"), Ok(()));
        assert_eq!(read(&format!("{roll} shop")), Err(ArgumentConflict));
    }
}
