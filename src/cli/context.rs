//! What every command works with.

use std::path::PathBuf;
use std::sync::Arc;

use super::render::Render;
use super::{Connect, Connector, Globals};
use crate::config;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::plan::this_host::{Identity, pick};
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
        (self.connect)(Connect {
            balancers: fleet.map(|fleet| fleet.balancers.clone()).unwrap_or_default(),
            state_dir: self.globals.state_dir.clone(),
            reporter: self.render.clone(),
            stop: self.stop.clone(),
        })
    }

    /// The host that `--host` and `--local` mean, or that this machine is.
    pub(super) fn host(
        &self,
        world: &World,
        fleet: &Fleet,
        asked: Option<&HostName>,
    ) -> Result<Host, Failure> {
        let (host_name, addresses) = (world.machine.host_name()?, world.machine.addresses()?);
        let machine = Identity { host_name: &host_name, addresses: &addresses };
        Ok(pick(fleet, asked, self.globals.local, &machine)?)
    }
}
