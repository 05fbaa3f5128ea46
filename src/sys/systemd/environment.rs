//! The files with the environments of instances, which systemd reads at each start: for root alone, in a directory for root alone.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::model::deployment::InstanceId;

#[derive(Debug)]
pub struct EnvironmentFiles {
    dir: PathBuf,
}

impl EnvironmentFiles {
    /// `state_dir` is switchman's own.
    pub fn new(state_dir: &Path) -> Self {
        let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        Self { dir: state_dir.join("environment") }
    }

    pub fn path(&self, instance: &InstanceId) -> PathBuf {
        self.dir.join(instance.to_string())
    }

    /// Returns the file's text, or `None` if there is no file.
    pub fn read(&self, instance: &InstanceId) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path(instance)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file as a whole, or removes it where there is no text.
    pub fn write(&self, instance: &InstanceId, text: Option<&str>) -> io::Result<()> {
        let Some(text) = text else { return self.remove(instance) };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        fs::set_permissions(&self.dir, Permissions::from_mode(0o700))?;
        let beside = self.dir.join(format!(".{instance}.new"));
        // Left by a process that was killed, perhaps with another mode.
        ignore_not_found(fs::remove_file(&beside))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        fs::rename(beside, self.path(instance))
    }

    pub fn remove(&self, instance: &InstanceId) -> io::Result<()> {
        ignore_not_found(fs::remove_file(self.path(instance)))
    }
}

fn ignore_not_found(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
