//! A `.tar.gz` as a row of members, read once from its first byte to its last. Headers are read one by one and what extends
//! them (GNU tar's long names, POSIX's pax records) is put together here: within bounds, and refused where two of them
//! disagree, for that is how one archive looks like two. Shapes: GNU tar manual, "Basic Tar Format"; POSIX pax(1).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use ring::digest::{Context, SHA256};
use tar::{Archive, Entries, Entry, EntryType};

use super::modes::{release_dir_mode, release_file_mode};
use crate::model::deployment::Digest;
use crate::world::releases::ReleaseError;

/// Names and pax records before one member.
const MAX_EXTENSION_BYTES: u64 = 1024 * 1024;

/// The kind of a member, without its path.
pub(super) enum MemberKind {
    File {
        mode: u32,
        size: u64,
    },
    Dir {
        mode: u32,
    },
    Symlink(Vec<u8>),
    /// To an earlier member.
    Hardlink(Vec<u8>),
}

pub(super) struct Member {
    pub path: Vec<u8>,
    pub kind: MemberKind,
    /// Seconds since 1970.
    pub mtime: u64,
}

/// Reads the decompressed bytes, up to a limit.
pub(super) struct BoundedReader {
    inner: MultiGzDecoder<HashingReader>,
    remaining: u64,
    is_ended: bool,
}

/// The archive's own bytes, with their digest so far.
struct HashingReader {
    file: File,
    digest: Context,
}

#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than is allowed")]
struct SizeLimitExceeded;

impl Read for HashingReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.digest.update(&into[..read]);
        Ok(read)
    }
}

impl Read for BoundedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.is_ended = read == 0 && !into.is_empty();
        self.remaining =
            self.remaining.checked_sub(read as u64).ok_or_else(|| io::Error::other(SizeLimitExceeded))?;
        Ok(read)
    }
}

/// SHA-256 of a whole file.
pub(in crate::sys) fn compute_digest(path: &Path) -> io::Result<Digest> {
    compute_reader_digest(File::open(path)?)
}

/// SHA-256 of all that a reader gives.
pub(super) fn compute_reader_digest(mut reader: impl Read) -> io::Result<Digest> {
    let mut digest = Context::new(&SHA256);
    let mut block = vec![0; 128 * 1024];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok(finish_digest(digest)),
            Ok(read) => digest.update(&block[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn finish_digest(context: Context) -> Digest {
    Digest(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Converts an error of reading an archive.
pub(super) fn to_archive_error(path: &Path, error: &io::Error) -> ReleaseError {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<SizeLimitExceeded>) {
        return ReleaseError::Refused(SizeLimitExceeded.to_string());
    }
    match error.raw_os_error() {
        Some(_) => ReleaseError::Failed { action: "read", path: path.to_owned(), reason: error.to_string() },
        None => ReleaseError::Damaged(error.to_string().escape_debug().to_string()),
    }
}

/// An open archive.
pub(super) struct ArchiveReader {
    path: PathBuf,
    archive: Archive<BoundedReader>,
}

impl ArchiveReader {
    /// `most`: bytes that it may decompress to, headers and padding included.
    pub(super) fn new(path: &Path, most: u64) -> Result<Self, ReleaseError> {
        let file = File::open(path).map_err(|error| to_archive_error(path, &error))?;
        let from = MultiGzDecoder::new(HashingReader { file, digest: Context::new(&SHA256) });
        let archive = Archive::new(BoundedReader { inner: from, remaining: most, is_ended: false });
        Ok(Self { path: path.to_owned(), archive })
    }

    /// Hands over every member with a reader of its contents.
    pub(super) fn for_each_member(
        &mut self,
        mut take: impl FnMut(Member, &mut dyn Read) -> Result<(), ReleaseError>,
    ) -> Result<(), ReleaseError> {
        let damaged = |error: io::Error| to_archive_error(&self.path, &error);
        let mut headers = self.archive.entries().map_err(damaged)?.raw(true);
        while let Some((member, mut contents)) = read_next_member(&mut headers, &self.path)? {
            take(member, &mut contents)?;
        }
        Ok(())
    }

    /// The digest of the archive, once it is clear that nothing but padding follows its last member.
    pub(super) fn finish(self) -> Result<Digest, ReleaseError> {
        let damaged = |error: io::Error| to_archive_error(&self.path, &error);
        let mut rest = self.archive.into_inner();
        if rest.is_ended {
            return Err(ReleaseError::Damaged("it breaks off before its end is marked".to_owned()));
        }
        let mut block = vec![0; 64 * 1024];
        loop {
            match rest.read(&mut block).map_err(damaged)? {
                0 => break,
                read if block[..read].iter().any(|byte| *byte != 0) => {
                    return Err(ReleaseError::Refused("something follows its end".to_owned()));
                }
                _ => {}
            }
        }
        let mut packed = rest.inner.into_inner();
        io::copy(&mut packed, &mut io::sink()).map_err(damaged)?;
        Ok(finish_digest(packed.digest))
    }
}

/// The attributes that the headers before a member give to it.
#[derive(Default)]
struct MemberExtensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl MemberExtensions {
    fn set_once(slot: &mut Option<Vec<u8>>, value: &[u8]) -> Result<(), ReleaseError> {
        if slot.is_some() {
            return Err(ReleaseError::Refused("a name in it is given twice".to_owned()));
        }
        *slot = Some(value.to_vec());
        Ok(())
    }

    /// pax records: `LENGTH KEY=VALUE\n`, the length in decimal and of all of it. Owners, xattrs and times are left out.
    fn parse_records(&mut self, mut text: &[u8], global: bool) -> Result<(), ReleaseError> {
        let damaged = || ReleaseError::Damaged("a pax record in it is not understood".to_owned());
        while !text.is_empty() {
            let space = text.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length = std::str::from_utf8(&text[..space]).ok().and_then(|text| text.parse::<usize>().ok());
            let record = length.and_then(|length| text.get(space + 1..length)).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            text = &text[length.unwrap_or(text.len())..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" | b"linkpath" | b"size" if global => {
                    let text = "a global pax header in it names files";
                    return Err(ReleaseError::Refused(text.to_owned()));
                }
                b"path" => Self::set_once(&mut self.path, value)?,
                b"linkpath" => Self::set_once(&mut self.link, value)?,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(damaged)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(ReleaseError::Refused("a file in it is sparse".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

type Contents<'a> = Entry<'a, BoundedReader>;

fn read_next_member<'a>(
    headers: &mut Entries<'a, BoundedReader>,
    archive: &Path,
) -> Result<Option<(Member, Contents<'a>)>, ReleaseError> {
    let damaged = |error: io::Error| to_archive_error(archive, &error);
    let mut extended = MemberExtensions::default();
    for entry in headers.by_ref() {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        if !(kind.is_gnu_longname() || kind.is_gnu_longlink() || is_pax(kind)) {
            return parse_member(&entry, extended).map(|member| Some((member, entry)));
        }
        let size = entry.header().entry_size().map_err(damaged)?;
        if size > MAX_EXTENSION_BYTES {
            return Err(ReleaseError::Refused(format!("a name in it has {size} bytes")));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(damaged)?;
        if text.len() as u64 != size {
            return Err(ReleaseError::Damaged("it breaks off within a name".to_owned()));
        }
        // GNU tar ends a long name with a NUL.
        let name = text.strip_suffix(b"\0").unwrap_or(&text);
        if kind.is_gnu_longname() {
            MemberExtensions::set_once(&mut extended.path, name)?;
        } else if kind.is_gnu_longlink() {
            MemberExtensions::set_once(&mut extended.link, name)?;
        } else {
            extended.parse_records(&text, kind == EntryType::XGlobalHeader)?;
        }
    }
    // A global header alone is how `git archive` packs an empty tree.
    if extended.path.is_some() || extended.link.is_some() {
        return Err(ReleaseError::Damaged("it breaks off behind a name".to_owned()));
    }
    Ok(None)
}

fn is_pax(kind: EntryType) -> bool {
    matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader)
}

fn parse_member(entry: &Contents<'_>, extended: MemberExtensions) -> Result<Member, ReleaseError> {
    let header = entry.header();
    let damaged = |error: io::Error| ReleaseError::Damaged(error.to_string().escape_debug().to_string());
    let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let refused = |why: &str| ReleaseError::Refused(format!("{} {why}", quote_path(&path)));
    let size = header.entry_size().map_err(damaged)?;
    if extended.size.is_some_and(|other| other != size) {
        return Err(refused("has two sizes"));
    }
    let link =
        || extended.link.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let mode = header.mode().map_err(damaged)?;
    let kind = match header.entry_type() {
        EntryType::Regular if path.ends_with(b"/") => {
            return Err(refused("is a file named like a directory"));
        }
        EntryType::Regular => MemberKind::File { mode: release_file_mode(mode), size },
        EntryType::Directory => MemberKind::Dir { mode: release_dir_mode(mode) },
        EntryType::Symlink => MemberKind::Symlink(link().unwrap_or_default()),
        EntryType::Link => MemberKind::Hardlink(link().unwrap_or_default()),
        EntryType::Char | EntryType::Block => return Err(refused("is a device")),
        EntryType::Fifo => return Err(refused("is a named pipe")),
        EntryType::GNUSparse => return Err(refused("is a sparse file")),
        other => {
            let letter = char::from(other.as_byte()).escape_debug();
            return Err(refused(&format!("is no file, directory or link, but of type `{letter}`")));
        }
    };
    if size > 0 && !matches!(kind, MemberKind::File { .. }) {
        return Err(refused("is no file, but has contents"));
    }
    Ok(Member { kind, mtime: header.mtime().unwrap_or(0), path })
}

/// A name out of an archive, for people: no control characters, no end of line, not endless.
pub(super) fn quote_path(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(200)]);
    let more = if path.len() > 200 { "..." } else { "" };
    format!("`{}{more}`", text.escape_debug())
}
