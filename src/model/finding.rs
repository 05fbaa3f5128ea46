//! The findings of `check`, each with its fix.

use serde::Serialize;

/// How bad a finding is. `Problem` makes `check` exit 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing to fix.
    Note,
    /// Works today, bites on a bad day.
    Warning,
    /// Requests will be lost or the switch will not work.
    Problem,
}

/// A finding of `check`: subject, reason and fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Stable identifier, `kebab-case`, for scripts.
    pub id: &'static str,
    /// The subject of the finding: a file with line, a chain, a port, a host.
    pub subject: String,
    /// The reason: what was found and why it matters, in one or two sentences.
    pub reason: String,
    /// The fix; empty for `Ok`.
    pub fix: String,
}
