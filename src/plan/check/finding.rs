//! Constructors of findings.

use crate::model::finding::{Finding, Severity};

pub fn build_finding(
    severity: Severity,
    id: &'static str,
    subject: &str,
    reason: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    Finding { severity, id, subject: subject.to_owned(), reason: reason.into(), fix: fix.into() }
}

pub fn build_problem(
    id: &'static str,
    subject: &str,
    reason: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    build_finding(Severity::Problem, id, subject, reason, fix)
}

pub fn build_warning(
    id: &'static str,
    subject: &str,
    reason: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    build_finding(Severity::Warning, id, subject, reason, fix)
}

pub fn build_note(
    id: &'static str,
    subject: &str,
    reason: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    build_finding(Severity::Note, id, subject, reason, fix)
}

pub fn build_ok(id: &'static str, subject: &str, reason: impl Into<String>) -> Finding {
    build_finding(Severity::Ok, id, subject, reason, "")
}
