//! The manifest of a release, in the format of mtree(5): every file, directory and link with its mode, its size and its SHA-256, as they
//! were when the release was placed. `mtree -p DIR < MANIFEST` of BSD and Debian compares a release with it too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::to_release_error;
use super::members::compute_digest;
use crate::model::release::{FileChange, FileChangeKind};
use crate::world::releases::ReleaseError;

/// Path below the release, as bytes -> its line without the path.
type Entries = BTreeMap<Vec<u8>, String>;

/// Writes the manifest of the files below a directory.
pub(super) fn write(dir: &Path, manifest: &Path) -> Result<(), ReleaseError> {
    let mut text = String::from("#mtree\n");
    for (path, attributes) in read_tree(dir)? {
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
    let mut found = read_tree(dir)?;
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

/// Reads what is below a directory, and follows no link.
fn read_tree(dir: &Path) -> Result<Entries, ReleaseError> {
    let mut entries = Entries::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let path = dir.join(&below);
        let listed = fs::read_dir(&path).map_err(|error| to_release_error("list", &path, &error))?;
        for entry in listed {
            let entry = entry.map_err(|error| to_release_error("list", &path, &error))?;
            let name = below.join(entry.file_name());
            let full = dir.join(&name);
            let attributes = describe(&full).map_err(|error| to_release_error("read", &full, &error))?;
            if attributes.starts_with("type=dir") {
                pending.push(name.clone());
            }
            entries.insert(name.into_os_string().into_vec(), attributes);
        }
    }
    Ok(entries)
}

fn describe(path: &Path) -> io::Result<String> {
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
    if kind.is_file() {
        let digest = compute_digest(path)?;
        return Ok(format!("type=file mode={mode:04o} size={} sha256digest={}", found.size(), digest.0));
    }
    // A device, a socket or a named pipe: none is ever unpacked, and none is opened.
    Ok(format!("type=other mode={mode:04o}"))
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
