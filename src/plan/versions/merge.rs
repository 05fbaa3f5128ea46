//! One version, one deployment: whether two hosts have the same release, and the merge of one id into another.

use std::fmt;

use super::DeployRefusal;
use crate::model::deployment::{Deployment, DeploymentId, Digest, RunSpec, Stage, Workload};
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::redaction::redact_env;

/// What makes a release another one under the same version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseDifference {
    Digest {
        there: Option<Digest>,
        given: Option<Digest>,
    },
    /// An option of its instances.
    RunSpec(&'static str),
    /// The paths of the health checks.
    HealthCheck(Box<HealthPaths>),
}

/// The paths of the health check that a deployment has and of a given one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPaths {
    pub there: String,
    pub given: String,
}

impl fmt::Display for ReleaseDifference {
    /// Completes a sentence about a host: `web1` ...
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |digest: &Option<Digest>| {
            digest
                .as_ref()
                .map_or_else(|| "no release".to_owned(), |digest| format!("release {}", digest.shorten()))
        };
        match self {
            Self::Digest { there, given } => write!(f, "has {}, not {}", name(there), name(given)),
            Self::RunSpec(option) => write!(f, "runs it with another {option}"),
            Self::HealthCheck(paths) => {
                let HealthPaths { there, given } = &**paths;
                write!(f, "checks its health at `{there}`, not at `{given}`")
            }
        }
    }
}

/// Finds the difference between two health checks of one deployment.
pub fn find_health_difference(there: &Health, given: &Health) -> Option<ReleaseDifference> {
    let (there, given) = (there.path.clone(), given.path.clone());
    (there != given).then_some(ReleaseDifference::HealthCheck(Box::new(HealthPaths { there, given })))
}

/// Finds the first difference between a release that is there and a given one. The address of a program that runs already
/// names its host, so that it differs from host to host.
pub fn find_release_difference(
    service: &ServiceName,
    (there, digest_there): (&RunSpec, Option<&Digest>),
    (given, digest): (&RunSpec, Option<&Digest>),
) -> Option<ReleaseDifference> {
    if digest_there != digest {
        return Some(ReleaseDifference::Digest { there: digest_there.cloned(), given: digest.cloned() });
    }
    let is_same_workload = match (&there.workload, &given.workload) {
        (Workload::External { .. }, Workload::External { .. }) => true,
        (there, given) => there == given,
    };
    let options = [
        (is_same_workload, "command"),
        (redact_env(&there.env) == redact_env(&given.env), "environment"),
        (given.accepts_user_of(there, service), "user or permission"),
        (there.resources == given.resources, "limit"),
        (there.grace == given.grace, "grace"),
    ];
    options.into_iter().find(|(is_same, _)| !is_same).map(|(_, option)| ReleaseDifference::RunSpec(option))
}

/// Returns the deployment under the id and the revision that its version has on other hosts. Its instances keep their names.
pub fn plan_merge(
    existing: &[Deployment],
    deployment: &Deployment,
    into: &DeploymentId,
    revision: u32,
) -> Result<Deployment, DeployRefusal> {
    if let Some(other) = existing.iter().find(|one| one.id == *into && one.id != deployment.id) {
        let (service, version) = (other.service.clone(), other.version.to_string());
        return Err(DeployRefusal::IdTaken { id: into.clone(), service, version });
    }
    if deployment.stage != Stage::Ready || deployment.other_instance.is_some() {
        let (service, version) = (deployment.service.clone(), deployment.version.to_string());
        return Err(DeployRefusal::InProgress { service, version });
    }
    let started_as = deployment.started_as.clone().unwrap_or_else(|| deployment.id.clone());
    Ok(Deployment {
        id: into.clone(),
        started_as: Some(started_as).filter(|id| id != into),
        revision,
        ..deployment.clone()
    })
}
