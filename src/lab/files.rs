//! Files of a lab, with errors that name them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::error::LabError;

pub(super) fn make_dir(path: &Path) -> Result<(), LabError> {
    fs::create_dir_all(path).map_err(|source| LabError::Files { verb: "make", path: path.to_owned(), source })
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(|source| LabError::Files { verb: "write", path: path.to_owned(), source })
}

/// Writes a file for its owner alone.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), LabError> {
    write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|source| LabError::Files {
        verb: "write",
        path: path.to_owned(),
        source,
    })
}

pub(super) fn read_file(file: &Path) -> Result<String, LabError> {
    fs::read_to_string(file).map_err(|source| LabError::Files { verb: "read", path: file.to_owned(), source })
}
