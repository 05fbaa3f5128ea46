//! Parses the command line, builds the world, runs the command and exits.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use switchman::cli::world_params::{FleetWorldParams, HostWorldParams, WorldFactory};
use switchman::cli::{self, Cli};
use switchman::model::host::{Host, Transport};
use switchman::model::journal_location::JournalLocation;
use switchman::model::name::HostName;
use switchman::ops::fleet::balancer_cache::CachedBalancer;
use switchman::ops::host::api::LocalHost;
use switchman::plan::host_selection::{MachineIdentity, choose_transport};
use switchman::sys;
use switchman::sys::journal::host::Connect;
use switchman::sys::journal::open::open_journal;
use switchman::sys::outputs::FileOutputs;
use switchman::sys::shared_outputs::SharedOutputs;
use switchman::world::balancer::Balancer;
use switchman::world::journal::Journal;
use switchman::world::link::HostLink;
use switchman::world::lock::FleetLock;
use switchman::world::outputs::OutputStore;
use switchman::world::{FleetWorld, HostWorld};

/// Limit of a single read from a load balancer.
const BALANCER_READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Limit of the wait for an ssh whose host writes without end.
const NOISY_SSH_TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let world_factory = WorldFactory {
        build_host_world,
        build_fleet_world,
        connect_host_source: sys::discovery::connect,
        connect_registry: sys::registry::connect,
        supervise: sys::supervisor::supervise,
        check_haproxy_config: |program, files| {
            let checked = sys::haproxy_program::check_config(program, files);
            Box::pin(async { checked.await.map_err(|error| error.to_string()) })
        },
    };
    if cli::answer_shell(std::env::args_os().collect(), world_factory) {
        return ExitCode::SUCCESS;
    }
    let ended = cli::run(Cli::parse(), world_factory);
    sys::ssh::stderr::wait_for_noisy_ssh(NOISY_SSH_TIMEOUT);
    ExitCode::from(ended as u8)
}

/// A host's real world: this machine's kernel, the configured balancers, the state directory.
fn build_host_world(params: HostWorldParams) -> HostWorld {
    let HostWorldParams { balancers, state_dir, releases_dir, reporter, stop, changes } = params;
    let store = Arc::new(sys::store::SqliteStore::new(&state_dir));
    HostWorld {
        firewall: Arc::new(sys::iptables::Iptables),
        rule_watch: Arc::new(sys::rule_watch::KernelRules),
        balancers: balancers
            .iter()
            .filter_map(|spec| sys::haproxy::connect(spec, BALANCER_READ_TIMEOUT))
            .collect(),
        sockets: Arc::new(sys::sock_diag::SockDiag),
        flows: Arc::new(sys::conntrack::Conntrack),
        probe: Arc::new(sys::probe::HttpProbe),
        packets: Arc::new(sys::packet_probe::TunProbe),
        commands: Arc::new(sys::commands::LocalCommands::new(state_dir.join("commands"))),
        store: store.clone(),
        deployments: store,
        releases: Arc::new(sys::releases::DirReleases::new(releases_dir)),
        runner: sys::runner::detect_runner(&state_dir),
        proxy: Arc::new(sys::proxy::ProxyProcess::new(&state_dir)),
        clock: Arc::new(sys::clock::SystemClock),
        machine: Arc::new(sys::machine::LocalMachine),
        files: Arc::new(sys::files::LocalFiles),
        journals: Arc::new(sys::journal::keeper::DirKeeper::new(state_dir.join("journals"))),
        reporter,
        stop,
        changes,
    }
}

/// An operator's real world: a link to every host, the balancers as seen from this machine, the journal.
fn build_fleet_world(params: FleetWorldParams) -> FleetWorld {
    let FleetWorldParams { local_host, fleet, hosts, journal_dir } = params;
    let (reporter, stop) = (local_host.reporter.clone(), local_host.stop.clone());
    let local_world = build_host_world(local_host);
    let shared =
        |inner: &Arc<dyn Balancer>| Arc::new(CachedBalancer::new(inner.clone())) as Arc<dyn Balancer>;
    let balancers = local_world.balancers.iter().map(shared).collect();
    let clock = local_world.clock.clone();
    let (machine, reach) = (local_world.machine.clone(), fleet.reach.clone());
    let link = move |transport: &Transport, name: &HostName| -> Arc<dyn HostLink> {
        match transport {
            Transport::Local => Arc::new(LocalHost::new(local_world.clone())),
            transport => sys::link::connect(name, transport, &reach),
        }
    };
    let links = hosts.iter().map(|host| (host.name.clone(), link(&host.transport, &host.name))).collect();
    let connect = move |host: &Host| -> Connect {
        let (host_name, addresses) =
            (machine.host_name().unwrap_or_default(), machine.list_addresses().unwrap_or_default());
        let machine = MachineIdentity { host_name: &host_name, addresses: &addresses };
        let (transport, name) = (choose_transport(host, &machine), host.name.clone());
        Arc::new(move || link(&transport, &name))
    };
    let journal = open_journal(&fleet.journal, &journal_dir, &fleet.service, connect);
    let files = FileOutputs::new(journal_dir.join("rolls"));
    let outputs: Arc<dyn OutputStore> = match &fleet.journal {
        JournalLocation::Beside | JournalLocation::Directory(_) => Arc::new(files),
        _ => Arc::new(SharedOutputs::new(files, journal.clone(), clock.clone())),
    };
    FleetWorld {
        links,
        balancers,
        lock: FleetLock::new(journal.clone(), Arc::new(sys::identity::ProcIdentity)),
        promotions: Journal::new(journal.clone()),
        journal: Journal::new(journal),
        commands: Arc::new(sys::commands::LocalCommands::new(journal_dir.join("commands"))),
        outputs,
        archives: Arc::new(sys::archive::TarArchives),
        notifier: Arc::new(sys::webhook::Webhooks::new(&fleet.webhooks)),
        clock,
        reporter,
        stop,
    }
}
