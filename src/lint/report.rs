//! The findings so far, for the checks to add to.

use crate::model::finding::{Finding, Severity};

/// Collects findings; line 0 is the file as a whole.
pub(super) struct LintReport<'a> {
    file: &'a str,
    findings: Vec<Finding>,
}

impl<'a> LintReport<'a> {
    pub(super) const fn new(file: &'a str) -> Self {
        Self { file, findings: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        id: &'static str,
        line: usize,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let subject = if line == 0 { self.file.to_owned() } else { format!("{}:{line}", self.file) };
        self.findings.push(Finding { severity, id, subject, reason: reason.into(), fix: fix.into() });
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}
