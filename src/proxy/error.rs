//! Reasons why the proxy cannot run.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("another proxy serves `{path}`")]
    SocketInUse { path: PathBuf },
    #[error("cannot {action} `{path}`: {reason}")]
    Socket { action: &'static str, path: PathBuf, reason: io::Error },
    #[error("cannot start a thread: {reason}")]
    Thread { reason: io::Error },
}
