//! Why a rehearsal cannot go on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::process::ProcessError;
use crate::sys::exec::ExecError;
use crate::templates::working_set::TemplateError;

/// Turns a failure of the load or of what it needs into an error.
#[allow(clippy::needless_pass_by_value, reason = "the signature that map_err needs")]
pub(super) fn to_load_error(error: impl ToString) -> LabError {
    LabError::Load { reason: error.to_string() }
}

/// An error of the rehearsal itself.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("`{command}` failed with status {status}: {stderr}")]
    Command { command: String, status: i32, stderr: String },
    #[error("cannot {verb} `{path}`: {source}")]
    Files { verb: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the lab `{name}` is in use by another switchman")]
    InUse { name: String },
    #[error("the lab needs root: {reason}")]
    NoPrivilege { reason: String },
    #[error("timed out waiting for {condition} after {}", crate::model::duration::format(*.waited))]
    TimedOut { condition: String, waited: Duration },
    #[error("the load generator failed: {reason}")]
    Load { reason: String },
    #[error("interrupted")]
    Interrupted,
}
