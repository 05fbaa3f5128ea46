//! `world::files` on this machine: written beside, then renamed into place.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::world::files::{FileSystem, FilesError};

#[derive(Debug)]
pub struct LocalFiles;

impl FileSystem for LocalFiles {
    fn exists(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), FilesError> {
        write_atomically(path, |beside| {
            fs::write(beside, text)?;
            match fs::metadata(path) {
                Ok(replaced) => copy_owner_and_mode(&replaced, beside),
                Err(_) => Ok(()),
            }
        })
    }

    fn link(&self, path: &Path, target: &str) -> Result<(), FilesError> {
        write_atomically(path, |beside| std::os::unix::fs::symlink(target, beside))
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        fs::remove_file(path).map_err(|error| to_files_error("remove", path, &error))
    }
}

/// A file that replaces another belongs to the same user, and the same users may read it.
fn copy_owner_and_mode(of: &fs::Metadata, to: &Path) -> io::Result<()> {
    // A user who is not the owner and may write into the directory becomes the owner.
    let _ = std::os::unix::fs::chown(to, Some(of.uid()), Some(of.gid()));
    fs::set_permissions(to, of.permissions())
}

fn write_atomically(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), FilesError> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).map_err(|error| to_files_error("make the directory", above, &error))?;
    }
    let beside = build_temp_path(path);
    // Left behind by a run that was killed; one fixed name, so that they do not pile up.
    let _ = fs::remove_file(&beside);
    let placed = make(&beside).and_then(|()| fs::rename(&beside, path));
    placed.map_err(|error| {
        let _ = fs::remove_file(&beside);
        to_files_error("write", path, &error)
    })
}

fn build_temp_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.switchman-new"))
}

fn to_files_error(what: &'static str, path: &Path, reason: &io::Error) -> FilesError {
    FilesError { action: what, path: path.to_owned(), reason: reason.to_string() }
}
