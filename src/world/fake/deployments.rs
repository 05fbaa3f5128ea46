//! Deployments, releases, instances and translated connections in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::store::FakeStore;
use crate::model::deployment::{Deployment, DeploymentId, Digest, InstanceId, InstanceSpec, ProcessState};
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::release::{FileChange, ReleaseCheck};
use crate::world::archives::{ArchiveError, ArchivePacker, PackedArchive};
use crate::world::deployments::DeploymentStore;
use crate::world::flows::{ConnectionTracker, FlowsError, TrackError};
use crate::world::link::SharedLineSink;
use crate::world::releases::{ReleaseError, ReleaseStore, UnreadablePath};
use crate::world::runner::{Runner, RunnerError, StopResult};
use crate::world::store::{LockGuard, Store, StoreError, StoreResult};

#[derive(Default)]
pub struct FakeDeployments {
    /// Whether the whole machine shuts down.
    pub is_machine_stopping: Mutex<bool>,
    /// What was changed in a release since it was placed: name -> changes.
    pub changed_files: Mutex<BTreeMap<String, Vec<FileChange>>>,
    /// What the user of a web server cannot read of any release.
    pub unreadable: Mutex<Option<UnreadablePath>>,
    pub deployments: Mutex<BTreeMap<DeploymentId, Deployment>>,
    /// Service and name -> digest.
    pub releases: Mutex<BTreeMap<(ServiceName, String), Digest>>,
    /// Service and link -> release.
    pub links: Mutex<BTreeMap<(ServiceName, String), String>>,
    pub running: Mutex<BTreeMap<InstanceId, InstanceSpec>>,
    pub led: Mutex<BTreeMap<(Port, Port), BTreeSet<SocketAddr>>>,
    /// The ports whose open connections were tracked, in order.
    pub tracked: Mutex<Vec<Port>>,
    /// A port whose listener is not healthy.
    pub unhealthy_port: Mutex<Option<Port>>,
    /// How every program has ended.
    pub exit: Mutex<Option<String>>,
    /// The next start fails like this.
    pub start_error: Mutex<Option<RunnerError>>,
    /// Links and the removal of releases fail.
    pub is_read_only: Mutex<bool>,
    pub fuse: crate::world::fake::fuse::FailurePoint,
    pub(super) lock: FakeStore,
    /// The records of the same host, which a rename changes too.
    pub(super) store: std::sync::Arc<FakeStore>,
}

fn build_store_error() -> StoreError {
    StoreError::Failed { action: "write", path: "killed".into(), reason: String::new() }
}

fn build_release_error() -> ReleaseError {
    ReleaseError::Failed { action: "write", path: "killed".into(), reason: String::new() }
}

impl FakeDeployments {
    fn check_writable(&self) -> Result<(), ReleaseError> {
        if *self.is_read_only.lock().unwrap() {
            return Err(build_release_error());
        }
        self.fuse.proceed_or(build_release_error)
    }
}

fn build_runner_error(instance: &InstanceId) -> RunnerError {
    RunnerError::Failed { action: "run", instance: instance.clone(), reason: "killed".to_owned() }
}

#[async_trait]
impl DeploymentStore for FakeDeployments {
    async fn lock_service(
        &self,
        _: &ServiceName,
        purpose: &str,
        patience: Duration,
    ) -> StoreResult<Box<dyn LockGuard>> {
        self.lock.lock(purpose, patience).await
    }

    fn all(&self) -> StoreResult<Vec<Deployment>> {
        Ok(self.deployments.lock().unwrap().values().cloned().collect())
    }

    fn put(&self, deployment: &Deployment) -> StoreResult<()> {
        self.fuse.proceed_or(build_store_error)?;
        self.deployments.lock().unwrap().insert(deployment.id.clone(), deployment.clone());
        Ok(())
    }

    fn rename(&self, from: &DeploymentId, renamed: &Deployment) -> StoreResult<()> {
        self.fuse.proceed_or(build_store_error)?;
        let mut deployments = self.deployments.lock().unwrap();
        deployments.remove(from);
        deployments.insert(renamed.id.clone(), renamed.clone());
        for record in self.store.records.lock().unwrap().iter_mut() {
            if record.forward.service == renamed.service {
                *record = record.clone().rename_deployment(from, &renamed.id);
            }
        }
        Ok(())
    }

    fn remove(&self, id: &DeploymentId) -> StoreResult<()> {
        self.fuse.proceed_or(build_store_error)?;
        self.deployments.lock().unwrap().remove(id);
        Ok(())
    }
}

impl ReleaseStore for FakeDeployments {
    fn dir(&self, service: &ServiceName, release: &str) -> PathBuf {
        PathBuf::from(format!("/srv/fake/{service}/releases/{release}"))
    }

    fn run_dir(&self, service: &ServiceName, release: &str) -> PathBuf {
        PathBuf::from(format!("/srv/fake/{service}/run/{release}"))
    }

    fn find_unreadable(&self, _: &ServiceName, _: &str, _: Option<&str>) -> Option<UnreadablePath> {
        self.unreadable.lock().unwrap().clone()
    }

    fn place(&self, service: &ServiceName, release: &str, archive: &Path) -> Result<Digest, ReleaseError> {
        let digest = Digest(archive.display().to_string());
        self.releases.lock().unwrap().insert((service.clone(), release.to_owned()), digest.clone());
        Ok(digest)
    }

    fn create_upload_file(&self) -> Result<std::fs::File, ReleaseError> {
        Ok(tempfile::tempfile().unwrap())
    }

    fn digest(&self, service: &ServiceName, release: &str) -> Result<Option<Digest>, ReleaseError> {
        Ok(self.releases.lock().unwrap().get(&(service.clone(), release.to_owned())).cloned())
    }

    fn verify(&self, _: &ServiceName, release: &str) -> Result<ReleaseCheck, ReleaseError> {
        let changes = self.changed_files.lock().unwrap().get(release).cloned();
        Ok(ReleaseCheck::new(Some(changes.unwrap_or_default())))
    }

    fn list(&self, service: &ServiceName) -> Result<Vec<String>, ReleaseError> {
        let releases = self.releases.lock().unwrap();
        Ok(releases.keys().filter(|(of, _)| of == service).map(|(_, name)| name.clone()).collect())
    }

    fn remove(&self, service: &ServiceName, release: &str) -> Result<(), ReleaseError> {
        self.check_writable()?;
        self.releases.lock().unwrap().remove(&(service.clone(), release.to_owned()));
        Ok(())
    }

    fn link(&self, service: &ServiceName, link: &str, release: Option<&str>) -> Result<(), ReleaseError> {
        self.check_writable()?;
        let (mut links, key) = (self.links.lock().unwrap(), (service.clone(), link.to_owned()));
        match release {
            Some(release) => links.insert(key, release.to_owned()),
            None => links.remove(&key),
        };
        Ok(())
    }
}

#[async_trait]
impl Runner for FakeDeployments {
    async fn is_machine_stopping(&self) -> bool {
        *self.is_machine_stopping.lock().unwrap()
    }

    fn name(&self) -> &'static str {
        "fake"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<(), RunnerError> {
        self.fuse.proceed_or(|| build_runner_error(&spec.id))?;
        if let Some(error) = self.start_error.lock().unwrap().take() {
            return Err(error);
        }
        self.running.lock().unwrap().insert(spec.id.clone(), spec.clone());
        Ok(())
    }

    async fn stop(&self, instance: &InstanceId, _: Duration) -> Result<StopResult, RunnerError> {
        self.fuse.proceed_or(|| build_runner_error(instance))?;
        let was = self.running.lock().unwrap().remove(instance);
        Ok(if was.is_some() { StopResult::Exited } else { StopResult::NotRunning })
    }

    async fn state(&self, instance: &InstanceId) -> Result<ProcessState, RunnerError> {
        if let Some(exit) = self.exit.lock().unwrap().clone() {
            return Ok(ProcessState::Stopped { since: None, last_exit: exit });
        }
        Ok(if self.running.lock().unwrap().contains_key(instance) {
            ProcessState::Running { pid: 1, since: jiff::Timestamp::UNIX_EPOCH, restarts: 0 }
        } else {
            ProcessState::Stopped { since: None, last_exit: String::new() }
        })
    }

    async fn list_instances(&self) -> Result<Vec<InstanceId>, RunnerError> {
        Ok(self.running.lock().unwrap().keys().cloned().collect())
    }

    async fn stream_logs(
        &self,
        _: &InstanceId,
        _: Option<u32>,
        _: bool,
        heard: SharedLineSink,
    ) -> Result<(), RunnerError> {
        heard.write_line("a line").await;
        Ok(())
    }

    async fn delete_records(&self, _: &InstanceId) -> Result<(), RunnerError> {
        Ok(())
    }
}

#[async_trait]
impl ConnectionTracker for FakeDeployments {
    fn conntrack_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn list_peers(&self, port: Port, target: Port) -> Result<BTreeSet<SocketAddr>, FlowsError> {
        Ok(self.led.lock().unwrap().get(&(port, target)).cloned().unwrap_or_default())
    }

    async fn track_open(&self, port: Port) -> Result<usize, TrackError> {
        self.tracked.lock().unwrap().push(port);
        Ok(0)
    }
}

/// Every path is an archive, with its own text as its digest, but `missing`.
pub struct FakeArchives;

impl ArchivePacker for FakeArchives {
    fn pack(&self, source: &Path) -> Result<PackedArchive, ArchiveError> {
        if source.ends_with("missing") {
            return Err(ArchiveError::Missing { path: source.to_owned() });
        }
        let digest = Digest(source.display().to_string());
        Ok(PackedArchive { path: source.to_owned(), digest, bytes: 1, held: None })
    }
}
