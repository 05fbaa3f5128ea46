//! Writing new files.

use std::path::{Path, PathBuf};

/// A file that could not be written or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} `{path}`: {reason}")]
pub struct FilesError {
    pub action: &'static str,
    pub path: PathBuf,
    pub reason: String,
}

pub trait FileSystem: Send + Sync {
    fn exists(&self, path: &Path) -> bool;

    /// Writes a text as a whole or not at all, making the directories above it; replaces what is there.
    fn write(&self, path: &Path, text: &str) -> Result<(), FilesError>;

    /// Makes a symbolic link, likewise.
    fn link(&self, path: &Path, target: &str) -> Result<(), FilesError>;

    fn remove(&self, path: &Path) -> Result<(), FilesError>;
}
