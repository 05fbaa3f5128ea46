//! The candidates for the word under the cursor: names from the configuration, versions and ids from the hosts.

use std::ffi::{OsStr, OsString};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{ArgMatches, Command, FromArgMatches};
use clap_complete::PathCompleter;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, ValueCompleter};

use crate::cli::Context;
use crate::cli::deployments::list_within;
use crate::cli::globals::GlobalArgs;
use crate::cli::host_args::HostArgs;
use crate::cli::interrupt::PromptState;
use crate::cli::render::{Renderer, TimeFormat};
use crate::cli::world_params::WorldFactory;
use crate::model::fleet::Fleet;
use crate::ops::fleet::deployments::{FleetDeployment, Listing};
use crate::world::changes::ChangeTracker;
use crate::world::stop;

/// How long the operator waits at most. A host that has not answered by then has no candidates.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// What an id begins with: only then hosts are read for the candidates of a NAME.
const ID_PREFIX: &str = "dp";

/// The command line before the cursor.
pub struct CommandLine {
    typed: Vec<OsString>,
    /// Builds the definition of the whole command line.
    pub build: fn() -> Command,
    world_factory: WorldFactory,
}

/// The typed command, as far as it can be read.
struct TypedCommand {
    globals: GlobalArgs,
    hosts: HostArgs,
    name: Option<String>,
}

impl CommandLine {
    /// Takes the words of a shell's request: those of the command line follow `--`. Without an index, the last one is completed.
    pub fn new(
        words: &[OsString],
        index: Option<usize>,
        build: fn() -> Command,
        world_factory: WorldFactory,
    ) -> Self {
        let mut typed: Vec<OsString> =
            words.iter().skip_while(|word| *word != "--").skip(1).cloned().collect();
        typed.truncate(index.unwrap_or(typed.len().saturating_sub(1)));
        Self { typed, build, world_factory }
    }

    /// Builds a completer that offers the candidates which begin with the typed text.
    pub fn completer(
        self: Arc<Self>,
        list: impl Fn(&Self, &OsStr) -> Vec<CompletionCandidate> + Send + Sync + 'static,
    ) -> ArgValueCompleter {
        ArgValueCompleter::new(move |typed: &OsStr| {
            let mut candidates = list(&self, typed);
            let begins = |one: &CompletionCandidate| {
                one.get_value().as_encoded_bytes().starts_with(typed.as_encoded_bytes())
            };
            candidates.retain(begins);
            candidates
        })
    }

    pub fn list_hosts(&self) -> Vec<CompletionCandidate> {
        let fleet = self.load_fleet();
        let hosts = fleet.iter().flat_map(|fleet| &fleet.hosts);
        hosts.map(|host| CompletionCandidate::new(host.name.as_str())).collect()
    }

    pub fn list_services(&self) -> Vec<CompletionCandidate> {
        let fleet = self.load_fleet();
        let names = fleet.iter().flat_map(Fleet::service_names);
        names.map(|name| CompletionCandidate::new(name.as_str())).collect()
    }

    /// Lists the candidates of a NAME: services, and ids where an id is typed.
    pub fn list_names(&self, typed: &OsStr) -> Vec<CompletionCandidate> {
        let mut names = self.list_services();
        if typed.to_string_lossy().starts_with(ID_PREFIX) {
            let describe = |row: &FleetDeployment| format!("{} {}", row.service, row.version);
            let ids = self.list_deployments().rows;
            names.extend(
                ids.iter()
                    .map(|row| CompletionCandidate::new(row.id.as_str()).help(Some(describe(row).into()))),
            );
        }
        names
    }

    /// Lists the versions of the typed service.
    pub fn list_versions(&self) -> Vec<CompletionCandidate> {
        let Some(name) = self.parse().and_then(|command| command.name) else { return vec![] };
        let rows = self.list_deployments().rows;
        let mut versions: Vec<CompletionCandidate> = Vec::new();
        for row in rows.iter().filter(|row| row.service.as_str() == name) {
            let version = row.version.to_string();
            // Hosts may have it under several ids.
            if versions.iter().all(|one| one.get_value() != version.as_str()) {
                let role = if row.main == Some(false) { "shadow" } else { "main" };
                versions.push(CompletionCandidate::new(version).help(Some(role.into())));
            }
        }
        versions
    }

    /// Reads the typed command; a part that is missing or wrong is left out.
    fn parse(&self) -> Option<TypedCommand> {
        let matches = (self.build)().ignore_errors(true).try_get_matches_from(&self.typed).ok()?;
        let (_, command) = matches.subcommand()?;
        Some(TypedCommand {
            globals: GlobalArgs::from_arg_matches(command).ok()?,
            hosts: read_hosts(command),
            name: read_name(command),
        })
    }

    fn build_context(&self, globals: GlobalArgs) -> Context {
        // No signal is handled here: the shell ends the process.
        let (_, stop) = stop::create_channel();
        Context {
            globals,
            renderer: Arc::new(Renderer::new(true, true, TimeFormat::default(), None)),
            world_factory: self.world_factory,
            stop,
            prompt: PromptState::default(),
            changes: ChangeTracker::default(),
            lock_wait_limit: Duration::ZERO,
            ssh_environment: OnceLock::new(),
        }
    }

    fn load_fleet(&self) -> Option<Fleet> {
        let TypedCommand { globals, .. } = self.parse()?;
        Some(self.build_context(globals).load_written_config().ok()?.1)
    }

    /// Lists the deployments of the hosts that answer in time.
    fn list_deployments(&self) -> Listing {
        let list = || {
            let TypedCommand { globals, hosts, .. } = self.parse()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            let context = self.build_context(globals);
            let listing = runtime.block_on(list_within(&context, &hosts, ANSWER_TIMEOUT)).ok();
            // What did not answer in time is not waited for.
            runtime.shutdown_background();
            listing
        };
        list().unwrap_or_default()
    }
}

/// Returns the typed hosts; a command without `--host` has none.
fn read_hosts(command: &ArgMatches) -> HostArgs {
    match command.try_contains_id("hosts") {
        Ok(_) => HostArgs::from_arg_matches(command).unwrap_or_default(),
        Err(_) => HostArgs::default(),
    }
}

fn read_name(command: &ArgMatches) -> Option<String> {
    let mut names = command.try_get_raw("name").ok()??;
    names.next().map(|name| name.to_string_lossy().into_owned())
}

pub fn list_paths(typed: &OsStr) -> Vec<CompletionCandidate> {
    PathCompleter::any().complete(typed)
}
