//! `world::releases` below one directory. What is there of a service:
//!
//! ```text
//! ROOT/SERVICE/main -> releases/1.0.0    links that people look at
//! ROOT/SERVICE/home/                     the home of the service's account
//! ROOT/SERVICE/releases/1.0.0/           a release, as its archive has it; never changed again
//! ROOT/SERVICE/releases/.1.0.0.digest    SHA-256 of that archive
//! ROOT/SERVICE/releases/.1.0.0.mtree     its manifest: mode, size and SHA-256 of every file
//! ROOT/SERVICE/releases/.1.0.0.owner     the user that parts of it belong to, if they do
//! ROOT/SERVICE/releases/.lock            held while something below is placed or taken away
//! ROOT/SERVICE/releases/.placing-1.0.0/  being unpacked, or left by one that was killed; renamed when it is on the disk
//! ROOT/SERVICE/releases/.removing-1.0.0/ being deleted, or left by one that was killed
//! ```
//!
//! Files are the user's that switchman runs as, until an instance starts from the release: then what other users cannot read
//! belongs to the user of the instance. Modes are those of the source, without what lets other users write; all other attributes
//! in an archive are ignored.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use crate::model::account::{Account, ReleaseShare};
use crate::model::deployment::Digest;
use crate::model::name::ServiceName;
use crate::model::release::{ReleaseCheck, check_release_name};
use crate::world::releases::{ReleaseError, ReleaseStore, UnreadablePath};

mod error;
mod manifest;
mod members;
pub(super) mod modes;
pub(super) mod paths;
mod readable;
mod remove;
mod share;
mod unpack;

use error::to_release_error;
pub(super) use members::compute_digest;
pub use unpack::ReleaseLimits;

const PLACING_PREFIX: &str = ".placing-";
const REMOVING_PREFIX: &str = ".removing-";

/// `/srv/switchman`, or another root.
#[derive(Debug)]
pub struct DirReleases {
    root: PathBuf,
    limits: ReleaseLimits,
}

/// The paths of a release on the disk.
struct ReleasePaths {
    /// `ROOT/SERVICE/releases`
    releases_dir: PathBuf,
    dir: PathBuf,
    digest: PathBuf,
    manifest: PathBuf,
    owner: PathBuf,
    placing: PathBuf,
    removing: PathBuf,
}

impl DirReleases {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::with_limits(root, ReleaseLimits::default())
    }

    pub fn with_limits(root: impl Into<PathBuf>, limits: ReleaseLimits) -> Self {
        let root = root.into();
        // Instances start there, wherever switchman itself was started.
        Self { root: std::path::absolute(&root).unwrap_or(root), limits }
    }

    fn releases_dir(&self, service: &ServiceName) -> PathBuf {
        self.root.join(service.as_str()).join("releases")
    }

    fn build_paths(&self, service: &ServiceName, release: &str) -> Result<ReleasePaths, ReleaseError> {
        check_release_name(release).map_err(|error| ReleaseError::Refused(error.to_string()))?;
        let all = self.releases_dir(service);
        Ok(ReleasePaths {
            dir: all.join(release),
            digest: all.join(format!(".{release}.digest")),
            manifest: all.join(format!(".{release}.mtree")),
            owner: all.join(format!(".{release}.owner")),
            placing: all.join(format!("{PLACING_PREFIX}{release}")),
            removing: all.join(format!("{REMOVING_PREFIX}{release}")),
            releases_dir: all,
        })
    }
}

impl ReleaseStore for DirReleases {
    fn dir(&self, service: &ServiceName, release: &str) -> PathBuf {
        self.releases_dir(service).join(release)
    }

    fn run_dir(&self, service: &ServiceName, release: &str) -> PathBuf {
        self.root.join(service.as_str()).join("run").join(release)
    }

    fn find_unreadable(
        &self,
        service: &ServiceName,
        release: &str,
        user: Option<&str>,
    ) -> Option<UnreadablePath> {
        readable::find_unreadable(&self.dir(service, release), user)
    }

    fn place(&self, service: &ServiceName, release: &str, archive: &Path) -> Result<Digest, ReleaseError> {
        let place = self.build_paths(service, release)?;
        make_dirs(&place.releases_dir)?;
        let _ours = acquire_lock(&place.releases_dir)?;
        sweep(&place.releases_dir)?;
        if place.dir.symlink_metadata().is_ok() {
            return check_same_archive(&place, release, archive);
        }
        let filled = make_dir(&place.placing).and_then(|()| {
            // Of a release that was removed by a process that was killed.
            ignore_not_found(fs::remove_file(&place.owner), "remove", &place.owner)?;
            let digest = unpack::unpack(archive, &place.placing, self.limits)?;
            manifest::write(&place.placing, &place.manifest)?;
            // Beside no release of that name it means nothing: the rename below is the moment that counts.
            fs::write(&place.digest, &digest.0)
                .map_err(|error| to_release_error("write", &place.digest, &error))?;
            unpack::sync_filesystem(&place.placing)?;
            Ok(digest)
        });
        let placed = filled.and_then(|digest| {
            let renamed = fs::rename(&place.placing, &place.dir);
            renamed.map_err(|error| to_release_error("place", &place.dir, &error))?;
            Ok(digest)
        });
        if placed.is_err() {
            // Swept again by the next one, should that fail too.
            remove_or_warn(&place.placing);
            let _ = fs::remove_file(&place.digest);
            let _ = fs::remove_file(&place.manifest);
        }
        let digest = placed?;
        sync_dir(&place.releases_dir)?;
        Ok(digest)
    }

    fn share(
        &self,
        service: &ServiceName,
        release: &str,
        account: Account,
        share: ReleaseShare,
    ) -> Result<(), ReleaseError> {
        let place = self.build_paths(service, release)?;
        if account.is_root() || !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let read = || {
            share::read_record(&place.owner).map_err(|error| to_release_error("read", &place.owner, &error))
        };
        let wanted = share::format_record(account, share);
        // First without the lock: every start of every instance comes here.
        if read()?.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let _ours = acquire_lock(&place.releases_dir)?;
        let record = read()?;
        if record.as_ref() == Some(&wanted) {
            return Ok(());
        }
        share::share_release(&place.dir, account, share, record.as_deref())
            .map_err(|error| to_release_error("set the owner of files in", &place.dir, &error))?;
        // Written at the end: until then no program of the account was started from the release.
        let fresh = place.owner.with_extension("owner.new");
        fs::write(&fresh, &wanted)
            .and_then(|()| fs::rename(&fresh, &place.owner))
            .map_err(|error| to_release_error("write", &place.owner, &error))
    }

    fn make_home(&self, service: &ServiceName, account: Account) -> Result<PathBuf, ReleaseError> {
        let base = self.root.join(service.as_str());
        let home = base.join("home");
        make_dirs(&base)?;
        let made = match DirBuilder::new().mode(0o700).create(&home) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => give_dir(&home, account),
        };
        made.map_err(|error| to_release_error("make the directory", &home, &error))?;
        Ok(home)
    }

    fn create_upload_file(&self) -> Result<File, ReleaseError> {
        make_dirs(&self.root)?;
        tempfile::tempfile_in(&self.root)
            .map_err(|error| to_release_error("make a file in", &self.root, &error))
    }

    fn digest(&self, service: &ServiceName, release: &str) -> Result<Option<Digest>, ReleaseError> {
        let place = self.build_paths(service, release)?;
        if place.dir.is_dir() { read_digest(&place).map(Some) } else { Ok(None) }
    }

    fn verify(&self, service: &ServiceName, release: &str) -> Result<ReleaseCheck, ReleaseError> {
        let place = self.build_paths(service, release)?;
        Ok(ReleaseCheck::new(manifest::compare(&place.dir, &place.manifest)?))
    }

    fn list(&self, service: &ServiceName) -> Result<Vec<String>, ReleaseError> {
        let all = self.releases_dir(service);
        let mut found = Vec::new();
        for name in list_names(&all)? {
            if check_release_name(&name).is_ok() && all.join(&name).is_dir() {
                found.push(name);
            }
        }
        // Its digest is written once, when it is placed.
        let placed = |name: &String| {
            let digest = self.build_paths(service, name).ok()?.digest;
            fs::metadata(digest).and_then(|of| of.modified()).ok()
        };
        found.sort_by_cached_key(|name| (placed(name), name.clone()));
        Ok(found)
    }

    fn remove(&self, service: &ServiceName, release: &str) -> Result<(), ReleaseError> {
        let place = self.build_paths(service, release)?;
        if place.releases_dir.symlink_metadata().is_err() {
            return Ok(());
        }
        let _ours = acquire_lock(&place.releases_dir)?;
        sweep(&place.releases_dir)?;
        // The rename removes all of it at once, so that a concurrent reader never sees half of it.
        let removing = choose_free(&place.removing);
        ignore_not_found(fs::rename(&place.dir, &removing), "move away", &place.dir)?;
        ignore_not_found(fs::remove_file(&place.digest), "remove", &place.digest)?;
        ignore_not_found(fs::remove_file(&place.manifest), "remove", &place.manifest)?;
        ignore_not_found(fs::remove_file(&place.owner), "remove", &place.owner)?;
        sync_dir(&place.releases_dir)?;
        // The rename has removed the release: what is left of it makes no later command fail.
        remove_or_warn(&removing);
        remove_or_warn(&self.run_dir(service, release));
        Ok(())
    }

    fn link(&self, service: &ServiceName, link: &str, release: Option<&str>) -> Result<(), ReleaseError> {
        let base = self.root.join(service.as_str());
        let path = base.join(link);
        if check_release_name(link).is_err() || link == "releases" {
            let reason = "that is no name of a link".to_owned();
            return Err(ReleaseError::Failed { action: "write", path, reason });
        }
        if path.symlink_metadata().is_ok_and(|there| !there.is_symlink()) {
            let reason = "something else is there".to_owned();
            return Err(ReleaseError::Failed { action: "write", path, reason });
        }
        let Some(release) = release else {
            if path.symlink_metadata().is_err() {
                return Ok(());
            }
            ignore_not_found(fs::remove_file(&path), "remove", &path)?;
            return sync_dir(&base);
        };
        let place = self.build_paths(service, release)?;
        if !place.dir.is_dir() {
            let reason = "there is no such release".to_owned();
            return Err(ReleaseError::Failed { action: "link to", path: place.dir, reason });
        }
        let _ours = acquire_lock(&place.releases_dir)?;
        let fresh = base.join(format!(".{link}.new"));
        ignore_not_found(fs::remove_file(&fresh), "remove", &fresh)?;
        let made = symlink(Path::new("releases").join(release), &fresh);
        made.and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| to_release_error("write", &path, &error))?;
        sync_dir(&base)
    }
}

/// Gives a directory to its user. The directory above it belongs to root: no other user can put a link in its place.
fn give_dir(dir: &Path, account: Account) -> io::Result<()> {
    let seen = fs::symlink_metadata(dir)?;
    if !seen.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if (seen.uid(), seen.gid()) == (account.uid, account.gid) {
        return Ok(());
    }
    lchown(dir, Some(account.uid), Some(account.gid))
}

/// A release that is there already is fine when it was made of the same archive.
fn check_same_archive(place: &ReleasePaths, release: &str, archive: &Path) -> Result<Digest, ReleaseError> {
    let failed = |error: io::Error| to_release_error("read", archive, &error);
    let (there, given) = (read_digest(place)?, compute_digest(archive).map_err(failed)?);
    if there == given {
        let check = ReleaseCheck::new(manifest::compare(&place.dir, &place.manifest)?);
        if check.is_altered() {
            let changes = check.describe_changes();
            return Err(ReleaseError::Altered { release: release.to_owned(), changes });
        }
        return Ok(there);
    }
    Err(ReleaseError::NameTaken { release: release.to_owned() })
}

fn read_digest(place: &ReleasePaths) -> Result<Digest, ReleaseError> {
    let text = fs::read_to_string(&place.digest);
    let text = text.map_err(|error| to_release_error("read", &place.digest, &error))?;
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Digest(text));
    }
    let reason = "it is no digest".to_owned();
    Err(ReleaseError::Failed { action: "read", path: place.digest.clone(), reason })
}

/// Takes the lock of a service's releases: one process at a time changes them.
fn acquire_lock(all: &Path) -> Result<File, ReleaseError> {
    let path = all.join(".lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    lock.and_then(|file| file.lock().map(|()| file)).map_err(|error| to_release_error("lock", &path, &error))
}

/// Removes the remains of a killed process. The caller has the lock, so no running process works on them.
fn sweep(all: &Path) -> Result<(), ReleaseError> {
    for name in list_names(all)? {
        if name.starts_with(PLACING_PREFIX) || name.starts_with(REMOVING_PREFIX) {
            remove_or_warn(&all.join(name));
        }
    }
    Ok(())
}

/// Removes a directory with all that is below it. What cannot be removed is left to the next time.
fn remove_or_warn(dir: &Path) {
    if let Err(error) = remove::remove_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", dir.display());
    }
}

/// Returns the path, or one beside it where remains are left there.
fn choose_free(path: &Path) -> PathBuf {
    let beside = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    let mut candidates = std::iter::once(path.to_owned()).chain((1..).map(beside));
    candidates.find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| path.to_owned())
}

fn list_names(dir: &Path) -> Result<Vec<String>, ReleaseError> {
    let failed = |error: io::Error| to_release_error("list", dir, &error);
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(failed))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(failed(error)),
    }
}

/// Makes a directory that the users of instances can read, independent of the umask.
fn make_dir(dir: &Path) -> Result<(), ReleaseError> {
    use std::os::unix::fs::PermissionsExt;
    let made = DirBuilder::new().mode(0o755).create(dir);
    let made = made.and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o755)));
    made.map_err(|error| to_release_error("make the directory", dir, &error))
}

fn make_dirs(dir: &Path) -> Result<(), ReleaseError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent() {
        make_dirs(above)?;
    }
    match make_dir(dir) {
        // Another process made it at the same time.
        Err(_) if dir.is_dir() => Ok(()),
        Ok(()) => dir.parent().map_or(Ok(()), sync_dir),
        failed => failed,
    }
}

fn sync_dir(dir: &Path) -> Result<(), ReleaseError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| to_release_error("write to the disk", dir, &error))
}

fn ignore_not_found(done: io::Result<()>, what: &'static str, path: &Path) -> Result<(), ReleaseError> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(to_release_error(what, path, &error)),
        _ => Ok(()),
    }
}

/// Unpacks an archive: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_unpack(archive: &Path, into: &Path) {
    let limits = ReleaseLimits { bytes: 1 << 20, entries: 200 };
    let _ = unpack::unpack(archive, into, limits);
}

/// Compresses bytes as `.tar.gz`, without making them smaller: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_compress(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;

    let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let _ = compressed.write_all(bytes);
    compressed.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests;
