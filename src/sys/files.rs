//! `world::files` on this machine: written beside, then renamed into place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::world::files::{FileSystem, FilesError};

#[derive(Debug)]
pub struct LocalFiles;

impl FileSystem for LocalFiles {
    fn exists(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), FilesError> {
        write_atomically(path, |beside| fs::write(beside, text))
    }

    fn link(&self, path: &Path, target: &str) -> Result<(), FilesError> {
        write_atomically(path, |beside| std::os::unix::fs::symlink(target, beside))
    }

    fn remove(&self, path: &Path) -> Result<(), FilesError> {
        fs::remove_file(path).map_err(|error| to_files_error("remove", path, &error))
    }
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
