//! What every command works with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::render::Render;
use super::{Connect, ConnectFleet, Connector, Globals};
use crate::config;
use crate::error::Failure;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::plan::this_host::{Asked, Identity, pick};
use crate::world::FleetWorld;
use crate::world::HostWorld;
use crate::world::stop::Stop;

/// The globals of one command line, with the doors to the world and to the operator.
pub struct Context {
    pub(super) globals: Globals,
    pub(super) render: Arc<Render>,
    pub(super) connect: Connector,
    pub(super) stop: Stop,
}

fn of(fleet: &Fleet, service: &ServiceName) -> Result<Fleet, Failure> {
    fleet.of(service).ok_or_else(|| Failure::NoService {
        asked: service.clone(),
        known: fleet.services().cloned().collect(),
    })
}

impl Context {
    pub(super) fn config(&self) -> Result<(PathBuf, Fleet), Failure> {
        let (file, fleet) = config::load(self.globals.config.as_deref())?;
        match &self.globals.service {
            Some(service) => Ok((file, of(&fleet, service)?)),
            None => Ok((file, fleet)),
        }
    }

    /// The fleet as it is for one of its services.
    pub(super) fn config_of(&self, service: &ServiceName) -> Result<(PathBuf, Fleet), Failure> {
        let (file, fleet) = config::load(self.globals.config.as_deref())?;
        Ok((file, of(&fleet, service)?))
    }

    /// For commands about versions: the named hosts, or all of them; with `--local` this machine.
    pub(super) fn hosts_or_all(&self, fleet: &Fleet, named: &[HostName]) -> Result<Vec<Host>, Failure> {
        let asked = match named {
            [] if self.globals.local => Asked::Nothing,
            [] => Asked::All,
            named => Asked::These(named),
        };
        self.hosts(fleet, asked)
    }

    /// A question that stands for itself. The default is no; so is the end of input, which is not an answer at all.
    pub(super) fn confirm(&self, question: &str) -> Result<bool, Failure> {
        if self.globals.yes {
            return Ok(true);
        }
        self.render.prompt(&format!("{question} [y/N]: "))?;
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        let read =
            read.map_err(|error| Failure::Other { what: "read the answer".into(), why: error.to_string() })?;
        if read == 0 {
            return Err(Failure::Aborted);
        }
        Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    pub(super) fn world(&self, fleet: Option<&Fleet>) -> HostWorld {
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
