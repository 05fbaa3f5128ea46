//! The findings of `check`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use owo_colors::OwoColorize;

use super::renderer::Renderer;
use crate::model::finding::{Finding, Severity};

impl Renderer {
    pub fn print_findings(&self, findings: &[Finding]) {
        self.print("findings", &BTreeMap::from([("findings", findings)]), || format_findings(findings));
    }
}

pub(super) fn format_findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.severity {
            Severity::Ok => "ok      ".green().to_string(),
            Severity::Note => "note    ".to_string(),
            Severity::Warning => "warning ".yellow().to_string(),
            Severity::Problem => "problem ".red().bold().to_string(),
        };
        let _ = writeln!(text, "{mark} {}: {}", finding.subject.bold(), finding.reason);
        if !finding.fix.is_empty() {
            let _ = writeln!(text, "         fix: {}  [{}]", finding.fix, finding.id);
        }
    }
    text
}
