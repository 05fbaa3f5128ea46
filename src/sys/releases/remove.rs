//! Removes a directory that programs could write into, also a deep one, and one that they change at the same time.
//!
//! `std::fs::remove_dir_all` holds a file descriptor for each level. Here each directory is moved to the top before it is emptied, so
//! that two descriptors are enough. Everything is done by descriptors and follows no link.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Removes what is at the path: a directory with all that is below it, or a file.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    match unlinkat(CWD, &name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        removed => return Ok(removed?),
    }
    let top = open_dir(CWD, &name)?;
    let mut moved = 0_u64;
    let mut pending = empty_dir(top.as_fd(), None, &mut moved)?;
    while let Some(below) = pending.pop() {
        match open_dir(top.as_fd(), &below) {
            Ok(dir) => pending.extend(empty_dir(dir.as_fd(), Some(top.as_fd()), &mut moved)?),
            // A program has put a file or a link in its place.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                ignore_not_found(unlinkat(&top, &below, AtFlags::empty()))?;
                continue;
            }
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        }
        ignore_not_found(unlinkat(&top, &below, AtFlags::REMOVEDIR))?;
    }
    Ok(unlinkat(CWD, &name, AtFlags::REMOVEDIR)?)
}

fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// Removes the files of a directory, and moves its directories to the top. Returns the names of these there.
fn empty_dir(dir: BorrowedFd<'_>, top: Option<BorrowedFd<'_>>, moved: &mut u64) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    let mut dirs = Vec::new();
    for name in names {
        match unlinkat(dir, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => match top {
                Some(top) => dirs.extend(move_to_top(dir, &name, top, moved)?),
                None => dirs.push(name),
            },
            removed => ignore_not_found(removed)?,
        }
    }
    Ok(dirs)
}

/// Moves a directory to the top under a name that is free there.
fn move_to_top(
    dir: BorrowedFd<'_>,
    name: &CStr,
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> io::Result<Option<CString>> {
    loop {
        *moved += 1;
        let free = CString::new(format!(".removing-{moved}"))?;
        match renameat(dir, name, top, &free) {
            Ok(()) => return Ok(Some(free)),
            Err(Errno::NOENT) => return Ok(None),
            // A program has used the name.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn ignore_not_found(removed: Result<(), Errno>) -> io::Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    /// Directories in each other, more than a process may have files open, and more than a path may be long.
    #[test]
    fn deep_directories_are_removed() {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let top = home.path().join("top");
        fs::create_dir(&top).unwrap();
        fs::write(top.join(".removing-1"), "a name that is used").unwrap();
        fs::create_dir_all(top.join(".removing-2/full")).unwrap();
        let mut dir = open_dir(CWD, &CString::new(top.as_os_str().as_bytes()).unwrap()).unwrap();
        for _ in 0..70_000 {
            mkdirat(&dir, c"d", Mode::RWXU).unwrap();
            dir = open_dir(dir.as_fd(), c"d").unwrap();
        }
        drop(dir);
        remove_all(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (top, outside) = (home.path().join("top"), home.path().join("outside"));
        for dir in [top.join("a/b/c"), outside.clone()] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, top.join("a/b/link")).unwrap();
        fs::write(top.join("a/b/c/file"), "").unwrap();
        remove_all(&top).unwrap();
        assert!(!top.exists() && outside.join("kept").exists());
        symlink(&outside, &top).unwrap();
        remove_all(&top).unwrap();
        assert!(!top.is_symlink() && outside.join("kept").exists());
        assert_eq!(remove_all(&top).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
