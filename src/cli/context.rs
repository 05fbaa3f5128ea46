//! What every command works with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::render::Render;
use super::{Connect, ConnectFleet, Connector, Globals};
use crate::config;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::plan::this_host::{Asked, Identity, pick};
use crate::world::FleetWorld;
use crate::world::World;
use crate::world::stop::Stop;

/// The globals of one command line, with the doors to the world and to the operator.
pub struct Context {
    pub(super) globals: Globals,
    pub(super) render: Arc<Render>,
    pub(super) connect: Connector,
    pub(super) stop: Stop,
}

impl Context {
    pub(super) fn config(&self) -> Result<(PathBuf, Fleet), Failure> {
        Ok(config::load(self.globals.config.as_deref())?)
    }

    pub(super) fn world(&self, fleet: Option<&Fleet>) -> World {
        (self.connect.host)(self.door(fleet))
    }

    /// The hosts that are asked for, each with the way to it.
    pub(super) fn hosts(&self, fleet: &Fleet, asked: Asked<'_>) -> Result<Vec<Host>, Failure> {
        let world = self.world(None);
        let (host_name, addresses) = (world.machine.host_name()?, world.machine.addresses()?);
        let machine = Identity { host_name: &host_name, addresses: &addresses };
        Ok(pick(fleet, asked, self.globals.local, &machine)?)
    }

    /// An operator's world over these hosts.
    pub(super) fn fleet_world(&self, file: &Path, fleet: &Fleet, hosts: &[Host]) -> FleetWorld {
        (self.connect.fleet)(ConnectFleet {
            here: self.door(Some(fleet)),
            fleet: fleet.clone(),
            hosts: hosts.to_vec(),
            journal_dir: self.journal_dir(file),
        })
    }

    fn journal_dir(&self, file: &Path) -> PathBuf {
        let beside = || file.parent().unwrap_or(Path::new(".")).join(".switchman");
        let dir = self.globals.journal_dir.clone().unwrap_or_else(beside);
        // What the journal says of kept output is read from other places later.
        std::path::absolute(&dir).unwrap_or(dir)
    }

    fn door(&self, fleet: Option<&Fleet>) -> Connect {
        Connect {
            balancers: fleet.map(|fleet| fleet.balancers.clone()).unwrap_or_default(),
            state_dir: self.globals.state_dir.clone(),
            releases_dir: self.globals.releases_dir.clone(),
            reporter: self.render.clone(),
            stop: self.stop.clone(),
        }
    }
}
