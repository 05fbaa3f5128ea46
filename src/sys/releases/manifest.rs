//! The manifest of a release, in the format of mtree(5): every file, directory and link with its mode, its size and its SHA-256, as they
//! were when the release was placed. `mtree -p DIR < MANIFEST` of BSD and Debian compares a release with it too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::error::to_release_error;
use super::members::compute_reader_digest;
use crate::model::release::{FileChange, FileChangeKind};
use crate::world::releases::ReleaseError;

/// Files that are not in the manifest and are counted.
const MAX_ADDED: usize = 10_000;

/// Path below the release, as bytes -> its line without the path.
type Entries = BTreeMap<Vec<u8>, String>;

/// Writes the manifest of the files below a directory.
pub(super) fn write(dir: &Path, manifest: &Path) -> Result<(), ReleaseError> {
    let mut text = String::from("#mtree\n");
    for (path, attributes) in read_tree(dir, None)? {
        let _ = writeln!(text, "./{} {attributes}", encode(&path));
    }
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(manifest);
    file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|error| to_release_error("write", manifest, &error))
}

/// Compares the files below a directory with its manifest, in the order of their paths. `None`: the release has no manifest, as
/// those that an older switchman placed.
pub(super) fn compare(dir: &Path, manifest: &Path) -> Result<Option<Vec<FileChange>>, ReleaseError> {
    let text = match fs::read_to_string(manifest) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(to_release_error("read", manifest, &error)),
    };
    let recorded = parse(&text).ok_or_else(|| ReleaseError::Failed {
        action: "read",
        path: manifest.to_owned(),
        reason: "it is no manifest".to_owned(),
    })?;
    let mut found = read_tree(dir, Some(&recorded))?;
    let mut changes = Vec::new();
    let mut report = |path: &[u8], kind| changes.push(FileChange { path: show(path), kind });
    for (path, attributes) in &recorded {
        match found.remove(path) {
            None => report(path, FileChangeKind::Missing),
            Some(now) if now != *attributes => report(path, classify(attributes, &now)),
            Some(_) => {}
        }
    }
    for path in found.keys() {
        report(path, FileChangeKind::Added);
    }
    changes.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Some(changes))
}

/// Whether the mode alone differs.
fn classify(recorded: &str, now: &str) -> FileChangeKind {
    let without_mode = |line: &str| -> Vec<String> {
        line.split(' ').filter(|word| !word.starts_with("mode=")).map(str::to_owned).collect()
    };
    if without_mode(recorded) == without_mode(now) { FileChangeKind::Mode } else { FileChangeKind::Contents }
}

fn parse(text: &str) -> Option<Entries> {
    let mut lines = text.lines();
    if lines.next() != Some("#mtree") || !text.ends_with('\n') {
        return None;
    }
    let to_entry = |line: &str| {
        let (path, attributes) = line.split_once(' ')?;
        Some((decode(path.strip_prefix("./")?)?, attributes.to_owned()))
    };
    lines.map(to_entry).collect()
}

/// Reads what is below a directory, and follows no link. Of what is not recorded only the name is read: it is added, whatever it
/// is. Programs change the release while it is read: what they have removed since is missing.
fn read_tree(dir: &Path, recorded: Option<&Entries>) -> Result<Entries, ReleaseError> {
    let is_removed = |error: &io::Error| recorded.is_some() && error.kind() == io::ErrorKind::NotFound;
    let mut entries = Entries::new();
    let mut pending = vec![PathBuf::new()];
    let mut added = 0;
    while let Some(below) = pending.pop() {
        let path = dir.join(&below);
        let listed = match fs::read_dir(&path) {
            Err(error) if is_removed(&error) && !below.as_os_str().is_empty() => continue,
            listed => listed.map_err(|error| to_release_error("list", &path, &error))?,
        };
        for entry in listed {
            let entry = entry.map_err(|error| to_release_error("list", &path, &error))?;
            let name = below.join(entry.file_name());
            let full = dir.join(&name);
            let known = recorded.and_then(|known| known.get(name.as_os_str().as_bytes()));
            if recorded.is_some() && known.is_none() {
                added += 1;
                if added <= MAX_ADDED {
                    entries.insert(name.into_os_string().into_vec(), String::new());
                }
                continue;
            }
            let attributes = match describe(&full, known.map(String::as_str)) {
                Err(error) if is_removed(&error) => continue,
                attributes => attributes.map_err(|error| to_release_error("read", &full, &error))?,
            };
            if attributes.starts_with("type=dir") {
                pending.push(name.clone());
            }
            entries.insert(name.into_os_string().into_vec(), attributes);
        }
    }
    Ok(entries)
}

/// `recorded`: a file of another size is not read.
fn describe(path: &Path, recorded: Option<&str>) -> io::Result<String> {
    let found = path.symlink_metadata()?;
    let mode = found.permissions().mode() & 0o7777;
    let kind = found.file_type();
    if kind.is_symlink() {
        let target = encode(fs::read_link(path)?.as_os_str().as_bytes());
        return Ok(format!("type=link link={target}"));
    }
    if kind.is_dir() {
        return Ok(format!("type=dir mode={mode:04o}"));
    }
    // A device, a socket or a named pipe: none is ever unpacked, and none is opened.
    let other = format!("type=other mode={mode:04o}");
    if !kind.is_file() {
        return Ok(other);
    }
    // A program may have put something else in its place: it is opened without waiting for a writer, and read to its size.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(other),
        file => file?,
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Ok(other);
    }
    let size = format!("size={}", found.size());
    if recorded.is_some_and(|line| !line.split(' ').any(|word| word == size)) {
        return Ok(format!("type=file mode={mode:04o} {size}"));
    }
    let digest = compute_reader_digest(file.take(found.size().saturating_add(1)))?;
    Ok(format!("type=file mode={mode:04o} {size} sha256digest={}", digest.0))
}

/// Writes bytes as one word: octal escapes as in vis(3), which mtree(5) names.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/._+-@:,~%".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "\\{byte:03o}");
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('\\');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..3)?, 8).ok()?);
        bytes.extend_from_slice(part.get(3..)?.as_bytes());
    }
    Some(bytes)
}

/// A path for people and for JSON.
fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_one_word_and_read_back() {
        for path in ["a/b-1.0_x", "with space", "back\\slash", "line\nbreak", "tab\tähnlich", "#", "=\""] {
            let word = encode(path.as_bytes());
            assert!(word.bytes().all(|byte| byte.is_ascii_graphic()), "{word}");
            assert_eq!(decode(&word).as_deref(), Some(path.as_bytes()));
        }
        assert_eq!(encode(b"a b"), r"a\040b");
        for damaged in [r"a\", r"a\04", r"a\9zz", r"a\777"] {
            assert_eq!(decode(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn manifest_that_was_cut_is_none() {
        assert!(parse("#mtree\n./a type=dir mode=0755\n").is_some());
        assert_eq!(parse("#mtree\n./a type=dir mo"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse("#mtree\nnonsense\n"), None);
    }
}
