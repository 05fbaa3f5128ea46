//! The error for an action below the directory of releases that failed.

use std::io;
use std::path::Path;

use crate::world::releases::ReleaseError;

pub(super) fn to_release_error(what: &'static str, path: &Path, error: &io::Error) -> ReleaseError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ReleaseError::Full { path: path.to_owned() }
        }
        _ => ReleaseError::Failed { action: what, path: path.to_owned(), reason: error.to_string() },
    }
}
