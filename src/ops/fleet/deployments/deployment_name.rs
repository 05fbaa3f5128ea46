//! The words by which an operator names a deployment: NAME, NAME VERSION, or an id.

use crate::model::deployment::DeploymentId;
use crate::model::name::ServiceName;
use crate::model::version::Version;

/// A deployment, or all of a service, as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeploymentName {
    Id(DeploymentId),
    Service { service: ServiceName, version: Option<Version> },
}

impl DeploymentName {
    pub fn from_version(service: &ServiceName, version: &Version) -> Self {
        Self::Service { service: service.clone(), version: Some(version.clone()) }
    }
}

/// Reads a word as an id, which may be given wherever NAME VERSION may.
pub fn parse_id(word: &str) -> Option<DeploymentId> {
    word.parse().ok()
}
