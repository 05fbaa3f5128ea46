//! Writes members as files below one directory. While any contents are written there is no symbolic link below it: links
//! are made last, once all of them are known to stay inside.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::error::to_release_error;
use super::members::{ArchiveReader, Member, MemberKind, quote_path, to_archive_error};
use super::paths::{self, LinkTargets};
use crate::model::deployment::Digest;
use crate::world::releases::ReleaseError;

/// How much one release may be.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseLimits {
    /// Files, directories and links.
    pub entries: usize,
    /// Limit of all files together.
    pub bytes: u64,
}

impl Default for ReleaseLimits {
    fn default() -> Self {
        Self { entries: 100_000, bytes: 4 << 30 }
    }
}

impl ReleaseLimits {
    /// Returns the limit of the whole stream: headers, long names and padding are a few KiB a member.
    fn max_stream_bytes(&self) -> u64 {
        self.bytes.saturating_add(4096 * (self.entries as u64 + 1024))
    }
}

/// Read and written at once.
const BLOCK_BYTES: u64 = 128 * 1024;

#[derive(Clone, Copy, PartialEq)]
enum EntryKind {
    File,
    /// That a member was, or only the path of one so far.
    Dir {
        is_explicit: bool,
    },
    Link,
}

struct Unpacker<'a> {
    target_dir: &'a Path,
    limits: ReleaseLimits,
    bytes: u64,
    entries: HashMap<String, EntryKind>,
    links: LinkTargets,
    /// Files and the time that the archive has of each.
    times: Vec<(PathBuf, u64)>,
}

/// Unpacks into a directory that is empty. What is left of it after an error is the caller's.
pub(super) fn unpack(archive: &Path, into: &Path, limits: ReleaseLimits) -> Result<Digest, ReleaseError> {
    let mut opened = ArchiveReader::new(archive, limits.max_stream_bytes())?;
    let (seen, links, times) = (HashMap::new(), LinkTargets::new(), Vec::new());
    let mut unpacking = Unpacker { target_dir: into, limits, bytes: 0, entries: seen, links, times };
    opened.for_each_member(|member, contents| unpacking.unpack_member(&member, contents, archive))?;
    let digest = opened.finish()?;
    unpacking.make_links()?;
    // A web server would answer every request with an error, and its health check with success.
    if !unpacking.entries.values().any(|kind| *kind == EntryKind::File) {
        return Err(ReleaseError::Refused("it has no file".to_owned()));
    }
    unpacking.set_times(&digest)?;
    Ok(digest)
}

impl Unpacker<'_> {
    fn unpack_member(
        &mut self,
        member: &Member,
        contents: &mut dyn Read,
        archive: &Path,
    ) -> Result<(), ReleaseError> {
        let refused = |why: &str| ReleaseError::Refused(format!("{} {why}", quote_path(&member.path)));
        let parts = paths::split_path(&member.path).map_err(refused)?;
        let Some((_, above)) = parts.split_last() else {
            return match member.kind {
                // The source's own directory: who may enter it is no matter of its files.
                MemberKind::Dir { .. } => Ok(()),
                _ => Err(refused("is the release itself, and no directory")),
            };
        };
        for depth in 1..=above.len() {
            let dir = parts[..depth].join("/");
            match self.entries.get(&dir) {
                Some(EntryKind::Dir { .. }) => {}
                Some(EntryKind::Link) => return Err(refused("leads through a symbolic link")),
                Some(EntryKind::File) => return Err(refused("leads through a file")),
                None => self.make_dir(dir, None)?,
            }
        }
        let name = parts.join("/");
        match (self.entries.get(&name), &member.kind) {
            (None, _) => {}
            (Some(EntryKind::Dir { is_explicit: false }), MemberKind::Dir { mode }) => {
                let path = self.target_dir.join(&name);
                self.entries.insert(name, EntryKind::Dir { is_explicit: true });
                return set_dir_mode(&path, *mode);
            }
            _ => return Err(refused("is there twice")),
        }
        match &member.kind {
            MemberKind::Dir { mode } => self.make_dir(name, Some(*mode)),
            MemberKind::File { mode, size } => {
                self.record_entry(&name, EntryKind::File)?;
                let path = self.target_dir.join(&name);
                self.times.push((path.clone(), member.mtime));
                self.write_file(&path, *mode, *size, contents, archive)
            }
            MemberKind::Symlink(target) => {
                let text =
                    std::str::from_utf8(target).ok().filter(|text| !text.chars().any(char::is_control));
                let text = text.ok_or_else(|| refused("is a symbolic link to a name that is no text"))?;
                self.record_entry(&name, EntryKind::Link)?;
                self.links.insert(name, text.to_owned());
                Ok(())
            }
            MemberKind::Hardlink(target) => {
                let to = self.resolve_hard_link(target).map_err(|why| refused(&why))?;
                self.record_entry(&name, EntryKind::File)?;
                let path = self.target_dir.join(&name);
                fs::hard_link(self.target_dir.join(to), &path)
                    .map_err(|error| to_release_error("write", &path, &error))
            }
        }
    }

    /// Returns the path that a hard link points to.
    fn resolve_hard_link(&self, target: &[u8]) -> Result<String, String> {
        let is = |why| format!("is a hard link to {}, which {why}", quote_path(target));
        let to = paths::split_path(target).map_err(is)?.join("/");
        match self.entries.get(&to) {
            Some(EntryKind::File) => Ok(to),
            _ => Err(is("is no earlier file")),
        }
    }

    fn write_file(
        &mut self,
        path: &Path,
        mode: u32,
        size: u64,
        contents: &mut dyn Read,
        archive: &Path,
    ) -> Result<(), ReleaseError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            let most = self.limits.bytes;
            return Err(ReleaseError::Refused(format!("it has more than {most} bytes of files")));
        }
        let breaks_off = || ReleaseError::Damaged("it breaks off within a file".to_owned());
        let mut left = size;
        let mut file = create_file(path, mode)?;
        let mut block = vec![0; usize::try_from(size.min(BLOCK_BYTES)).unwrap_or(0)];
        while left > 0 {
            let read = contents.read(&mut block).map_err(|error| to_archive_error(archive, &error))?;
            left = left.checked_sub(read as u64).filter(|_| read > 0).ok_or_else(breaks_off)?;
            file.write_all(&block[..read]).map_err(|error| to_release_error("write", path, &error))?;
        }
        Ok(())
    }

    fn record_entry(&mut self, name: &str, what: EntryKind) -> Result<(), ReleaseError> {
        self.entries.insert(name.to_owned(), what);
        if self.entries.len() > self.limits.entries {
            let most = self.limits.entries;
            return Err(ReleaseError::Refused(format!("it has more than {most} files and directories")));
        }
        Ok(())
    }

    /// Makes a directory with the mode of its member, or 0755 where the archive has only paths below it.
    fn make_dir(&mut self, name: String, mode: Option<u32>) -> Result<(), ReleaseError> {
        self.record_entry(&name, EntryKind::Dir { is_explicit: mode.is_some() })?;
        let path = self.target_dir.join(name);
        fs::create_dir(&path).map_err(|error| to_release_error("make the directory", &path, &error))?;
        set_dir_mode(&path, mode.unwrap_or(0o755))
    }

    fn make_links(&self) -> Result<(), ReleaseError> {
        for (name, target) in &self.links {
            paths::check_link_target(name, target, &self.links).map_err(|why| {
                let (name, target) = (quote_path(name.as_bytes()), quote_path(target.as_bytes()));
                ReleaseError::Refused(format!("{name} -> {target} {why}"))
            })?;
        }
        for (name, target) in &self.links {
            let path = self.target_dir.join(name);
            symlink(target, &path).map_err(|error| to_release_error("write", &path, &error))?;
        }
        Ok(())
    }

    /// The archive's own times. A file that has none (what `deploy` packs is the same for the same contents) gets a moment
    /// of 2000 to 2008 out of the archive's digest: web servers make the ETag of a file from its time and size, so it has to be
    /// the same on every host and another one in another release.
    fn set_times(&self, digest: &Digest) -> Result<(), ReleaseError> {
        let salt = digest.0.get(..7).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0);
        for (path, told) in &self.times {
            let second = if *told == 0 { 946_684_800 + salt } else { *told };
            let time = TimeSpec::new(i64::try_from(second).unwrap_or(i64::MAX), 0);
            // A time that the filesystem cannot hold is no reason to refuse a release.
            let _ = utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink);
        }
        Ok(())
    }
}

/// Sets the mode independent of the umask: an instance may run as another user.
fn set_dir_mode(path: &Path, mode: u32) -> Result<(), ReleaseError> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|error| to_release_error("set the mode of", path, &error))
}

/// Never an existing one, nor through a link.
fn create_file(path: &Path, mode: u32) -> Result<File, ReleaseError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    // Independent of the umask: an instance may run as another user.
    let file = opened.and_then(|file| file.set_permissions(Permissions::from_mode(mode)).map(|()| file));
    file.map_err(|error| to_release_error("write", path, &error))
}

/// Everything that was written to this directory's filesystem is on the disk: one call where a release may have 100,000 files.
/// The call reports failed writes since Linux 5.8 (syncfs(2)).
pub(super) fn sync_filesystem(dir: &Path) -> Result<(), ReleaseError> {
    let synced = File::open(dir).and_then(|dir| nix::unistd::syncfs(&dir).map_err(io::Error::from));
    synced.map_err(|error| to_release_error("write to the disk", dir, &error))
}
