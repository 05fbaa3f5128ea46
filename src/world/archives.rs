//! Makes the one file that goes to the hosts out of a path that the operator names.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::deployment::Digest;

/// Why there is nothing to send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    #[error("Could not find anything on the path {}", .path.display())]
    Missing { path: PathBuf },
    /// Neither a directory nor a `.tar.gz` by its first bytes.
    #[error("Source must be a .tar.gz file or a directory when deploying with --tar.")]
    UnsupportedFormat { path: PathBuf },
    /// The hosts would refuse it.
    #[error("`{}` {reason}", .path.display().to_string().escape_debug())]
    Refused { path: PathBuf, reason: &'static str },
    #[error("the disk that holds `{path}` is full")]
    Full { path: PathBuf },
    #[error("cannot {action} `{path}`: {reason}")]
    Failed { action: &'static str, path: PathBuf, reason: String },
}

/// A `.tar.gz` that is ready to be sent.
#[derive(Debug, Clone)]
pub struct PackedArchive {
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    pub bytes: u64,
    /// A temporary file made for this archive is deleted when the last clone of the archive is dropped.
    pub held: Option<Arc<dyn Any + Send + Sync>>,
}

pub trait ArchivePacker: Send + Sync {
    /// Packs a directory, takes a `.tar.gz` as it is. The same contents, names and x bits make the same bytes. Blocks: call it
    /// on a thread of its own.
    fn pack(&self, source: &Path) -> Result<PackedArchive, ArchiveError>;
}
