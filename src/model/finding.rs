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

#[cfg(test)]
pub(crate) mod samples {
    //! The snapshot of findings: the worst sample of every id, with its fix.

    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Write as _;
    use std::path::Path;

    use super::{Finding, Severity};

    /// What makes a finding in the source; its id is the first string literal after it.
    const MAKERS: [&str; 4] = ["build_problem(", "build_ok(", "build_finding(", "report.add("];

    /// Reads the ids of all findings that the files of these directories can make.
    fn read_ids(path: &Path, ids: &mut BTreeSet<String>) {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                read_ids(&entry.unwrap().path(), ids);
            }
            return;
        }
        let source = std::fs::read_to_string(path).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for maker in MAKERS {
            let calls = code.split(maker).skip(1);
            let literals = calls.filter_map(|call| call.split('"').nth(1));
            let is_id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let ids_of_calls = literals.filter(|id| !id.is_empty() && id.chars().all(is_id));
            ids.extend(ids_of_calls.map(str::to_owned));
        }
    }

    /// Fails when a finding has no sample, no fix, or another wording than the snapshot.
    pub(crate) fn assert_snapshot(name: &str, findings: &[Finding], sources: &[&str]) {
        let mut worst: BTreeMap<&str, &Finding> = BTreeMap::new();
        for finding in findings {
            let sample = worst.entry(finding.id).or_insert(finding);
            if finding.severity > sample.severity {
                *sample = finding;
            }
        }
        let mut ids = BTreeSet::new();
        for source in sources {
            read_ids(&Path::new(env!("CARGO_MANIFEST_DIR")).join(source), &mut ids);
        }
        let missing: Vec<&String> = ids.iter().filter(|id| !worst.contains_key(id.as_str())).collect();
        assert!(missing.is_empty(), "findings without a sample: {missing:?}");
        let mut text = String::new();
        for (id, Finding { severity, subject, reason, fix, .. }) in worst {
            let word = format!("{severity:?}").to_lowercase();
            let _ = writeln!(text, "{word} {subject}: {reason}");
            assert_eq!(fix.is_empty(), *severity == Severity::Ok, "{id}: {fix}");
            if !fix.is_empty() {
                let _ = writeln!(text, " fix: {fix}");
            }
            let _ = writeln!(text, " [{id}]\n");
        }
        crate::snapshot::assert_snapshot(name, &format!("{}\n", text.trim_end()));
    }
}
