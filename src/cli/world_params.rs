//! What `main` needs to build the worlds that commands act on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::model::balancer::BalancerSpec;
use crate::model::config_check::ConfigCheck;
use crate::model::discovery::DiscoverySource;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::registration::RegistryLocation;
use crate::world::FleetWorld;
use crate::world::HostWorld;
use crate::world::changes::ChangeTracker;
use crate::world::discovery::HostSource;
use crate::world::registry::Registry;
use crate::world::reporter::Reporter;
use crate::world::runner::SupervisorRole;
use crate::world::stop::StopToken;

/// The parameters `main` needs to build a host's world.
pub struct HostWorldParams {
    pub balancers: Vec<BalancerSpec>,
    pub state_dir: PathBuf,
    pub releases_dir: PathBuf,
    pub reporter: Arc<dyn Reporter>,
    pub stop: StopToken,
    pub changes: ChangeTracker,
}

/// The parameters `main` needs to build an operator's world.
pub struct FleetWorldParams {
    /// This machine, where it is one of the hosts.
    pub local_host: HostWorldParams,
    pub fleet: Fleet,
    /// The hosts that the command may act on.
    pub hosts: Vec<Host>,
    /// Holds the journal, the locks of running commands, and their output.
    pub journal_dir: PathBuf,
}

/// Runs a HAProxy program with files; the error is prose.
pub type CheckHaproxyConfig =
    for<'a> fn(&'a Path, &'a [PathBuf]) -> BoxFuture<'a, Result<ConfigCheck, String>>;

/// The factories of worlds; only `main` has the real ones.
#[derive(Clone, Copy)]
pub struct WorldFactory {
    pub build_host_world: fn(HostWorldParams) -> HostWorld,
    pub build_fleet_world: fn(FleetWorldParams) -> FleetWorld,
    /// Builds the reader of a source of hosts.
    pub connect_host_source: fn(&DiscoverySource) -> Arc<dyn HostSource>,
    /// Builds the client of the catalogue that a host registers in; the error is prose.
    pub connect_registry: fn(&RegistryLocation) -> Result<Arc<dyn Registry>, String>,
    /// Runs one of the supervisor's roles for the instance of a directory; the error is prose.
    pub supervise: fn(&Path, SupervisorRole) -> Result<(), String>,
    /// Runs `haproxy -c`.
    pub check_haproxy_config: CheckHaproxyConfig,
}
