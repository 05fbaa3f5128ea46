//! The commands about versions side by side.

use super::Context;
use super::failure::fail_to;
use super::host_args::HostArgs;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::{NameError, ServiceName};
use crate::model::version::Version;
use crate::ops::fleet::deployments::list_deployments;
use crate::ops::fleet::deployments::{FleetDeployError, FleetDeployment, Listing, parse_id};
use crate::world::FleetWorld;

mod assign;
mod compare;
mod deploy;
mod kill;
mod ls;
mod traffic_split;
mod update;

pub use assign::{AssignArgs, RollbackArgs, assign, rollback};
pub use compare::{CompareArgs, compare};
pub use deploy::{DeployArgs, deploy};
pub use kill::{KillArgs, kill};
pub use ls::{DescribeArgs, LogsArgs, LsArgs, describe, ls, show_logs};
pub use traffic_split::{CanaryArgs, MirrorArgs, parse_sticky, set_canary, set_mirror};
pub use update::{AccessArgs, UpdateArgs, set_access, update};

/// A fleet as it is for one service, with the selected hosts.
struct CommandTarget {
    fleet: Fleet,
    hosts: Vec<Host>,
    world: FleetWorld,
}

impl CommandTarget {
    fn load_service(context: &Context, service: &ServiceName, hosts: &HostArgs) -> Result<Self, Failure> {
        let (file, fleet) = context.load_service_config(service)?;
        let hosts = context.select_hosts_or_all(&fleet, hosts)?;
        let world = context.build_fleet_world(&file, &fleet, &hosts);
        Ok(Self { fleet, hosts, world })
    }

    /// Loads the target of a list over all services.
    fn load_all_services(context: &Context, hosts: &HostArgs) -> Result<Self, Failure> {
        let (file, fleet) = context.load_config()?;
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

    /// Loads the service that a name or the id of a deployment is about. Ids are looked up on the hosts.
    async fn load_named(
        context: &Context,
        name: &str,
        hosts: &HostArgs,
    ) -> Result<(ServiceName, Self), Failure> {
        let service = match parse_id(name) {
            None => parse_service(name)?,
            Some(id) => {
                let found = Self::load_all_services(context, hosts)?.list().await.filter_by_id(&id);
                found.rows.first().map(|row| row.service.clone()).ok_or(FleetDeployError::NoMatch)?
            }
        };
        let target = Self::load_service(context, &service, hosts)?;
        Ok((service, target))
    }

    async fn list(&self) -> Listing {
        list_deployments(&self.world, &self.hosts).await
    }

    /// Finds the deployment that NAME VERSION, or an id, names.
    async fn find_deployment(
        &self,
        name: &str,
        version: Option<&Version>,
    ) -> Result<FleetDeployment, Failure> {
        find_deployment(self.list().await, name, version)
    }
}

fn find_deployment(
    listing: Listing,
    name: &str,
    version: Option<&Version>,
) -> Result<FleetDeployment, Failure> {
    let found = filter_listing(listing, name, version)?;
    let mut rows = found.rows.into_iter();
    match (rows.next(), rows.next(), version) {
        (Some(row), None, _) => Ok(row),
        (Some(first), Some(second), None) => {
            let main = [first, second].into_iter().chain(rows).find(|row| row.main != Some(false));
            main.ok_or_else(|| FleetDeployError::NoMatch.into())
        }
        (_, _, Some(version)) => {
            let service = name.parse().map_err(|_| FleetDeployError::NoMatch)?;
            Err(FleetDeployError::NoVersion { service, version: version.clone() }.into())
        }
        _ => Err(FleetDeployError::NoMatch.into()),
    }
}

/// Returns an error if NAME is not an id and VERSION is missing.
fn require_version(
    name: &str,
    version: Option<&Version>,
    what: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if version.is_none() && parse_id(name).is_none() {
        return Err(Failure::Usage { what: what(), why: "the VERSION is missing" });
    }
    Ok(())
}

fn parse_service(name: &str) -> Result<ServiceName, Failure> {
    name.parse().map_err(fail_to::<NameError>(format!("read the name `{}`", name.escape_debug())))
}

/// Rows by NAME and VERSION, or by id.
fn filter_listing(listing: Listing, name: &str, version: Option<&Version>) -> Result<Listing, Failure> {
    if let Some(id) = parse_id(name) {
        return Ok(listing.filter_by_id(&id));
    }
    Ok(listing.filter(Some(&parse_service(name)?), version))
}
