//! `verify`: compares the files of releases on every host with those that were placed.

use std::collections::BTreeSet;

use serde::Serialize;

use super::each_host::for_each_host;
use super::error::FleetDeployError;
use super::list::{require_answers, serialize_errors};
use crate::model::deployment::Digest;
use crate::model::failure::ErrorCode;
use crate::model::host::Host;
use crate::model::name::{HostName, ServiceName};
use crate::model::release::ReleaseCheck;
use crate::model::version::Version;
use crate::world::FleetWorld;
use crate::world::link::{HostLink, LinkError};

/// A release on a host, compared with its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedRelease {
    pub host: HostName,
    pub service: ServiceName,
    /// Name of the release: a version, from the second build on followed by `~2`.
    pub release: String,
    /// SHA-256 of the archive that it was made of.
    pub digest: Digest,
    #[serde(flatten)]
    pub check: ReleaseCheck,
}

/// The releases of the hosts that answered, and the hosts that did not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    pub releases: Vec<VerifiedRelease>,
    #[serde(serialize_with = "serialize_errors")]
    pub unread: Vec<(HostName, LinkError)>,
}

impl Verification {
    /// Returns an error if files were changed, or if a host did not answer.
    pub fn require_unchanged(&self, hosts: usize) -> Result<(), FleetDeployError> {
        let altered = self.releases.iter().filter(|one| one.check.is_altered());
        let altered: Vec<(HostName, String)> =
            altered.map(|one| (one.host.clone(), format!("{}/{}", one.service, one.release))).collect();
        if altered.is_empty() {
            return require_answers(hosts - self.unread.len(), &self.unread);
        }
        Err(FleetDeployError::AlteredReleases { releases: altered, unread: self.unread.clone() })
    }
}

/// Reads every file of the releases of a service, or of all services that have versions on a host. `version`: the releases of this
/// version alone.
pub async fn verify(
    world: &FleetWorld,
    hosts: &[Host],
    service: Option<&ServiceName>,
    version: Option<&Version>,
) -> Verification {
    let read = async |host: &Host, link: &dyn HostLink| verify_host(link, &host.name, service, version).await;
    let mut verification = Verification::default();
    for (host, result) in for_each_host(world, hosts, read).await {
        match result {
            Ok(releases) => verification.releases.extend(releases),
            Err(error) => verification.unread.push((host, error)),
        }
    }
    verification
}

async fn verify_host(
    link: &dyn HostLink,
    host: &HostName,
    service: Option<&ServiceName>,
    version: Option<&Version>,
) -> Result<Vec<VerifiedRelease>, LinkError> {
    let services: BTreeSet<ServiceName> = if let Some(service) = service {
        [service.clone()].into()
    } else {
        let view = link.list_deployments().await?;
        view.deployments.into_iter().map(|one| one.deployment.service).collect()
    };
    let mut verified = Vec::new();
    for service in services {
        for placed in link.list_releases(&service).await? {
            let of = placed.name.split_once('~').map_or(placed.name.as_str(), |(version, _)| version);
            if version.is_some_and(|version| version.to_string() != of) {
                continue;
            }
            let check = match link.verify_release(&service, &placed.name).await {
                // It was removed since the host listed it.
                Err(LinkError::Refused { code: ErrorCode::NoRelease, .. }) => continue,
                check => check?,
            };
            let (host, service) = (host.clone(), service.clone());
            verified.push(VerifiedRelease {
                host,
                service,
                release: placed.name,
                digest: placed.digest,
                check,
            });
        }
    }
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::release::{FileChange, FileChangeKind};

    /// What was changed is the error also where a host was not read, which is named with it.
    #[test]
    fn changed_files_come_before_hosts_that_were_not_read() {
        let release = |host: &str, kind| VerifiedRelease {
            host: host.parse().unwrap(),
            service: "shop".parse().unwrap(),
            release: "2.0.0".to_owned(),
            digest: Digest("00".repeat(32)),
            check: ReleaseCheck::new(Some(vec![FileChange { path: "a".into(), kind }])),
        };
        let added = release("web1", FileChangeKind::Added);
        let unread =
            vec![("web3".parse().unwrap(), LinkError::Broken { via: "ssh".into(), reason: "cut".into() })];
        let good = Verification { releases: vec![added.clone()], unread: vec![] };
        assert!(good.require_unchanged(1).is_ok());
        let partly = Verification { releases: vec![added.clone()], unread: unread.clone() };
        let error = partly.require_unchanged(2).unwrap_err();
        assert!(matches!(error, FleetDeployError::PartlyRead { read: 1, .. }), "{error}");
        let releases = vec![added, release("web2", FileChangeKind::Missing)];
        let error = Verification { releases, unread }.require_unchanged(3).unwrap_err().to_string();
        assert!(error.contains("since they were placed; not every host was read: `web3`: "), "{error}");
    }
}
