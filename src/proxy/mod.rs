//! A host's data path at layer 7, while it has mirrors or canaries: copies requests, shares them out, counts them.
//!
//! | file | what is in it |
//! |---|---|
//! | `control` | the socket through which the agent configures the proxy |
//! | `worker` | one thread: listeners, connections, its configuration |
//! | `connection` | one client connection: HTTP/1, HTTP/2, or bytes as they are |
//! | `answer` | one request: who answers it, who gets a copy |
//! | `mirror`, `copying`, `tee` | copies, which main never waits for |
//! | `upstream`, `short` | connections to those who answer, and what is cheaper to write at once |
//! | `comparison` | gathers main's and a shadow's answer to one request |
//! | `collector` | the thread beside the data path that compares answers |

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::collector::Collector;
use self::control::Control;
use crate::model::compare::ComparisonRules;
use crate::model::proxy::ProxyLimits;

mod client_stream;
mod coalesced_write;
pub mod collector;
mod comparison;
mod connection;
mod control;
mod control_socket;
mod counters;
mod download;
mod exchange;
mod limits;
mod listen;
mod mirror;
mod service;
mod shadow_request;
mod tee;
mod upload;
mod upstream;
mod worker;

#[derive(Debug)]
pub struct ProxyOptions {
    /// The unix socket for the agent's commands; for its user alone.
    pub control: PathBuf,
    pub workers: NonZeroUsize,
    /// Drain timeout of open connections when the proxy is stopped.
    pub drain_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("another proxy serves `{path}`")]
    SocketInUse { path: PathBuf },
    #[error("cannot {what} `{path}`: {why}")]
    Socket { what: &'static str, path: PathBuf, why: std::io::Error },
    #[error("cannot start a thread: {why}")]
    Thread { why: std::io::Error },
}

/// Serves until `ended`; then accepts nothing more, ends each connection with its next answer, and returns when none is left
/// or the drain timeout is over. Listens nowhere before it receives a configuration.
pub async fn run(options: ProxyOptions, ended: impl Future<Output = ()>) -> Result<(), ProxyError> {
    let door = control_socket::ControlSocket::open(&options.control)?;
    let room = Arc::new(limits::ResourceLimits::acquire());
    let thread = |why| ProxyError::Thread { why };
    let collector =
        Collector::start(ComparisonRules::default(), ProxyLimits::default().compare_retained_bytes);
    let collector = Arc::new(collector.map_err(thread)?);
    let start = |number| worker::start(number, room.clone(), collector.clone());
    let workers = (0..options.workers.get()).map(start).collect::<Result<Vec<_>, _>>().map_err(thread)?;
    let control = Arc::new(Control::new(workers, room.clone(), collector));
    log::info!("the proxy listens on `{}`", options.control.display());
    tokio::select! {
        () = control::serve(&door, &control) => {}
        () = room.watch() => {}
        () = control.wait_for_ports() => {}
        () = control.wait_for_stop() => {}
        () = ended => {}
    }
    log::info!("the proxy drains its connections");
    control.close().await;
    // Another one may begin.
    drop(door);
    if tokio::time::timeout(options.drain_timeout, control.wait_until_drained()).await.is_err() {
        log::warn!("connections were left after {:?}", options.drain_timeout);
    }
    Ok(())
}

fn socket_error(what: &'static str, path: &Path, why: std::io::Error) -> ProxyError {
    ProxyError::Socket { what, path: path.to_owned(), why }
}
