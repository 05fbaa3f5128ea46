//! The reason why a host could not do something, as a code that means the same on both ends of a link.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kinds of failure. The message names what was tried; the code decides the hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// A program that is needed is not installed.
    ProgramMissing,
    NoPrivilege,
    /// The xtables lock is held by another program.
    RulesLocked,
    RulesFailed,
    RulesMalformed,
    /// Another program keeps changing our chain.
    RulesContested,
    /// The forward is set, but packets do not get the answer that it requires.
    ForwardContradicted,
    /// The change failed, and so did taking it back.
    RevertFailed,
    StateFailed,
    StateNewer,
    DiskFull,
    StateDamaged,
    /// Another switchman is changing the host, or runs the same command there.
    Busy,
    Interrupted,
    /// Another operation took the host out of service.
    Owned,
    /// A command could not be started, or was not to end.
    CommandFailed,
    SocketsFailed,
    /// An archive that is damaged, or holds what a release may not hold.
    BadArchive,
    /// A release could not be written or read.
    ReleasesFailed,
    BadRequest,
    NotFound,
    /// The service has no main version.
    NoMain,
    /// The host has no such instance.
    NoInstance,
    /// There is another one of that name.
    Exists,
    /// Another deployment uses the same address.
    EndpointTaken,
    /// There is a release of that name with other content.
    ReleaseExists,
    /// Files of the release were changed since it was placed.
    ReleaseAltered,
    /// Other versions depend on it.
    NotAllowed,
    /// Work is in flight on it.
    NotDrained,
    /// The instance does not answer its health check.
    Unhealthy,
    /// An instance could not be started, stopped or read.
    RunnerFailed,
    /// Every port of the range is taken.
    NoPort,
    /// The requested port is taken.
    PortTaken,
    /// The release is not on the host.
    NoRelease,
    /// The service has no earlier main that was good.
    NoBackup,
    /// The version is not main.
    NotMain,
    /// The host has no such user.
    NoUser,
    /// The program of an instance is not on the host.
    NoProgram,
    /// The request cannot be fulfilled with these values. A host of 0.1.0 returns this code for each of the seven causes above.
    Unprocessable,
    Unauthorized,
    /// The client is known, and its role does not permit the request.
    RoleTooLow,
    /// The request needs an agent, and none runs on the host.
    NoAgent,
    /// The proxy does not start, answer, or apply its configuration.
    ProxyFailed,
    /// An update failed, and some instances could not get their old code back.
    HalfUpdated,
    /// A code of a newer switchman.
    #[serde(other)]
    Other,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_value(self).ok();
        f.pad(text.as_ref().and_then(|text| text.as_str()).unwrap_or("other"))
    }
}
