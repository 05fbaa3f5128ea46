//! The control socket, held for as long as the process lives.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::{ProxyError, socket_error};

#[derive(Debug)]
pub struct ControlSocket {
    pub listener: UnixListener,
    path: PathBuf,
    _lock: File,
}

impl ControlSocket {
    /// Binds the socket for its user alone. A socket left by a dead proxy is replaced; anything else in its place is not.
    pub fn open(path: &Path) -> Result<Self, ProxyError> {
        let failed = |what| move |why| socket_error(what, path, why);
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
            TryLockError::Error(why) => socket_error("lock", path, why),
        })?;
        if std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
            return Err(socket_error("replace", path, io::Error::other("it is no socket")));
        }
        // Bound under another name and moved: at no moment may others connect.
        let fresh = append_suffix(path, "new");
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(failed("bind"))?;
        let placed = std::fs::set_permissions(&fresh, Permissions::from_mode(0o600));
        placed.and_then(|()| std::fs::rename(&fresh, path)).map_err(failed("place"))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }
}

impl Drop for ControlSocket {
    /// Before the lock is let go.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn append_suffix(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}
