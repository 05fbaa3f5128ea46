//! The commands about versions side by side.

use std::path::Path;
use std::time::Duration;

use super::Context;
use super::failure::fail_usage;
use super::host_args::HostArgs;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::{NameError, ServiceName};
use crate::model::version::Version;
use crate::ops::fleet::deployments::{DeploymentName, FleetDeployError, FleetDeployment, Listing, parse_id};
use crate::ops::fleet::deployments::{list_answered, list_deployments};
use crate::world::FleetWorld;

mod assign;
mod compare;
mod deploy;
mod kill;
mod ls;
mod merge;
mod traffic_split;
mod update;
mod verify;

pub use assign::{AssignArgs, RollbackArgs, assign, rollback};
pub use compare::{CompareArgs, compare};
pub use deploy::{DeployArgs, deploy};
pub use kill::{KillArgs, kill};
pub use ls::{DescribeArgs, LogsArgs, LsArgs, describe, ls, show_logs};
pub use merge::{MergeArgs, merge};
pub use traffic_split::{CanaryArgs, MirrorArgs, parse_sticky, set_canary, set_mirror};
pub use update::{AccessArgs, UpdateArgs, set_access, update};
pub use verify::{VerifyArgs, verify};

/// A fleet as it is for one service, with the selected hosts.
#[derive(Clone)]
struct CommandTarget {
    fleet: Fleet,
    hosts: Vec<Host>,
    world: FleetWorld,
}

impl CommandTarget {
    async fn load_service(
        context: &Context,
        service: &ServiceName,
        hosts: &HostArgs,
    ) -> Result<Self, Failure> {
        let (file, fleet) = context.load_service_config(service).await?;
        let hosts = context.select_hosts_or_all(&fleet, hosts)?;
        let world = context.build_fleet_world(&file, &fleet, &hosts);
        Ok(Self { fleet, hosts, world })
    }

    /// Loads the target of a command that changes these hosts and reads the others of the fleet.
    async fn load_service_with_links(
        context: &Context,
        service: &ServiceName,
        hosts: &HostArgs,
    ) -> Result<Self, Failure> {
        let (file, fleet) = context.load_service_config(service).await?;
        let hosts = context.select_hosts_or_all(&fleet, hosts)?;
        Ok(Self::build_with_links(context, &file, fleet, hosts))
    }

    /// Loads the target of a command that changes versions of all services on these hosts and reads the other hosts.
    async fn load_all_services_with_links(context: &Context, hosts: &HostArgs) -> Result<Self, Failure> {
        let (file, fleet) = context.load_config().await?;
        let hosts = context.select_hosts_or_all(&fleet, hosts)?;
        Ok(Self::build_with_links(context, &file, fleet, hosts))
    }

    fn build_with_links(context: &Context, file: &Path, fleet: Fleet, hosts: Vec<Host>) -> Self {
        let mut linked = hosts.clone();
        if !context.globals.local {
            linked.extend(list_other_hosts(&fleet, &hosts));
        }
        let world = context.build_fleet_world(file, &fleet, &linked);
        Self { fleet, hosts, world }
    }

    /// Returns the target with the ports, balancers, journal and lock of this service. A service that the configuration does not have
    /// gets those of the target itself.
    fn select_service(&self, context: &Context, service: &ServiceName) -> Result<Self, Failure> {
        let other = self.fleet.for_service(service).filter(|fleet| fleet.service != self.fleet.service);
        let Some(fleet) = other else { return Ok(self.clone()) };
        let (file, _) = context.load_written_config()?;
        let built = context.build_fleet_world(&file, &fleet, &self.hosts);
        let world = FleetWorld { links: self.world.links.clone(), ..built };
        Ok(Self { fleet, hosts: self.hosts.clone(), world })
    }

    /// Loads the target of a list over all services.
    async fn load_all_services(context: &Context, hosts: &HostArgs) -> Result<Self, Failure> {
        let (file, fleet) = context.load_config().await?;
        let hosts = context.select_hosts_or_all(&fleet, hosts)?;
        let world = context.build_fleet_world(&file, &fleet, &hosts);
        Ok(Self { fleet, hosts, world })
    }

    /// Prints `Active host: ...` if exactly one host is selected.
    fn print_active_host(&self, context: &Context) {
        if let [host] = self.hosts.as_slice() {
            let address = host.address.map_or_else(|| host.name.to_string(), |address| address.to_string());
            context.renderer.print_active_host(&address);
        }
    }

    /// Prints the hosts whose load balancers mark main DOWN, because the forward is off.
    fn print_maintenance(&self, context: &Context, row: &FleetDeployment, consequence: &str) {
        for host in row.maintenance.iter().filter(|name| self.hosts.iter().any(|host| host.name == **name)) {
            context.renderer.print_remark(&format!(
                "{host} is in maintenance: {consequence} until `switchman enable-forward --host {host}`"
            ));
        }
    }

    /// Returns an error if nothing can have this name: a service that neither the configuration nor a host has, or an id that no
    /// host has. A known service without versions has an empty list (seed rows D13, D26,
    /// docs/design/seed-systems.md#mvi-and-daeploy).
    fn require_known(&self, name: &DeploymentName, listing: &Listing) -> Result<(), Failure> {
        if !listing.rows.is_empty() || !listing.unread.is_empty() {
            return Ok(());
        }
        match name {
            DeploymentName::Id(_) => Err(FleetDeployError::NoMatch.into()),
            DeploymentName::Service { service, .. } => {
                let is_known = self.fleet.service_names().any(|known| known == service);
                if is_known { Ok(()) } else { Err(FleetDeployError::NoMain(service.clone()).into()) }
            }
        }
    }

    async fn list(&self) -> Listing {
        list_deployments(&self.world, &self.hosts).await
    }
}

/// Lists the deployments of the selected hosts that answer within this time.
pub(super) async fn list_within(
    context: &Context,
    hosts: &HostArgs,
    timeout: Duration,
) -> Result<Listing, Failure> {
    let target = CommandTarget::load_all_services(context, hosts).await?;
    Ok(list_answered(&target.world, &target.hosts, timeout).await)
}

/// Lists the hosts of the fleet without the chosen ones.
fn list_other_hosts(fleet: &Fleet, chosen: &[Host]) -> Vec<Host> {
    let is_other = |host: &&Host| !chosen.iter().any(|chosen| chosen.name == host.name);
    fleet.hosts.iter().filter(is_other).cloned().collect()
}

/// Returns an error if NAME is not an id and VERSION is missing.
fn require_version(
    name: &str,
    version: Option<&Version>,
    action: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if version.is_none() && parse_id(name).is_none() {
        return Err(Failure::MissingVersion { action: action(), name: name.to_owned() });
    }
    Ok(())
}

/// Reads NAME, NAME VERSION or an id.
fn parse_name(name: &str, version: Option<&Version>) -> Result<DeploymentName, Failure> {
    if let Some(id) = parse_id(name) {
        return Ok(DeploymentName::Id(id));
    }
    let service = name.parse().map_err(|error: NameError| {
        fail_usage("ls", format!("read the name `{}`", name.escape_debug()), error.to_string())
    })?;
    Ok(DeploymentName::Service { service, version: version.cloned() })
}

/// Loads the fleet of the named service and lists its deployments: the list that the whole command works from. An id does
/// not name its service, which is looked up in the list.
async fn load_and_list(
    context: &Context,
    name: &DeploymentName,
    hosts: &HostArgs,
) -> Result<(CommandTarget, Listing), Failure> {
    let all = match name {
        DeploymentName::Service { service, .. } => {
            match CommandTarget::load_service(context, service, hosts).await {
                // Seed row D13 (docs/design/seed-systems.md#mvi-and-daeploy).
                Err(Failure::UnknownService { requested, .. }) => {
                    return Err(FleetDeployError::NoMain(requested).into());
                }
                target => target?,
            }
        }
        DeploymentName::Id(_) => CommandTarget::load_all_services(context, hosts).await?,
    };
    let listing = all.list().await;
    let place = match name {
        DeploymentName::Service { .. } => all,
        DeploymentName::Id(_) => {
            CommandTarget::load_service(context, &listing.resolve(name)?.service, hosts).await?
        }
    };
    Ok((place, listing))
}
