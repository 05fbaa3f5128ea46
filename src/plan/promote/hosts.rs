//! A host's versions: whether a roll-out may begin there, and whether it is still as the roll-out left it.

use crate::model::api::deployments::{DeploymentView, VersionsView};
use crate::model::deployment::{Access, DeploymentId, Process, Role, Stage};
use crate::model::forward::Recorded;
use crate::model::name::ServiceName;
use crate::model::promote::{RolloutSpec, Target};
use crate::model::version::Version;

/// Why a roll-out does not begin on a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error("{service} {version} is not there: deploy it first")]
    NotThere { service: ServiceName, version: Version },
    #[error("{service} {version} is main already")]
    IsMain { service: ServiceName, version: Version },
    #[error("{0} has no main")]
    NoMain(ServiceName),
    #[error("{service} {version} is not running")]
    NotRunning { service: ServiceName, version: Version },
    #[error("{service} {version} is being deployed or killed")]
    InProgress { service: ServiceName, version: Version },
    #[error("{0} is private: nothing reaches it")]
    Private(ServiceName),
    #[error("{service} has a canary already: {canary}")]
    HasCanary { service: ServiceName, canary: DeploymentId },
    #[error("{service} {version} is a shadow that gets copies, and cannot answer users as well")]
    IsShadow { service: ServiceName, version: Version },
    #[error("{service} {version} is no shadow whose answers are compared, so that nothing can match")]
    NotCompared { service: ServiceName, version: Version },
    #[error("main is another deployment there ({0})")]
    OtherMain(Version),
}

/// Who plays which part on a host where a roll-out may begin.
pub fn ready(view: &VersionsView, spec: &RolloutSpec) -> Result<Target, NotReady> {
    let (service, version) = (spec.service.clone(), spec.version.clone());
    let of_service = || view.deployments.iter().filter(|one| one.deployment.service == service);
    let Some(one) = of_service().find(|one| one.deployment.version == version) else {
        return Err(NotReady::NotThere { service, version });
    };
    if one.role == Role::Main {
        return Err(NotReady::IsMain { service, version });
    }
    let main = of_service().find(|one| one.role == Role::Main);
    let (Some(main), Some(record)) = (main, record(view, &service)) else {
        return Err(NotReady::NoMain(service));
    };
    if !matches!(one.deployment.stage, Stage::Ready) {
        return Err(NotReady::InProgress { service, version });
    }
    if !one.process.as_ref().is_ok_and(Process::is_running) {
        return Err(NotReady::NotRunning { service, version });
    }
    if record.access == Access::Private {
        return Err(NotReady::Private(service));
    }
    let splits = &record.layer7.splits;
    if let Some(canary) = &splits.canary {
        let canary = canary.deployment.clone();
        return Err(NotReady::HasCanary { service, canary });
    }
    let mirror = splits.mirrors.iter().find(|mirror| mirror.deployment == one.deployment.id);
    match (mirror, spec.require_match) {
        (Some(_), None) => return Err(NotReady::IsShadow { service, version }),
        (Some(mirror), Some(_)) if mirror.compare => {}
        (_, Some(_)) => return Err(NotReady::NotCompared { service, version }),
        (None, None) => {}
    }
    Ok(Target {
        deployment: one.deployment.id.clone(),
        main: main.deployment.id.clone(),
        main_version: main.deployment.version.clone(),
    })
}

/// How a host stands in the middle of a roll-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The canary has its share.
    Shares,
    /// The share is recorded, and the proxy is not in the data path: main answers everything. The host's agent lets it in again.
    ProxyOut,
    /// The version is main.
    Main,
    /// There is no canary.
    Away,
    /// Somebody else has changed it: the roll-out is not to change it back.
    Overtaken(String),
}

pub fn state(view: &VersionsView, spec: &RolloutSpec, target: &Target) -> State {
    let service = &spec.service;
    let is_main = |one: &&DeploymentView| one.role == Role::Main && one.deployment.service == *service;
    match view.deployments.iter().find(is_main) {
        Some(main) if main.deployment.id == target.deployment => return State::Main,
        Some(main) if main.deployment.id != target.main => {
            return State::Overtaken(format!("another command made {} main", main.deployment.version));
        }
        None => return State::Overtaken(format!("{service} has no main any more")),
        Some(_) => {}
    }
    let layer7 = record(view, service).map(|record| &record.layer7);
    match layer7.and_then(|layer7| layer7.splits.canary.as_ref()) {
        Some(canary) if canary.deployment != target.deployment => {
            State::Overtaken("another command made another version the canary".to_owned())
        }
        None => State::Away,
        Some(_) if layer7.is_some_and(|layer7| layer7.inserted().is_none()) => State::ProxyOut,
        Some(_) => State::Shares,
    }
}

fn record<'a>(view: &'a VersionsView, service: &ServiceName) -> Option<&'a Recorded> {
    view.services.iter().find(|record| record.forward.service == *service)
}
