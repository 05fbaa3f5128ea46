//! What `check` found, and what to do about it.

use serde::Serialize;

/// How bad a finding is. `Problem` makes `check` exit 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing to mend.
    Note,
    /// Works today, bites on a bad day.
    Warning,
    /// Requests will be lost or the switch will not work.
    Problem,
}

/// One finding: where, what, why it matters, how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Stable identifier, `kebab-case`, for scripts.
    pub id: &'static str,
    /// What it is about: a file with line, a chain, a port, a host.
    pub subject: String,
    /// What was found and why it matters: one or two sentences.
    pub reason: String,
    /// What to do; empty for `Ok`.
    pub fix: String,
}
