//! Whether the user of a web server can read a release that it serves.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use crate::world::releases::UnreadablePath;

/// The user that nginx and Apache run as on Debian where root starts them.
const DEFAULT_USER: &str = "www-data";
const READ: u32 = 0o4;
const SEARCH: u32 = 0o1;

/// Finds the first directory or file that the user cannot read, directories above the release first. A process of another user
/// than root starts its web server as itself, which has unpacked the release.
pub(super) fn find_unreadable(dir: &Path, user: Option<&str>) -> Option<UnreadablePath> {
    if !geteuid().is_root() {
        return None;
    }
    // A directory above the target of a link may be closed.
    let real_dir = fs::canonicalize(dir).ok()?;
    let dir = real_dir.as_path();
    let name = user.filter(|name| *name != "root").unwrap_or(DEFAULT_USER);
    let uid = User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    let mut above: Vec<&Path> = dir.ancestors().collect();
    above.reverse();
    let closed = above.into_iter().find_map(|path| check_path(path, &fs::metadata(path).ok()?, uid));
    closed.or_else(|| check_members(dir, uid))
}

/// Leaves out what a static vhost does not serve: names that begin with a dot, but `.well-known`.
fn check_members(dir: &Path, uid: Option<u32>) -> Option<UnreadablePath> {
    let is_served = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        !name.starts_with(b".") || name == b".well-known"
    };
    let paths = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths.filter(is_served).collect();
    paths.sort();
    paths.iter().find_map(|path| {
        let metadata = fs::symlink_metadata(path).ok()?;
        if metadata.is_symlink() {
            return None;
        }
        let closed = check_path(path, &metadata, uid);
        closed.or_else(|| metadata.is_dir().then(|| check_members(path, uid)).flatten())
    })
}

/// The groups of the user are not known: a group other than root's may be one of them.
fn check_path(path: &Path, metadata: &Metadata, uid: Option<u32>) -> Option<UnreadablePath> {
    let bit = if metadata.is_dir() { SEARCH } else { READ };
    let mode = metadata.mode() & 0o7777;
    let is_allowed = mode & bit != 0
        || (metadata.gid() != 0 && mode & (bit << 3) != 0)
        || (uid == Some(metadata.uid()) && mode & (bit << 6) != 0);
    (!is_allowed).then(|| UnreadablePath { path: path.to_owned(), mode })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::testing::missing;

    #[test]
    fn path_that_the_user_cannot_read_is_found() {
        if !geteuid().is_root() {
            return missing("another user than root cannot read as another one");
        }
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("releases/1.0.0");
        fs::create_dir_all(dir.join("css")).unwrap();
        let (page, style) = (dir.join("index.html"), dir.join("css/site.css"));
        fs::write(&page, "page").unwrap();
        fs::write(&style, "style").unwrap();
        fs::write(dir.join(".env"), "secret").unwrap();
        let set_mode =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let find = |user| find_unreadable(&dir, user).map(|found| (found.path, found.mode));
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        set_mode(&dir.join(".env"), 0o600);
        set_mode(root.path(), 0o700);
        assert_eq!(find(None), Some((root.path().to_owned(), 0o700)));
        set_mode(root.path(), 0o755);
        assert_eq!(find(None), None);
        assert_eq!(find(Some("nobody")), None);
        set_mode(&root.path().join("releases"), 0o750);
        let through_link = find_unreadable(&link, None).map(|found| found.path);
        assert_eq!(through_link, Some(root.path().join("releases")));
        set_mode(&root.path().join("releases"), 0o755);
        set_mode(&style, 0o600);
        assert_eq!(find(None), Some((style.clone(), 0o600)));
        set_mode(&style, 0o644);
        set_mode(&dir.join("css"), 0o744);
        assert_eq!(find(Some("nobody")), Some((dir.join("css"), 0o744)));
    }
}
