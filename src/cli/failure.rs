//! Failures with an error of a library or of the system as their cause.

use std::io;
use std::path::Path;

use crate::agent::serve::ServeError;
use crate::error::{Failure, ServerKind, Subject};
use crate::model::name::ServiceName;
use crate::model::version::Version;
use crate::ops::fleet::deployments::FleetDeployError;
use crate::proxy::error::ProxyError;

/// Returns the conversion of an error into `cannot ACTION PATH: ERROR`.
pub(super) fn fail_file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::File { action, path: path.to_owned(), source }
}

/// Returns the conversion of an error of the system into `cannot ACTION: ERROR`.
pub(super) fn fail_system(action: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::System { action, source }
}

/// Returns the conversion of an error about versions into `cannot ACTION: ERROR`.
pub(super) fn fail_deployments(action: impl Into<String>) -> impl FnOnce(FleetDeployError) -> Failure {
    move |error| Failure::Deployments { action: action.into(), subject: None, error }
}

/// Returns the conversion of an error about a service or one of its versions into `cannot ACTION: ERROR`, with their names in the
/// commands of its hint.
pub(super) fn fail_version<'a>(
    action: impl Into<String> + 'a,
    service: &'a ServiceName,
    version: Option<&'a Version>,
) -> impl FnOnce(FleetDeployError) -> Failure + 'a {
    move |error| {
        let subject = Subject { service: service.clone(), version: version.cloned() };
        Failure::Deployments { action: action.into(), subject: Some(subject), error }
    }
}

/// Builds the failure for an argument that clap accepts.
pub(super) fn fail_usage(
    command: &'static str,
    action: impl Into<String>,
    reason: impl Into<String>,
) -> Failure {
    Failure::Usage { command, action: action.into(), reason: reason.into() }
}

/// Lookups name what was not found; an operation on hosts is converted by [`fail_deployments`].
impl From<FleetDeployError> for Failure {
    fn from(error: FleetDeployError) -> Self {
        fail_deployments("read the versions")(error)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::SocketInUse { path } => Self::SocketInUse { server: ServerKind::Agent, path },
            failed @ ServeError::Failed { .. } => {
                Self::Serve { server: ServerKind::Agent, reason: failed.to_string() }
            }
        }
    }
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        match error {
            ProxyError::SocketInUse { path } => Self::SocketInUse { server: ServerKind::Proxy, path },
            failed @ (ProxyError::Socket { .. } | ProxyError::Thread { .. }) => {
                Self::Serve { server: ServerKind::Proxy, reason: failed.to_string() }
            }
        }
    }
}
