//! The control socket, which the process holds for as long as it runs.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::error::ProxyError;

#[derive(Debug)]
pub struct ControlSocket {
    pub listener: UnixListener,
    path: PathBuf,
    _lock: File,
}

impl ControlSocket {
    /// Binds the socket for its user alone. A socket left by a dead proxy is replaced; anything else in its place is not.
    pub fn open(path: &Path) -> Result<Self, ProxyError> {
        let failed = |action| move |reason| build_socket_error(action, path, reason);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(append_suffix(path, "lock"))
            .map_err(failed("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ProxyError::SocketInUse { path: path.to_owned() },
            TryLockError::Error(reason) => build_socket_error("lock", path, reason),
        })?;
        if std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
            return Err(build_socket_error("replace", path, io::Error::other("it is no socket")));
        }
        // Bound under another name and moved: others can connect at no moment before.
        let fresh = append_suffix(path, "new");
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(failed("bind"))?;
        let placed = std::fs::set_permissions(&fresh, Permissions::from_mode(0o600));
        placed.and_then(|()| std::fs::rename(&fresh, path)).map_err(failed("place"))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }
}

impl Drop for ControlSocket {
    /// Runs before the lock is released.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn build_socket_error(action: &'static str, path: &Path, reason: io::Error) -> ProxyError {
    ProxyError::Socket { action, path: path.to_owned(), reason }
}

fn append_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
