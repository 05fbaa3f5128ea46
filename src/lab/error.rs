//! Why a rehearsal cannot go on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::process::ProcessError;
use crate::sys::exec::ExecError;
use crate::templates::working_set::TemplateError;

/// An error of the rehearsal itself.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("`{command}` failed with status {status}: {stderr}")]
    Command { command: String, status: i32, stderr: String },
    #[error("cannot {what} `{path}`: {source}")]
    Files { what: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the lab `{name}` is in use by another switchman")]
    InUse { name: String },
    #[error("the lab needs root: {why}")]
    NoPrivilege { why: String },
    #[error("timed out waiting for {what} after {}", crate::model::duration::format(*.waited))]
    Late { what: String, waited: Duration },
    #[error("the load generator failed: {why}")]
    Load { why: String },
    #[error("interrupted")]
    Interrupted,
}
