//! The context that every command works with.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::globals::GlobalArgs;
use super::host_args::HostArgs;
use super::interrupt::PromptState;
use super::render::Renderer;
use super::ssh_files::SshEnvironment;
use super::world_params::{FleetWorldParams, HostWorldParams, WorldFactory};
use crate::config;
use crate::config::env;
use crate::error::Failure;
use crate::model::balancer::StatsEndpoint;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::journal_location::JournalLocation;
use crate::model::name::ServiceName;
use crate::ops::fleet::discovery::discover_hosts;
use crate::plan::host_selection::{HostSelection, MachineIdentity, select_hosts};
use crate::world::FleetWorld;
use crate::world::HostWorld;
use crate::world::changes::ChangeTracker;
use crate::world::stop::StopToken;

/// How long a question waits for an answer that does not come from a terminal.
const PIPED_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The globals of one command line, with access to the world and to the operator.
pub struct Context {
    pub(super) globals: GlobalArgs,
    pub(super) renderer: Arc<Renderer>,
    pub(super) world_factory: WorldFactory,
    pub(super) stop: StopToken,
    pub(super) prompt: PromptState,
    /// The changes on this machine, which end before the process does.
    pub(super) changes: ChangeTracker,
    /// `--wait-lock`; zero: the command is refused while another one holds the fleet lock.
    pub(super) lock_wait_limit: Duration,
    /// The files for ssh; made when a configuration is read, and removed with the context.
    pub(super) ssh_environment: OnceLock<SshEnvironment>,
}

/// The services of the configuration, for an error about another one.
fn list_services(fleet: &Fleet) -> Vec<ServiceName> {
    fleet.service_names().cloned().collect()
}

impl Context {
    /// Loads the configuration, with the hosts that its sources list now.
    pub(super) async fn load_config(&self) -> Result<(PathBuf, Fleet), Failure> {
        let (file, fleet) = self.load_written_config()?;
        Ok((file, self.discover(fleet).await?))
    }

    /// Loads the configuration alone, for commands that act on no host.
    pub(super) fn load_written_config(&self) -> Result<(PathBuf, Fleet), Failure> {
        let (file, fleet) = self.read_config()?;
        match &self.globals.service {
            Some(service) => {
                let (action, requested) = ("select the service", service.clone());
                let known = list_services(&fleet);
                let selected = fleet.for_service(service);
                Ok((file, selected.ok_or(Failure::UnknownService { action, requested, known })?))
            }
            None => Ok((file, fleet)),
        }
    }

    /// The configuration, with what the environment has for ssh before the options of the configuration: of an option given
    /// twice, ssh takes the first.
    fn read_config(&self) -> Result<(PathBuf, Fleet), Failure> {
        let (file, mut fleet) =
            config::load_config(self.globals.config.as_deref(), self.globals.trusted_users().as_ref())?;
        let ssh = if let Some(made) = self.ssh_environment.get() {
            made
        } else {
            let made = SshEnvironment::create(env::read_ssh_variables())?;
            self.ssh_environment.get_or_init(|| made)
        };
        let options = ssh.files.to_options();
        fleet.reach.ssh_files = ssh.files.clone();
        fleet.reach.ssh_options.splice(0..0, options.iter().cloned());
        for balancer in &mut fleet.balancers {
            if let Some(StatsEndpoint::Ssh(socket)) = &mut balancer.stats_endpoint {
                socket.options.splice(0..0, options.iter().cloned());
            }
        }
        Ok((file, fleet))
    }

    /// The fleet as it is for one of its services.
    pub(super) async fn load_service_config(
        &self,
        service: &ServiceName,
    ) -> Result<(PathBuf, Fleet), Failure> {
        let (file, fleet) = self.read_config()?;
        let (requested, known) = (service.clone(), list_services(&fleet));
        let fleet = fleet.for_service(service).ok_or(Failure::NoSuchService { requested, known })?;
        Ok((file, self.discover(fleet).await?))
    }

    /// With `--local` this machine is the host, and no source is read.
    async fn discover(&self, fleet: Fleet) -> Result<Fleet, Failure> {
        if fleet.discovery.is_empty() || self.globals.local {
            return Ok(fleet);
        }
        Ok(discover_hosts(fleet, self.world_factory.connect_host_source).await?)
    }

    /// Selects hosts for commands about versions: the named hosts, or all of them; with `--local` this machine.
    pub(super) fn select_hosts_or_all(&self, fleet: &Fleet, hosts: &HostArgs) -> Result<Vec<Host>, Failure> {
        let default = if self.globals.local { HostSelection::ThisMachine } else { HostSelection::All };
        self.select_hosts(fleet, hosts.select_or(default))
    }

    /// Prompts the operator for confirmation. The default is no.
    pub(super) async fn confirm(&self, question: &str) -> Result<bool, Failure> {
        if self.globals.yes {
            return Ok(true);
        }
        let answer = self.prompt(&format!("{question} [y/N]: ")).await?;
        Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Prompts the operator for a line of text. The end of input and a signal abort, because they are no answer.
    pub(super) async fn prompt(&self, question: &str) -> Result<String, Failure> {
        // First, because a signal may come as soon as the question is read.
        self.prompt.set(true);
        self.renderer.prompt(question)?;
        let reading = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|bytes| (bytes, line))
        });
        let read = tokio::select! {
            read = reading => read.unwrap_or_else(|error| Err(std::io::Error::other(error))),
            // A pipe of a CI job may stay open and silent for as long as the job.
            () = tokio::time::sleep(PIPED_ANSWER_TIMEOUT), if !std::io::stdin().is_terminal() => {
                self.renderer.print_text("\n");
                return Err(Failure::NoAnswer { waited: PIPED_ANSWER_TIMEOUT });
            }
            () = self.stop.wait() => {
                // The echo of Ctrl-C is on the line of the question.
                self.renderer.print_text("\n");
                return Err(Failure::Aborted);
            }
        };
        self.prompt.set(false);
        match read.map_err(|source| Failure::Input { source })? {
            (0, _) => Err(Failure::Aborted),
            (_, line) => Ok(line.trim().to_owned()),
        }
    }

    pub(super) fn build_host_world(&self, fleet: Option<&Fleet>) -> HostWorld {
        (self.world_factory.build_host_world)(self.host_world_params(fleet))
    }

    /// The selected hosts, each with its transport.
    pub(super) fn select_hosts(
        &self,
        fleet: &Fleet,
        selection: HostSelection<'_>,
    ) -> Result<Vec<Host>, Failure> {
        let world = self.build_host_world(None);
        let (host_name, addresses) = (world.machine.host_name()?, world.machine.list_addresses()?);
        let machine = MachineIdentity { host_name: &host_name, addresses: &addresses };
        Ok(select_hosts(fleet, selection, self.globals.local, &machine)?)
    }

    /// An operator's world over these hosts.
    pub(super) fn build_fleet_world(&self, file: &Path, fleet: &Fleet, hosts: &[Host]) -> FleetWorld {
        let world = (self.world_factory.build_fleet_world)(FleetWorldParams {
            local_host: self.host_world_params(Some(fleet)),
            fleet: fleet.clone(),
            hosts: hosts.to_vec(),
            journal_dir: self.resolve_journal_dir(file, fleet),
        });
        FleetWorld { lock: world.lock.clone().with_wait_limit(self.lock_wait_limit), ..world }
    }

    /// The world of a fleet whose journal is moved. `--journal-dir` is about the journal that it is moved from.
    pub(super) fn build_target_world(&self, file: &Path, fleet: &Fleet) -> FleetWorld {
        let dir = match &fleet.journal {
            JournalLocation::Directory(dir) => dir.clone(),
            _ => file.parent().unwrap_or(Path::new(".")).join(".switchman"),
        };
        (self.world_factory.build_fleet_world)(FleetWorldParams {
            local_host: self.host_world_params(Some(fleet)),
            fleet: fleet.clone(),
            hosts: vec![],
            journal_dir: std::path::absolute(&dir).unwrap_or(dir),
        })
    }

    fn resolve_journal_dir(&self, file: &Path, fleet: &Fleet) -> PathBuf {
        let beside = || file.parent().unwrap_or(Path::new(".")).join(".switchman");
        let named = match &fleet.journal {
            JournalLocation::Directory(dir) => Some(dir.clone()),
            _ => None,
        };
        let dir = self.globals.journal_dir.clone().or(named).unwrap_or_else(beside);
        // The journal records paths of kept output, and later commands may read them from another working directory.
        std::path::absolute(&dir).unwrap_or(dir)
    }

    fn host_world_params(&self, fleet: Option<&Fleet>) -> HostWorldParams {
        HostWorldParams {
            balancers: fleet.map(|fleet| fleet.balancers.clone()).unwrap_or_default(),
            state_dir: self.globals.state_dir.clone(),
            releases_dir: self.globals.releases_dir.clone(),
            reporter: self.renderer.clone(),
            stop: self.stop.clone(),
            changes: self.changes.clone(),
        }
    }
}
