//! Parse, build the world, run, exit.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use switchman::cli::{self, Cli, Connect};
use switchman::sys;
use switchman::world::World;

/// Bound on one read of a load balancer.
const READ: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    ExitCode::from(cli::run(Cli::parse(), connect) as u8)
}

/// The real world: this machine's kernel, the configured balancers, the state directory.
fn connect(to: Connect) -> World {
    let Connect { balancers, state_dir, reporter, stop } = to;
    World {
        firewall: Arc::new(sys::iptables::Iptables),
        balancers: balancers.iter().filter_map(|spec| sys::haproxy::connect(spec, READ)).collect(),
        sockets: Arc::new(sys::sock_diag::SockDiag),
        probe: Arc::new(sys::probe::HttpProbe),
        store: Arc::new(sys::store::SqliteStore::new(state_dir)),
        clock: Arc::new(sys::clock::SystemClock),
        machine: Arc::new(sys::machine::LocalMachine),
        files: Arc::new(sys::files::LocalFiles),
        reporter,
        stop,
    }
}
