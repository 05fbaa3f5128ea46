//! A host's data path at layer 7, while it has mirrors or canaries: copies requests, shares them out, counts them.
//!
//! | file | what is in it |
//! |---|---|
//! | `control_socket`, `control` | the socket through which the agent configures the proxy |
//! | `worker_loop`, `worker`, `slot` | one thread: listeners, connections, its configuration |
//! | `serve`, `connection` | one client connection: HTTP/1, HTTP/2, or bytes that pass through |
//! | `exchange` | one request: which version answers it, which shadow gets a copy |
//! | `upload`, `download` | the bodies of a request and of its answer |
//! | `mirror`, `shadow_request`, `tee` | copies, which main never waits for |
//! | `upstream`, `coalesced_write` | connections to upstreams, and short writes in one piece |
//! | `comparison` | gathers main's and a shadow's answer to one request |
//! | `collector` | the thread beside the data path that compares answers |

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::collector::Collector;
use self::control::Control;
use self::control_socket::ControlSocket;
use self::error::ProxyError;
use self::limits::ResourceLimits;
use crate::model::compare::ComparisonRules;
use crate::model::proxy::ProxyLimits;

mod addresses;
mod client_stream;
mod coalesced_write;
pub mod collector;
mod comparison;
mod connection;
mod control;
mod control_socket;
mod counters;
mod download;
pub mod error;
mod exchange;
mod limits;
mod listen;
mod mirror;
mod serve;
mod service;
mod shadow_request;
mod slot;
mod tee;
mod upload;
mod upstream;
mod worker;
mod worker_loop;

#[derive(Debug)]
pub struct ProxyOptions {
    /// The unix socket for the agent's commands; for its user alone.
    pub control: PathBuf,
    pub workers: NonZeroUsize,
    /// Drain timeout of open connections when the proxy is stopped.
    pub drain_timeout: Duration,
}

/// Serves until `ended`; then accepts nothing more, ends each connection with its next answer, and returns when none is left
/// or the drain timeout is over. Listens nowhere before it receives a configuration.
pub async fn run(options: ProxyOptions, ended: impl Future<Output = ()>) -> Result<(), ProxyError> {
    let socket = ControlSocket::open(&options.control)?;
    let resource_limits = Arc::new(ResourceLimits::acquire());
    let to_error = |reason| ProxyError::Thread { reason };
    let collector =
        Collector::start(ComparisonRules::default(), ProxyLimits::default().compare_retained_bytes);
    let collector = Arc::new(collector.map_err(to_error)?);
    let start = |number| worker_loop::start(number, resource_limits.clone(), collector.clone());
    let workers = (0..options.workers.get()).map(start).collect::<Result<Vec<_>, _>>().map_err(to_error)?;
    let control = Arc::new(Control::new(workers, resource_limits.clone(), collector));
    log::info!("the proxy listens on `{}`", options.control.display());
    tokio::select! {
        () = control::serve(&socket, &control) => {}
        () = resource_limits.watch() => {}
        () = control.wait_for_ports() => {}
        () = control.wait_for_stop() => {}
        () = ended => {}
    }
    log::info!("the proxy drains its connections");
    control.close().await;
    // Another proxy may start now.
    drop(socket);
    if tokio::time::timeout(options.drain_timeout, control.wait_until_drained()).await.is_err() {
        log::warn!("connections were left after {:?}", options.drain_timeout);
    }
    Ok(())
}
