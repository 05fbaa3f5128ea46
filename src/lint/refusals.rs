//! Files that HAProxy does not start with: the finding, and what is wrong with a file as a whole.

use super::cfg::{ParsedCfg, Section};
use super::conditions::{list_variants, split_directive};
use super::report::LintReport;
use super::source::HaproxyCfg;
use super::words::{Environment, split_words};
use crate::model::finding::Severity::{Problem, Warning};

pub(super) fn report_refusal(line: usize, reason: &str, report: &mut LintReport<'_>) {
    report.add(
        Problem,
        "haproxy-refused",
        line,
        format!("HAProxy does not start with this: {reason}"),
        "correct the line; `haproxy -c -f FILE` prints what HAProxy reads",
    );
}

/// The words before the `(` of `.if` (configuration manual, 2.4).
const PREDICATES: [&str; 14] = [
    "awslc_api_atleast",
    "awslc_api_before",
    "defined",
    "enabled",
    "feature",
    "openssl_version_atleast",
    "openssl_version_before",
    "ssllib_name_startswith",
    "streq",
    "strneq",
    "strstr",
    "version_atleast",
    "version_before",
    "false",
];

/// Whether HAProxy can read a condition. With variables and quotes it is not known here.
fn is_condition(text: &str) -> bool {
    if text.contains(['$', '"', '\'', '\\']) {
        return true;
    }
    let text = text.split(" #").next().unwrap_or_default();
    text.split("&&").flat_map(|text| text.split("||")).all(|part| {
        let term = part.trim_matches(|c: char| c.is_whitespace() || "!()".contains(c));
        let name = term.split('(').next().unwrap_or_default();
        PREDICATES.contains(&name) || ["", "true"].contains(&name) || name.parse::<i64>().is_ok()
    })
}

/// Reports what is wrong with each file by itself; `starts` are the numbers of their first lines.
pub(super) fn lint_files(source: &HaproxyCfg, starts: &[usize], report: &mut LintReport<'_>) {
    for (file, start) in source.files.iter().zip(starts) {
        // Conditions do not go on in the next file.
        let lines: Vec<&str> = file.text.lines().collect();
        if let Some(at) = list_variants(&lines).unbalanced {
            report_refusal(start + at, "`.if` and `.endif` do not match", report);
        }
        for (at, line) in lines.iter().enumerate() {
            // HAProxy splits the lines of every branch, also of one that it does not take.
            if let Some(fault) = split_words(line, &mut Environment::default()).fault {
                report_refusal(start + at, fault, report);
            }
            if let Some((".if" | ".elif", condition)) = split_directive(line)
                && !is_condition(condition)
            {
                report_refusal(start + at, &format!("`{}` is no condition", condition.trim()), report);
            }
        }
        if file.has_byte_order_mark {
            report_refusal(*start, "the byte order mark is taken for a part of the first word", report);
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            let last = start + lines.len().saturating_sub(1);
            report_refusal(
                last,
                "the last line has no line break, so HAProxy takes the file for truncated",
                report,
            );
        }
    }
}

/// Reports a frontend and a backend of one name, with which only older HAProxies start.
pub(super) fn lint_shared_names(cfg: &ParsedCfg, report: &mut LintReport<'_>) {
    for frontend in cfg.proxies().filter(|section| section.kind == "frontend") {
        if cfg.find("backend", &frontend.name).is_some() {
            report.add(
                Warning,
                "haproxy-shared-name",
                frontend.number,
                format!(
                    "a frontend and a backend are called `{}`: HAProxy 3.3 and later do not start with this",
                    frontend.name
                ),
                "give the frontend another name",
            );
        }
    }
}

/// Reports files in which no section listens. Sections of several files count together.
pub(super) fn lint_listeners(cfg: &ParsedCfg, report: &mut LintReport<'_>) {
    let listens = |section: &Section| section.lines.iter().any(|line| line.word(0) == Some("bind"));
    let has_socket =
        cfg.find_first("global").is_some_and(|global| global.find_all(&["stats", "socket"]).next().is_some());
    let has_other = has_socket || ["log-forward", "peers"].iter().any(|kind| cfg.find_first(kind).is_some());
    if !cfg.proxies().any(listens) && !has_other {
        report_refusal(0, "no section has a `bind` line; give all files that HAProxy reads", report);
    }
}
