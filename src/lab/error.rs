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

fn describe_labs(known: &[String]) -> String {
    if known.is_empty() {
        return "no lab is there".to_owned();
    }
    let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    format!("there is {}", names.join(", "))
}

/// An error of the rehearsal itself.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("cannot run a program of the lab: {0}")]
    Exec(#[from] ExecError),
    #[error("cannot run `{command}`: it failed with status {status}: {stderr}")]
    Command { command: String, status: i32, stderr: String },
    #[error("cannot {verb} `{path}`: {source}")]
    Files { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write a file of the lab: {0}")]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("cannot use the lab `{name}`: another switchman process uses it")]
    InUse { name: String },
    #[error("cannot build the lab `{name}`: a lab of that name is up")]
    Up { name: String },
    #[error("cannot remove the lab `{name}`: there is no such lab; {}", describe_labs(.known))]
    Unknown { name: String, known: Vec<String> },
    #[error("cannot start the lab: it needs root: {reason}")]
    NoPrivilege { reason: String },
    #[error("cannot continue the lab: timed out waiting for {condition} after {}", crate::model::duration::format(*.waited))]
    TimedOut { condition: String, waited: Duration },
    #[error("cannot generate load: {reason}")]
    Load { reason: String },
    #[error("cannot complete the lab: interrupted")]
    Interrupted,
}
