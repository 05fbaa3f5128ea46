//! The findings so far, for the checks to add to.

use super::source::LineMap;
use crate::model::finding::{Finding, Severity};

/// Collects findings, each of them once; line 0 is the configuration as a whole.
pub(super) struct LintReport<'a> {
    lines: &'a LineMap,
    findings: Vec<Finding>,
}

impl<'a> LintReport<'a> {
    pub(super) const fn new(lines: &'a LineMap) -> Self {
        Self { lines, findings: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        id: &'static str,
        line: usize,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let subject = self.lines.describe(line);
        let finding = Finding { severity, id, subject, reason: reason.into(), fix: fix.into() };
        // Several services, balancers and branches of conditions share lines.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// The number of problems so far.
    pub(super) fn count_problems(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Problem).count()
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}
