//! The vhost of a release that a web server serves by itself.

use std::path::{Path, PathBuf};

use crate::model::deployment::WebServer;
use crate::model::ports::Port;

/// A generated configuration and the program that serves it in the foreground.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vhost {
    pub file: PathBuf,
    pub text: String,
    pub argv: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not built yet")]
pub struct VhostError;

pub fn vhost(_: WebServer, _: &Path, _: &Path, _: Port, _: &str) -> Result<Vhost, VhostError> {
    Err(VhostError)
}
