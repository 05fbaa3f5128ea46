//! Main of a service on one host.

use serde::Serialize;

use super::name::HostName;
use super::version::Version;

/// The version that is main on a host; `None`: no deployment has its data ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostMain {
    pub host: HostName,
    pub version: Option<Version>,
}
