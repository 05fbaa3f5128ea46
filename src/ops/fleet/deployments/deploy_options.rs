//! What is deployed, and how.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::deployment::RunSpec;
use crate::model::health::Health;
use crate::model::history::Actor;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::version::Version;

/// The source of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory or a `.tar.gz`.
    Release(PathBuf),
    /// The version runs already; its address is in its `RunSpec`.
    External,
}

#[derive(Debug, Clone)]
pub struct DeployOptions {
    pub service: ServiceName,
    pub version: Version,
    pub source: Source,
    pub run_spec: RunSpec,
    pub port: Option<Port>,
    /// Instances on each host; as many as the host has, or one, where absent.
    pub instances: Option<u32>,
    /// Facts to record, such as the commit.
    pub metadata: BTreeMap<String, String>,
    /// Replaces the health check of the service.
    pub health: Option<Health>,
    /// Whether the operator makes it main afterwards, regardless of the mains of other hosts.
    pub becomes_main: bool,
    pub dry_run: bool,
    pub actor: Actor,
}
