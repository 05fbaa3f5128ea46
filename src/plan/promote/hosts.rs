//! A host's versions: whether a promotion may begin there, and whether it is still as the promotion left it.

use crate::model::api::deployments::{DeploymentView, DeploymentsView};
use crate::model::deployment::{Access, DeploymentId, ProcessState, Role, Stage};
use crate::model::forward::ServiceRecord;
use crate::model::name::ServiceName;
use crate::model::promote::{PromotionSpec, PromotionTarget};
use crate::model::version::Version;

/// Why a promotion does not begin on a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    #[error("{service} {version} is not deployed")]
    NotDeployed { service: ServiceName, version: Version },
    #[error("{service} {version} is main already")]
    IsMain { service: ServiceName, version: Version },
    #[error("{0} has no main")]
    NoMain(ServiceName),
    #[error("{service} {version} is not running")]
    NotRunning { service: ServiceName, version: Version },
    #[error("{service} {version} is being deployed or killed")]
    InProgress { service: ServiceName, version: Version },
    #[error("{0} is private: it gets no requests")]
    Private(ServiceName),
    #[error("{service} has a canary already: {canary}")]
    HasCanary { service: ServiceName, canary: DeploymentId },
    #[error("{service} {version} is a shadow that gets copies, and cannot answer users as well")]
    IsShadow { service: ServiceName, version: Version },
    #[error("{service} {version} is not a shadow whose answers are compared")]
    NotCompared { service: ServiceName, version: Version },
    #[error("main is another deployment ({0})")]
    OtherMain(Version),
}

/// Who plays which part on a host where a promotion may begin.
pub fn find_target(view: &DeploymentsView, spec: &PromotionSpec) -> Result<PromotionTarget, PreflightError> {
    let (service, version) = (spec.service.clone(), spec.version.clone());
    let of_service = || view.deployments.iter().filter(|one| one.deployment.service == service);
    let Some(one) = of_service().find(|one| one.deployment.version == version) else {
        return Err(PreflightError::NotDeployed { service, version });
    };
    if one.role == Role::Main {
        return Err(PreflightError::IsMain { service, version });
    }
    let main = of_service().find(|one| one.role == Role::Main);
    let (Some(main), Some(record)) = (main, find_record(view, &service)) else {
        return Err(PreflightError::NoMain(service));
    };
    if !matches!(one.deployment.stage, Stage::Ready) {
        return Err(PreflightError::InProgress { service, version });
    }
    if !one.process.as_ref().is_ok_and(ProcessState::is_running) {
        return Err(PreflightError::NotRunning { service, version });
    }
    if record.access == Access::Private {
        return Err(PreflightError::Private(service));
    }
    let splits = &record.layer7.traffic_split;
    if let Some(canary) = &splits.canary {
        let canary = canary.deployment.clone();
        return Err(PreflightError::HasCanary { service, canary });
    }
    let mirror = splits.mirrors.iter().find(|mirror| mirror.deployment == one.deployment.id);
    match (mirror, spec.require_match) {
        (Some(_), None) => return Err(PreflightError::IsShadow { service, version }),
        (Some(mirror), Some(_)) if mirror.compare => {}
        (_, Some(_)) => return Err(PreflightError::NotCompared { service, version }),
        (None, None) => {}
    }
    Ok(PromotionTarget {
        deployment: one.deployment.id.clone(),
        main: main.deployment.id.clone(),
        main_version: main.deployment.version.clone(),
    })
}

/// The state of a host in the middle of a promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostState {
    /// The canary has its share.
    CanaryActive,
    /// The share is recorded, and the proxy is not in the data path: main answers everything. The host's agent lets it in again.
    ProxyBypassed,
    /// The version is main.
    Main,
    /// There is no canary.
    NoCanary,
    /// Another operator has changed the split: the promotion must not change it back.
    Overtaken(String),
}

pub fn state(view: &DeploymentsView, spec: &PromotionSpec, target: &PromotionTarget) -> HostState {
    let service = &spec.service;
    let is_main = |one: &&DeploymentView| one.role == Role::Main && one.deployment.service == *service;
    match view.deployments.iter().find(is_main) {
        Some(main) if main.deployment.id == target.deployment => return HostState::Main,
        Some(main) if main.deployment.id != target.main => {
            return HostState::Overtaken(format!("another command made {} main", main.deployment.version));
        }
        None => return HostState::Overtaken(format!("{service} has no main any more")),
        Some(_) => {}
    }
    let layer7 = find_record(view, service).map(|record| &record.layer7);
    match layer7.and_then(|layer7| layer7.traffic_split.canary.as_ref()) {
        Some(canary) if canary.deployment != target.deployment => {
            HostState::Overtaken("another command made another version the canary".to_owned())
        }
        None => HostState::NoCanary,
        Some(_) if layer7.is_some_and(|layer7| layer7.inserted().is_none()) => HostState::ProxyBypassed,
        Some(_) => HostState::CanaryActive,
    }
}

fn find_record<'a>(view: &'a DeploymentsView, service: &ServiceName) -> Option<&'a ServiceRecord> {
    view.services.iter().find(|record| record.forward.service == *service)
}
