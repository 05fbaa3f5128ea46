//! The releases of a host: what was unpacked, and the links that people look at.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::model::deployment::Digest;
use crate::model::name::ServiceName;
use crate::model::release::ReleaseCheck;

/// Why a release was not placed or taken away. What was there before is there still.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The archive's own fault.
    #[error("the archive is refused: {0}")]
    Refused(String),
    #[error("the release `{release}` exists already, made of another archive")]
    NameTaken { release: String },
    #[error("files of the release `{release}` were changed since it was placed: {changes}")]
    Altered { release: String, changes: String },
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    #[error("the disk that holds `{path}` is full")]
    Full { path: PathBuf },
    #[error("cannot {action} `{path}`: {reason}")]
    Failed { action: &'static str, path: PathBuf, reason: String },
}

/// A directory or a file that the user of a web server cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadablePath {
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// `ROOT/SERVICE/releases/NAME`, immutable once it has that name. All calls block: an archive is unpacked on a thread of its own.
pub trait ReleaseStore: Send + Sync {
    /// The release's directory, whether it exists yet or not.
    fn dir(&self, service: &ServiceName, release: &str) -> PathBuf;

    /// The directory for files that a program run from the release generates. It is made when something is written there,
    /// and removed with the release.
    fn run_dir(&self, service: &ServiceName, release: &str) -> PathBuf;

    /// Unpacks a `.tar.gz` whole or not at all, and gives back the digest of the archive. A release that is there with the
    /// same digest is left alone; one with another digest, or with files that were changed since, is an error of the caller.
    fn place(&self, service: &ServiceName, release: &str, archive: &Path) -> Result<Digest, ReleaseError>;

    /// A file for an archive on its way in, on the disk of the releases. It has no name: nothing is left of it when its last
    /// handle is closed, however this process ends.
    fn create_upload_file(&self) -> Result<File, ReleaseError>;

    /// The digest a release was placed with; `None` where there is no such release.
    fn digest(&self, service: &ServiceName, release: &str) -> Result<Option<Digest>, ReleaseError>;

    /// Compares the files of a release with those that were placed. It reads all of them.
    fn verify(&self, service: &ServiceName, release: &str) -> Result<ReleaseCheck, ReleaseError>;

    /// Finds what a web server of this user cannot read of a release; `None` for the user that the server chooses itself.
    fn find_unreadable(
        &self,
        service: &ServiceName,
        release: &str,
        user: Option<&str>,
    ) -> Option<UnreadablePath>;

    /// Names of all that are there, the one that was placed first first; half-placed ones not among them.
    fn list(&self, service: &ServiceName) -> Result<Vec<String>, ReleaseError>;

    /// Removes a release, also the remains of one that was not placed to its end. Idempotent.
    fn remove(&self, service: &ServiceName, release: &str) -> Result<(), ReleaseError>;

    /// Points `ROOT/SERVICE/LINK` (`main`, `backup`) at a release, by rename: a reader sees the old release or the new one.
    /// `None` takes the link away.
    fn link(&self, service: &ServiceName, link: &str, release: Option<&str>) -> Result<(), ReleaseError>;
}
