//! What is wrong with a configuration, and where.

use std::path::{Path, PathBuf};

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot find `switchman.yaml`: neither this directory nor /etc/switchman has one")]
    NotFound,
    #[error("cannot read `{file}`: {reason}")]
    ReadFailed { file: PathBuf, reason: String },
    #[error("cannot use the configuration: {}:{line}: {}{problem}", .file.display(), .key.as_ref().map(|key| format!("`{key}`: ")).unwrap_or_default())]
    Invalid { file: PathBuf, line: u64, key: Option<String>, problem: ConfigProblem },
    /// `path`: the file itself, a directory above it, or a file that one of its hooks or ssh options names.
    #[error("cannot use the configuration `{}` as root: `{}` {problem}", .file.display(), .path.display())]
    Untrusted { file: PathBuf, path: PathBuf, problem: UntrustedPath },
}

/// Why another user could change what root obeys. Names of a user or a group, or `uid N` and `gid N` where they have none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UntrustedPath {
    #[error("is owned by {0}")]
    OwnedBy(String),
    #[error("is writable for the group {0}")]
    WritableByGroup(String),
    #[error("is writable for every user")]
    WritableByAll,
}

/// A fault of one value: the error names it and the right form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    #[error("unknown key `{found}`, expected one of {}{}", join_words(.expected), suggest_word(found, .expected))]
    UnknownKey { found: String, expected: Vec<String> },
    #[error("the key `{missing}` is missing")]
    MissingKey { missing: String },
    #[error("the key `{key}` appears twice")]
    DoubleKey { key: String },
    #[error("unknown value `{found}`, expected one of {}{}", join_words(.expected), suggest_word(found, .expected))]
    UnknownValue { found: String, expected: Vec<String> },
    #[error("found {found}, expected {expected}")]
    WrongValue { found: String, expected: String },
    #[error("{0}")]
    Other(String),
}

/// A problem at a place in the configuration; the caller that knows the file adds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Counted from 1.
    pub line: u64,
    /// Path of keys, such as `hosts.web1.address`.
    pub key: Option<String>,
    pub problem: ConfigProblem,
}

impl ConfigFault {
    pub(super) fn in_file(self, file: &Path) -> ConfigError {
        ConfigError::Invalid { file: file.to_owned(), line: self.line, key: self.key, problem: self.problem }
    }
}

fn join_words(words: &[String]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Suggests the nearest expected word, if it is near enough to be the intended one.
fn suggest_word(found: &str, expected: &[String]) -> String {
    let nearest = expected
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(found, a).total_cmp(&strsim::jaro_winkler(found, b)));
    match nearest {
        Some(word) if strsim::jaro_winkler(found, word) > 0.75 => format!("; did you mean `{word}`?"),
        _ => String::new(),
    }
}
