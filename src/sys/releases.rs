//! `world::releases` below one directory.

use std::path::{Path, PathBuf};

use crate::model::deployment::Digest;
use crate::model::name::ServiceName;
use crate::world::releases::{ReleaseError, Releases};

/// `/srv/switchman`, or another root.
#[derive(Debug)]
pub struct DirReleases {
    root: PathBuf,
}

impl DirReleases {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl Releases for DirReleases {
    fn dir(&self, service: &ServiceName, release: &str) -> PathBuf {
        self.root.join(service.as_str()).join("releases").join(release)
    }

    fn run_dir(&self, service: &ServiceName, release: &str) -> PathBuf {
        self.root.join(service.as_str()).join("run").join(release)
    }

    fn place(&self, _: &ServiceName, _: &str, _: &Path) -> Result<Digest, ReleaseError> {
        Err(ReleaseError::Refused("not built yet".to_owned()))
    }

    fn digest(&self, _: &ServiceName, _: &str) -> Result<Option<Digest>, ReleaseError> {
        Ok(None)
    }

    fn list(&self, _: &ServiceName) -> Result<Vec<String>, ReleaseError> {
        Ok(vec![])
    }

    fn remove(&self, _: &ServiceName, _: &str) -> Result<(), ReleaseError> {
        Ok(())
    }

    fn link(&self, _: &ServiceName, _: &str, _: Option<&str>) -> Result<(), ReleaseError> {
        Ok(())
    }
}
