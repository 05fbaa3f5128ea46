//! Names of releases: directories below a service, made of what came over a link.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A version of at most 64 characters, and `~` with the number of a build.
const MAX_LENGTH: usize = 100;

/// The pattern of a release name in the description of the API.
pub const PATTERN: &str = "^[0-9A-Za-z][0-9A-Za-z.+~-]{0,99}$";

/// A text that names no release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a release: a name has 1 to {MAX_LENGTH} letters, digits, `.`, `+`, `~` and `-`, and starts with a letter or a digit",
    .found.chars().take(MAX_LENGTH).collect::<String>().escape_debug()
)]
pub struct ReleaseNameError {
    pub found: String,
}

/// Checks that a text is a safe name of a directory: what starts with `.` there is our own, and what starts with `-` is a flag to anyone who
/// tidies up there by hand.
pub fn check_release_name(text: &str) -> Result<(), ReleaseNameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if (1..=MAX_LENGTH).contains(&text.len()) && text.chars().all(allowed) && begins {
        Ok(())
    } else {
        Err(ReleaseNameError { found: text.to_owned() })
    }
}

/// How a file of a release differs from the one that was placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileChangeKind {
    /// Other contents, another target of a link, or another kind of file.
    Contents,
    /// Other permission bits.
    Mode,
    Missing,
    /// A file that was not in the archive, as programs write caches. It does not make a release unfit to start.
    Added,
}

/// A file, directory or link that is not as it was when its release was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileChange {
    /// Below the release's directory.
    pub path: String,
    pub kind: FileChangeKind,
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.escape_debug();
        match self.kind {
            FileChangeKind::Contents => write!(f, "`{path}` has other contents"),
            FileChangeKind::Mode => write!(f, "`{path}` has another mode"),
            FileChangeKind::Missing => write!(f, "`{path}` is missing"),
            FileChangeKind::Added => write!(f, "`{path}` was added"),
        }
    }
}

/// Result of comparing the files of a release with its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseCheck {
    /// Whether the release has a manifest: one that an older switchman placed has none.
    pub has_manifest: bool,
    /// The first changes, by path; those that forbid a start before those that do not.
    pub changes: Vec<FileChange>,
    /// The number of all changes.
    pub total: u64,
}

impl ReleaseCheck {
    /// An answer of a host stays short.
    const MAX_CHANGES: usize = 100;

    /// `None`: the release has no manifest.
    pub fn new(changes: Option<Vec<FileChange>>) -> Self {
        let has_manifest = changes.is_some();
        let mut changes = changes.unwrap_or_default();
        let total = changes.len() as u64;
        changes.sort_by_key(|change| change.kind == FileChangeKind::Added);
        changes.truncate(Self::MAX_CHANGES);
        Self { has_manifest, changes, total }
    }

    /// Whether files that were placed are changed or missing: nothing is started from such a release.
    pub fn is_altered(&self) -> bool {
        self.changes.iter().any(|change| change.kind != FileChangeKind::Added)
    }

    /// Names the first changes that forbid a start.
    pub fn describe_changes(&self) -> String {
        let altered = |change: &&FileChange| change.kind != FileChangeKind::Added;
        let named: Vec<String> =
            self.changes.iter().filter(altered).take(3).map(ToString::to_string).collect();
        let more = self.changes.iter().filter(altered).count().saturating_sub(named.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        named.join(", ") + &more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_of_a_release_names_what_forbids_a_start_first() {
        let change = |path: &str, kind| FileChange { path: path.to_owned(), kind };
        let added: Vec<FileChange> =
            (0..200).map(|number| change(&format!("cache/{number}"), FileChangeKind::Added)).collect();
        let check = ReleaseCheck::new(Some(added.clone()));
        assert!(!check.is_altered() && check.changes.len() == 100 && check.total == 200);
        let mut changes = added;
        changes.push(change("lib/a\u{1b}[2J", FileChangeKind::Contents));
        changes.extend(["x", "y", "z"].map(|path| change(path, FileChangeKind::Missing)));
        let check = ReleaseCheck::new(Some(changes));
        assert!(check.is_altered());
        let text = r"`lib/a\u{1b}[2J` has other contents, `x` is missing, `y` is missing and 1 more";
        assert_eq!(check.describe_changes(), text);
        let unknown = ReleaseCheck::new(None);
        assert!(!unknown.is_altered() && !unknown.has_manifest);
    }

    #[test]
    fn release_name_accepts_only_safe_file_names() {
        for good in ["1.0.0", "2.1.0-rc.1+build.5", "1.0.0~12", "a"] {
            assert_eq!(check_release_name(good), Ok(()));
        }
        let long = "1".repeat(101);
        for bad in [
            "", ".", "..", ".hidden", "-rf", "~root", "a/b", "../x", "a b", "a\nb", "a_b", "１", "a\0", &long,
        ] {
            assert!(check_release_name(bad).is_err(), "{bad:?}");
        }
        let text = check_release_name("\x1b[2J").unwrap_err().to_string();
        assert!(text.starts_with(r"`\u{1b}[2J` is not a release"), "{text}");
    }
}
