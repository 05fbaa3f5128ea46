//! `world::archives` with files of this machine. What is packed is what `sys/releases` unpacks, and is the same on any
//! machine where the files have the same modes: sorted by name, no times, no owners. A mode loses what lets other users write.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::releases::compute_digest;
use super::releases::modes::{release_dir_mode, release_file_mode};
use super::releases::paths::{self, LinkTargets};
use crate::world::archives::{ArchiveError, ArchivePacker, PackedArchive};

/// How a gzip file of deflated data begins (RFC 1952, 2.3.1).
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

#[derive(Debug)]
pub struct TarArchives;

type TarBuilder = Builder<GzEncoder<BufWriter<File>>>;

impl ArchivePacker for TarArchives {
    fn pack(&self, source: &Path) -> Result<PackedArchive, ArchiveError> {
        let seen = fs::metadata(source).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                ArchiveError::Missing { path: source.to_owned() }
            }
            _ => to_archive_error("read", source, &error),
        })?;
        if seen.is_dir() {
            return pack_dir(source);
        }
        if !(seen.is_file() && is_gzip(source)?) {
            return Err(ArchiveError::UnsupportedFormat { path: source.to_owned() });
        }
        let digest = compute_digest(source).map_err(|error| to_archive_error("read", source, &error))?;
        Ok(PackedArchive { path: source.to_owned(), digest, bytes: seen.len(), held: None })
    }
}

fn is_gzip(path: &Path) -> Result<bool, ArchiveError> {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|file| file.take(GZIP_MAGIC.len() as u64).read_to_end(&mut first));
    read.map_err(|error| to_archive_error("read", path, &error))?;
    Ok(first == GZIP_MAGIC)
}

/// Into a file below the temporary directory that has no name there: nothing is left of it when this process is killed.
fn pack_dir(source: &Path) -> Result<PackedArchive, ArchiveError> {
    let make = |error: io::Error| to_archive_error("make", &std::env::temp_dir(), &error);
    let held = tempfile::tempfile().map_err(make)?;
    // proc(5): opening this path makes a file description of its own.
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()));
    let file = File::options().write(true).open(&path).map_err(make)?;
    // Without a time or a name, and with "unknown" as its system: the header is always the same.
    let gzip = GzBuilder::new().write(BufWriter::new(file), Compression::default());
    let mut packing = DirPacker {
        source,
        target: &path,
        tar: Builder::new(gzip),
        links: LinkTargets::new(),
        has_file: false,
    };
    packing.append_dir(&mut Vec::new())?;
    let DirPacker { tar, links, has_file, .. } = packing;
    // Every host would refuse it.
    if !has_file {
        return Err(ArchiveError::Refused { path: source.to_owned(), reason: "has no file" });
    }
    for (link, target) in &links {
        paths::check_link_target(link, target, &links)
            .map_err(|reason| ArchiveError::Refused { path: source.join(link), reason })?;
    }
    let written = tar.into_inner().and_then(GzEncoder::finish).and_then(|mut file| file.flush());
    written.map_err(|error| to_archive_error("write", &path, &error))?;
    let read = |error: io::Error| to_archive_error("read", &path, &error);
    let (digest, bytes) = (compute_digest(&path).map_err(read)?, fs::metadata(&path).map_err(read)?.len());
    Ok(PackedArchive { path, digest, bytes, held: Some(Arc::new(held)) })
}

struct DirPacker<'a> {
    source: &'a Path,
    target: &'a Path,
    tar: TarBuilder,
    links: LinkTargets,
    has_file: bool,
}

impl DirPacker<'_> {
    /// Everything in a directory of the source, named by its parts.
    fn append_dir(&mut self, parts: &mut Vec<String>) -> Result<(), ArchiveError> {
        let dir = self.source.join(parts.join("/"));
        let read = |error: io::Error| to_archive_error("read", &dir, &error);
        let entries: Result<Vec<_>, _> = fs::read_dir(&dir).map_err(read)?.collect();
        let mut names: Vec<_> = entries.map_err(read)?.iter().map(fs::DirEntry::file_name).collect();
        names.sort_unstable();
        for name in names {
            let path = dir.join(&name);
            let refused = |reason| ArchiveError::Refused { path: path.clone(), reason };
            let inside = path.strip_prefix(self.source).unwrap_or(&path);
            paths::split_path(inside.as_os_str().as_bytes()).map_err(refused)?;
            parts.push(name.to_string_lossy().into_owned());
            self.append_member(&path, parts)?;
            parts.pop();
        }
        Ok(())
    }

    fn append_member(&mut self, path: &Path, parts: &mut Vec<String>) -> Result<(), ArchiveError> {
        let refused = |reason| ArchiveError::Refused { path: path.to_owned(), reason };
        let seen = fs::symlink_metadata(path).map_err(|error| to_archive_error("read", path, &error))?;
        let name = parts.join("/");
        let kind = seen.file_type();
        if kind.is_dir() {
            let mode = release_dir_mode(seen.permissions().mode());
            self.append(EntryType::Directory, mode, 0, |tar, header| {
                tar.append_data(header, format!("{name}/"), io::empty())
            })?;
            return self.append_dir(parts);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|error| to_archive_error("read", path, &error))?;
            let text = target.to_str().filter(|text| !text.chars().any(char::is_control));
            let text = text.ok_or_else(|| refused("is a symbolic link to a name that is no text"))?;
            self.links.insert(name.clone(), text.to_owned());
            return self
                .append(EntryType::Symlink, 0o777, 0, |tar, header| tar.append_link(header, &name, &target));
        }
        if !kind.is_file() {
            return Err(refused("is no file, directory or symbolic link"));
        }
        let mode = release_file_mode(seen.permissions().mode());
        let mut file = File::open(path).map_err(|error| to_archive_error("read", path, &error))?;
        let mut read =
            CountingReader { inner: (&mut file).take(seen.len()), bytes_read: 0, read_error: None };
        let appended = self.append(EntryType::Regular, mode, seen.len(), |tar, header| {
            tar.append_data(header, &name, &mut read)
        });
        if let Some(error) = read.read_error.take() {
            return Err(to_archive_error("read", path, &error));
        }
        appended?;
        self.has_file = true;
        let grown =
            read.inner.into_inner().read(&mut [0]).map_err(|error| to_archive_error("read", path, &error))?
                > 0;
        if grown || read.bytes_read != seen.len() {
            return Err(refused("was changed while it was packed"));
        }
        Ok(())
    }

    fn append(
        &mut self,
        kind: EntryType,
        mode: u32,
        size: u64,
        append: impl FnOnce(&mut TarBuilder, &mut Header) -> io::Result<()>,
    ) -> Result<(), ArchiveError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        append(&mut self.tar, &mut header).map_err(|error| to_archive_error("write", self.target, &error))
    }
}

/// Counts the bytes read, and distinguishes a reader's error from a writer's.
struct CountingReader<R> {
    inner: R,
    bytes_read: u64,
    read_error: Option<io::Error>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(into) {
            Ok(read) => {
                self.bytes_read += read as u64;
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                if kind != io::ErrorKind::Interrupted {
                    self.read_error = Some(error);
                }
                Err(kind.into())
            }
        }
    }
}

fn to_archive_error(what: &'static str, path: &Path, error: &io::Error) -> ArchiveError {
    let path: PathBuf = path.to_owned();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ArchiveError::Full { path },
        _ => ArchiveError::Failed { action: what, path, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
