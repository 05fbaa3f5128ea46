//! Deployments, releases, instances and translated connections in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::store::FakeStore;
use crate::model::deployment::{Deployment, DeploymentId, Digest, InstanceId, InstanceSpec, Process};
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::world::archives::{ArchiveError, Archives, Packed};
use crate::world::deployments::Deployments;
use crate::world::flows::{Flows, FlowsError};
use crate::world::link::Heard;
use crate::world::releases::{ReleaseError, Releases};
use crate::world::runner::{Ended, Runner, RunnerError};
use crate::world::store::{Exclusive, Store, StoreError};

#[derive(Default)]
pub struct FakeVersions {
    pub deployments: Mutex<BTreeMap<DeploymentId, Deployment>>,
    /// Service and name -> digest.
    pub releases: Mutex<BTreeMap<(ServiceName, String), Digest>>,
    /// Service and link -> release.
    pub links: Mutex<BTreeMap<(ServiceName, String), String>>,
    pub running: Mutex<BTreeMap<InstanceId, InstanceSpec>>,
    pub led: Mutex<BTreeMap<(Port, Port), BTreeSet<SocketAddr>>>,
    /// What answers at this port is not healthy.
    pub sick: Mutex<Option<Port>>,
    /// The next start fails like this.
    pub no_start: Mutex<Option<RunnerError>>,
    /// Links and the removal of releases fail.
    pub read_only: Mutex<bool>,
    pub fuse: crate::world::fake::fuse::Fuse,
    pub(super) lock: FakeStore,
}

fn killed() -> StoreError {
    StoreError::Failed { what: "write", path: "killed".into(), why: String::new() }
}

fn killed_disk() -> ReleaseError {
    ReleaseError::Failed { what: "write", path: "killed".into(), why: String::new() }
}

fn killed_runner(instance: &InstanceId) -> RunnerError {
    RunnerError::Failed { what: "run", instance: instance.clone(), why: "killed".to_owned() }
}

#[async_trait]
impl Deployments for FakeVersions {
    async fn lock_service(
        &self,
        _: &ServiceName,
        purpose: &str,
        patience: Duration,
    ) -> Result<Box<dyn Exclusive>, StoreError> {
        self.lock.lock(purpose, patience).await
    }

    fn all(&self) -> Result<Vec<Deployment>, StoreError> {
        Ok(self.deployments.lock().unwrap().values().cloned().collect())
    }

    fn put(&self, deployment: &Deployment) -> Result<(), StoreError> {
        if !self.fuse.burn() {
            return Err(killed());
        }
        self.deployments.lock().unwrap().insert(deployment.id.clone(), deployment.clone());
        Ok(())
    }

    fn remove(&self, id: &DeploymentId) -> Result<(), StoreError> {
        if !self.fuse.burn() {
            return Err(killed());
        }
        self.deployments.lock().unwrap().remove(id);
        Ok(())
    }
}

impl Releases for FakeVersions {
    fn dir(&self, service: &ServiceName, release: &str) -> PathBuf {
        PathBuf::from(format!("/srv/fake/{service}/releases/{release}"))
    }

    fn run_dir(&self, service: &ServiceName, release: &str) -> PathBuf {
        PathBuf::from(format!("/srv/fake/{service}/run/{release}"))
    }

    fn place(&self, service: &ServiceName, release: &str, archive: &Path) -> Result<Digest, ReleaseError> {
        let digest = Digest(archive.display().to_string());
        self.releases.lock().unwrap().insert((service.clone(), release.to_owned()), digest.clone());
        Ok(digest)
    }

    fn incoming(&self) -> Result<std::fs::File, ReleaseError> {
        Ok(tempfile::tempfile().unwrap())
    }

    fn digest(&self, service: &ServiceName, release: &str) -> Result<Option<Digest>, ReleaseError> {
        Ok(self.releases.lock().unwrap().get(&(service.clone(), release.to_owned())).cloned())
    }

    fn list(&self, service: &ServiceName) -> Result<Vec<String>, ReleaseError> {
        let releases = self.releases.lock().unwrap();
        Ok(releases.keys().filter(|(of, _)| of == service).map(|(_, name)| name.clone()).collect())
    }

    fn remove(&self, service: &ServiceName, release: &str) -> Result<(), ReleaseError> {
        if *self.read_only.lock().unwrap() || !self.fuse.burn() {
            return Err(killed_disk());
        }
        self.releases.lock().unwrap().remove(&(service.clone(), release.to_owned()));
        Ok(())
    }

    fn link(&self, service: &ServiceName, link: &str, release: Option<&str>) -> Result<(), ReleaseError> {
        if *self.read_only.lock().unwrap() || !self.fuse.burn() {
            return Err(killed_disk());
        }
        let (mut links, key) = (self.links.lock().unwrap(), (service.clone(), link.to_owned()));
        match release {
            Some(release) => links.insert(key, release.to_owned()),
            None => links.remove(&key),
        };
        Ok(())
    }
}

#[async_trait]
impl Runner for FakeVersions {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        if !self.fuse.burn() {
            return Err(killed_runner(&spec.id));
        }
        if let Some(error) = self.no_start.lock().unwrap().take() {
            return Err(error);
        }
        self.running.lock().unwrap().insert(spec.id.clone(), spec.clone());
        Ok(())
    }

    async fn stop(&self, instance: &InstanceId, _: Duration) -> Result<Ended, RunnerError> {
        if !self.fuse.burn() {
            return Err(killed_runner(instance));
        }
        let was = self.running.lock().unwrap().remove(instance);
        Ok(if was.is_some() { Ended::Gracefully } else { Ended::Already })
    }

    async fn state(&self, instance: &InstanceId) -> Result<Process, RunnerError> {
        Ok(if self.running.lock().unwrap().contains_key(instance) {
            Process::Running { pid: 1, since: jiff::Timestamp::UNIX_EPOCH, restarts: 0 }
        } else {
            Process::Stopped { since: None, last: String::new() }
        })
    }

    async fn known(&self) -> Result<Vec<InstanceId>, RunnerError> {
        Ok(self.running.lock().unwrap().keys().cloned().collect())
    }

    async fn logs(&self, _: &InstanceId, _: Option<u32>, _: bool, heard: Heard) -> Result<(), RunnerError> {
        heard.hear("a line").await;
        Ok(())
    }

    async fn forget(&self, _: &InstanceId) -> Result<(), RunnerError> {
        Ok(())
    }
}

#[async_trait]
impl Flows for FakeVersions {
    fn remembers(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn led(&self, port: Port, target: Port) -> Result<BTreeSet<SocketAddr>, FlowsError> {
        Ok(self.led.lock().unwrap().get(&(port, target)).cloned().unwrap_or_default())
    }
}

/// Every path is an archive, with its own text as its digest, but `missing`.
pub struct FakeArchives;

impl Archives for FakeArchives {
    fn pack(&self, source: &Path) -> Result<Packed, ArchiveError> {
        if source.ends_with("missing") {
            return Err(ArchiveError::Missing { path: source.to_owned() });
        }
        let digest = Digest(source.display().to_string());
        Ok(Packed { path: source.to_owned(), digest, bytes: 1, held: None })
    }
}
