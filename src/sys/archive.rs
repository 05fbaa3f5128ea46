//! `world::archives` with files of this machine. What is packed is what `sys/releases` unpacks, and says the same of it on any
//! machine: sorted by name, no times, no owners, modes 0644 and 0755.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::releases::digest_of;
use super::releases::paths::{self, Links};
use crate::world::archives::{ArchiveError, Archives, Packed};

/// How a gzip file of deflated data begins (RFC 1952, 2.3.1).
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

#[derive(Debug)]
pub struct TarArchives;

type Tar = Builder<GzEncoder<BufWriter<File>>>;

impl Archives for TarArchives {
    fn pack(&self, source: &Path) -> Result<Packed, ArchiveError> {
        let seen = fs::metadata(source).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                ArchiveError::Missing { path: source.to_owned() }
            }
            _ => failed("read", source, &error),
        })?;
        if seen.is_dir() {
            return pack(source);
        }
        if !(seen.is_file() && is_gzip(source)?) {
            return Err(ArchiveError::Neither { path: source.to_owned() });
        }
        let digest = digest_of(source).map_err(|error| failed("read", source, &error))?;
        Ok(Packed { path: source.to_owned(), digest, bytes: seen.len(), held: None })
    }
}

fn is_gzip(path: &Path) -> Result<bool, ArchiveError> {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut first));
    read.map_err(|error| failed("read", path, &error))?;
    Ok(first == MAGIC)
}

/// Into a file of its own below the temporary directory.
fn pack(source: &Path) -> Result<Packed, ArchiveError> {
    let made = tempfile::Builder::new().prefix("swm-").suffix(".tar.gz").tempfile();
    let (file, path) = made.map_err(|error| failed("make", &std::env::temp_dir(), &error))?.into_parts();
    // Without a time or a name, and with "unknown" as its system: the header is always the same.
    let gzip = GzBuilder::new().write(BufWriter::new(file), Compression::default());
    let mut packing = Packing { source, target: &path, tar: Builder::new(gzip), links: Links::new() };
    packing.dir(&mut Vec::new())?;
    let Packing { tar, links, .. } = packing;
    for (link, target) in &links {
        paths::stays_inside(link, target, &links)
            .map_err(|why| ArchiveError::Refused { path: source.join(link), why })?;
    }
    let written = tar.into_inner().and_then(GzEncoder::finish).and_then(|mut file| file.flush());
    written.map_err(|error| failed("write", &path, &error))?;
    let read = |error: io::Error| failed("read", &path, &error);
    let (digest, bytes) = (digest_of(&path).map_err(read)?, fs::metadata(&path).map_err(read)?.len());
    Ok(Packed { path: path.to_path_buf(), digest, bytes, held: Some(Arc::new(path)) })
}

struct Packing<'a> {
    source: &'a Path,
    target: &'a Path,
    tar: Tar,
    links: Links,
}

impl Packing<'_> {
    /// Everything in a directory of the source, named by its parts.
    fn dir(&mut self, parts: &mut Vec<String>) -> Result<(), ArchiveError> {
        let dir = self.source.join(parts.join("/"));
        let read = |error: io::Error| failed("read", &dir, &error);
        let entries: Result<Vec<_>, _> = fs::read_dir(&dir).map_err(read)?.collect();
        let mut names: Vec<_> = entries.map_err(read)?.iter().map(fs::DirEntry::file_name).collect();
        names.sort_unstable();
        for name in names {
            let path = dir.join(&name);
            let refused = |why| ArchiveError::Refused { path: path.clone(), why };
            let inside = path.strip_prefix(self.source).unwrap_or(&path);
            paths::parts(inside.as_os_str().as_bytes()).map_err(refused)?;
            parts.push(name.to_string_lossy().into_owned());
            self.member(&path, parts)?;
            parts.pop();
        }
        Ok(())
    }

    fn member(&mut self, path: &Path, parts: &mut Vec<String>) -> Result<(), ArchiveError> {
        let refused = |why| ArchiveError::Refused { path: path.to_owned(), why };
        let seen = fs::symlink_metadata(path).map_err(|error| failed("read", path, &error))?;
        let name = parts.join("/");
        let kind = seen.file_type();
        if kind.is_dir() {
            self.append(EntryType::Directory, 0o755, 0, |tar, header| {
                tar.append_data(header, format!("{name}/"), io::empty())
            })?;
            return self.dir(parts);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|error| failed("read", path, &error))?;
            let text = target.to_str().filter(|text| !text.chars().any(char::is_control));
            let text = text.ok_or_else(|| refused("is a symbolic link to a name that is no text"))?;
            self.links.insert(name.clone(), text.to_owned());
            return self
                .append(EntryType::Symlink, 0o777, 0, |tar, header| tar.append_link(header, &name, &target));
        }
        if !kind.is_file() {
            return Err(refused("is no file, directory or symbolic link"));
        }
        let mode = if seen.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let mut file = File::open(path).map_err(|error| failed("read", path, &error))?;
        let mut read = Counted { from: (&mut file).take(seen.len()), read: 0, failed: None };
        let appended = self.append(EntryType::Regular, mode, seen.len(), |tar, header| {
            tar.append_data(header, &name, &mut read)
        });
        if let Some(error) = read.failed.take() {
            return Err(failed("read", path, &error));
        }
        appended?;
        let grown = read.from.into_inner().read(&mut [0]).map_err(|error| failed("read", path, &error))? > 0;
        if grown || read.read != seen.len() {
            return Err(refused("was changed while it was packed"));
        }
        Ok(())
    }

    fn append(
        &mut self,
        kind: EntryType,
        mode: u32,
        size: u64,
        append: impl FnOnce(&mut Tar, &mut Header) -> io::Result<()>,
    ) -> Result<(), ArchiveError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        append(&mut self.tar, &mut header).map_err(|error| failed("write", self.target, &error))
    }
}

/// Tells how much was read, and a reader's error from a writer's.
struct Counted<R> {
    from: R,
    read: u64,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.from.read(into) {
            Ok(read) => {
                self.read += read as u64;
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                if kind != io::ErrorKind::Interrupted {
                    self.failed = Some(error);
                }
                Err(kind.into())
            }
        }
    }
}

fn failed(what: &'static str, path: &Path, error: &io::Error) -> ArchiveError {
    let path: PathBuf = path.to_owned();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ArchiveError::Full { path },
        _ => ArchiveError::Failed { what, path, why: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
