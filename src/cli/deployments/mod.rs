//! The commands about versions side by side.

use super::Context;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::version::Version;
use crate::ops::fleet::deployments::list;
use crate::ops::fleet::deployments::{Listing, Row, VersionsError, as_id};
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
pub use ls::{DescribeArgs, LogsArgs, LsArgs, describe, logs, ls};
pub use traffic_split::{CanaryArgs, MirrorArgs, canary, mirror, sticky};
pub use update::{AccessArgs, UpdateArgs, access, update};

/// A fleet as it is for one service, with the hosts that are meant.
struct Place {
    fleet: Fleet,
    hosts: Vec<Host>,
    world: FleetWorld,
}

impl Place {
    fn of(context: &Context, service: &ServiceName, hosts: &[HostName]) -> Result<Self, Failure> {
        let (file, fleet) = context.config_of(service)?;
        let hosts = context.hosts_or_all(&fleet, hosts)?;
        let world = context.fleet_world(&file, &fleet, &hosts);
        Ok(Self { fleet, hosts, world })
    }

    /// For lists over all services.
    fn any(context: &Context, hosts: &[HostName]) -> Result<Self, Failure> {
        let (file, fleet) = context.config()?;
        let hosts = context.hosts_or_all(&fleet, hosts)?;
        let world = context.fleet_world(&file, &fleet, &hosts);
        Ok(Self { fleet, hosts, world })
    }

    /// `Active host: ...` is said where just one host is meant.
    fn say_host(&self, context: &Context) {
        if let [host] = self.hosts.as_slice() {
            let address = host.address.map_or_else(|| host.name.to_string(), |address| address.to_string());
            context.render.active_host(&address);
        }
    }

    /// The deployment that NAME VERSION, or an id, names.
    async fn row(&self, name: &str, version: Option<&Version>) -> Result<Row, Failure> {
        let listing = list(&self.world, &self.hosts).await;
        let found = pick(listing, name, version)?;
        let mut rows = found.rows.into_iter();
        let named = || name.parse::<ServiceName>();
        match (rows.next(), rows.next(), version) {
            (Some(row), None, _) => Ok(row),
            (Some(first), Some(second), None) => {
                let main = [first, second].into_iter().chain(rows).find(|row| row.main != Some(false));
                main.ok_or_else(|| VersionsError::NoMatch.into())
            }
            (_, _, Some(version)) if named().is_ok() => {
                let service = named().map_err(|_| VersionsError::NoMatch)?;
                Err(VersionsError::NoVersion { service, version: version.clone() }.into())
            }
            _ => Err(VersionsError::NoMatch.into()),
        }
    }
}

/// Rows by NAME and VERSION, or by id.
fn pick(listing: Listing, name: &str, version: Option<&Version>) -> Result<Listing, Failure> {
    if let Some(id) = as_id(name) {
        return Ok(listing.with_id(&id));
    }
    let service: ServiceName = name.parse().map_err(|why| Failure::Other {
        what: format!("read the name `{}`", name.escape_debug()),
        why: format!("{why}"),
    })?;
    Ok(listing.only(Some(&service), version))
}

/// The service a name or an id is about: ids are looked up on the hosts.
async fn service_of(context: &Context, name: &str, hosts: &[HostName]) -> Result<ServiceName, Failure> {
    let Some(id) = as_id(name) else {
        return name.parse().map_err(|why| Failure::Other {
            what: format!("read the name `{}`", name.escape_debug()),
            why: format!("{why}"),
        });
    };
    let place = Place::any(context, hosts)?;
    let found = list(&place.world, &place.hosts).await.with_id(&id);
    found.rows.first().map(|row| row.service.clone()).ok_or_else(|| VersionsError::NoMatch.into())
}
