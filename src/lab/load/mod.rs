//! A load of every kind of client at once, and an account of every single request. Nothing is ever tried again: what a
//! client sees is what is counted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::error::{LabError, to_load_error};
use super::hosts::enter_namespace;

mod client;
mod client_kind;
mod ledger;

pub use client_kind::ClientKind;
pub use ledger::{AnswerOrigin, FailedRequest, FailureReason, KindReport, Report, RequestLedger, Snapshot};

/// The target of the load.
#[derive(Debug, Clone)]
pub struct LoadTarget {
    /// Load balancers; each client keeps to one of them.
    pub addresses: Vec<SocketAddr>,
    pub host: String,
    /// Hosts that clients with a cookie have been on before, in turn; empty: they come for the first time.
    pub cookies: Vec<String>,
}

/// How many clients of each kind.
pub type ClientMix = Vec<(ClientKind, usize)>;

/// Every kind at once, some hundred requests a second: enough to hit every moment of a switch, little enough for two cores.
pub fn default_mix() -> ClientMix {
    vec![
        (ClientKind::KeepAliveCookie, 6),
        (ClientKind::KeepAlive, 4),
        (ClientKind::PerRequest, 4),
        (ClientKind::Slow, 4),
        (ClientKind::Upload, 2),
        (ClientKind::Websocket, 4),
    ]
}

/// A running load, on a thread of its own.
#[derive(Debug)]
pub struct Load {
    ledger: Arc<RequestLedger>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients, inside a network namespace when one is named.
    pub fn start(namespace: Option<&Path>, target: LoadTarget, mix: &ClientMix) -> Result<Self, LabError> {
        let (stop, stopped) = watch::channel(false);
        let ledger = Arc::new(RequestLedger::new(ClientKind::ALL));
        let (shared_ledger, mix) = (ledger.clone(), mix.clone());
        let namespace: Option<PathBuf> = namespace.map(Path::to_owned);
        let (ready_sender, ready) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("swm-load".to_owned()).spawn(move || {
            let entered = match namespace {
                Some(file) => enter_namespace(&file).and_then(|runtime| runtime),
                None => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            };
            match entered {
                Ok(runtime) => {
                    let _ = ready_sender.send(Ok(()));
                    runtime.block_on(run_clients(&shared_ledger, &target, &mix, &stopped));
                }
                Err(error) => {
                    let _ = ready_sender.send(Err(error.to_string()));
                }
            }
        });
        let thread = thread.map_err(to_load_error)?;
        match ready.recv() {
            Ok(Ok(())) => Ok(Self { ledger, stop, thread: Some(thread) }),
            Ok(Err(reason)) => Err(to_load_error(reason)),
            Err(error) => Err(to_load_error(error)),
        }
    }

    /// Starts a phase: answers are counted under this name too.
    pub fn set_phase(&self, name: &str) {
        self.ledger.set_phase(name);
    }

    pub fn take_snapshot(&self) -> Snapshot {
        self.ledger.take_snapshot()
    }

    /// Ends the load: no new requests; those begun end, or fail by their own deadline. Everything is accounted for in the report.
    pub async fn stop(mut self) -> Result<Report, LabError> {
        self.join_thread().await?;
        Ok(self.ledger.build_report())
    }

    async fn join_thread(&mut self) -> Result<(), LabError> {
        let _ = self.stop.send(true);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            _ => Err(to_load_error("its thread panicked")),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

async fn run_clients(
    ledger: &Arc<RequestLedger>,
    target: &LoadTarget,
    mix: &ClientMix,
    stopped: &watch::Receiver<bool>,
) {
    let mut clients = tokio::task::JoinSet::new();
    for (kind, count) in mix {
        for number in 0..*count {
            let balancers = target.addresses.len().max(1);
            let Some(address) = target.addresses.get(number % balancers) else { continue };
            // Every pair of a balancer and a host has its turn.
            let cookie = target.cookies.get(number / balancers % target.cookies.len().max(1)).cloned();
            let client = client::Client::new(*kind, *address, target.host.clone(), cookie);
            clients.spawn(client.run(ledger.clone(), stopped.clone()));
        }
    }
    while clients.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests;
