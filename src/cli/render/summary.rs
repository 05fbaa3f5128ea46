//! The result of a roll as Markdown, for the page of a CI job.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::renderer::Renderer;
use super::roll::format_host_row;
use crate::error::Failure;
use crate::model::duration::format;
use crate::model::name::HostName;
use crate::model::plural::Count;
use crate::plan::roll::progress::{RollProgress, StepState};

/// Hosts in the table. GitHub shows a step's summary of at most 1 MiB.
const MAX_ROWS: usize = 1000;
/// Characters of a cell, and of a line of output.
const MAX_CELL_CHARS: usize = 300;
/// Failed hosts whose output is shown.
const MAX_OUTPUTS: usize = 5;

/// The lines of a roll's summary.
pub struct RollSummary<'a> {
    /// `None` if no roll began, or its journal cannot be read.
    pub progress: Option<&'a RollProgress>,
    /// The last lines that the command wrote for each host.
    pub outputs: &'a BTreeMap<HostName, Vec<String>>,
    pub failure: Option<&'a Failure>,
    /// The outcome where there is neither a roll nor a failure.
    pub remark: &'a str,
}

impl Renderer {
    pub fn format_roll_summary(&self, summary: &RollSummary<'_>) -> String {
        let mut text = String::new();
        let verdict = match (summary.failure, summary.progress.and_then(|progress| progress.result)) {
            (_, Some(result)) => result.to_string(),
            (Some(_), None) => "failed".to_owned(),
            (None, None) => "nothing to do".to_owned(),
        };
        let _ = writeln!(text, "### switchman roll: {verdict}\n");
        if let Some(progress) = summary.progress {
            self.write_roll(&mut text, progress);
        } else if summary.failure.is_none() {
            let _ = writeln!(text, "{}\n", escape(summary.remark));
        }
        if let Some(failure) = summary.failure {
            let _ = writeln!(text, "**error:** {}\n", escape(&failure.to_string()));
            let _ = writeln!(text, "**next:** {}\n", escape(&failure.hint()));
        }
        let failed = summary.progress.map(list_failed_hosts).unwrap_or_default();
        for host in failed.into_iter().take(MAX_OUTPUTS) {
            if let Some(lines) = summary.outputs.get(host).filter(|lines| !lines.is_empty()) {
                let _ = writeln!(text, "The last output for {}:\n\n{}", escape(host.as_str()), fence(lines));
            }
        }
        text
    }

    fn write_roll(&self, text: &mut String, progress: &RollProgress) {
        let took = progress.changed_at.duration_since(progress.began_at);
        // Entries of an earlier version have no machine.
        let machine = Some(escape(&progress.actor.machine)).filter(|machine| !machine.is_empty());
        let machine = machine.map(|machine| format!(" on {machine}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "`{}` of {} by {}{}, began at {}, took {}: {} of {} done.\n\nCommand: {}\n",
            progress.roll,
            escape(progress.spec.service.as_str()),
            escape(&progress.actor.user),
            machine,
            self.time_format.format(progress.began_at),
            format(std::time::Duration::try_from(took).unwrap_or_default()),
            progress.count_done(),
            Count(progress.hosts.len(), "host"),
            code_span(&progress.spec.format_command()),
        );
        text.push_str("| Host | State | Step | Took | Detail | Next |\n|---|---|---|---|---|---|\n");
        let unfinished = !progress.is_finished();
        // Those that need attention come first where not all have room.
        let mut hosts: Vec<_> = progress.hosts.iter().collect();
        if hosts.len() > MAX_ROWS {
            hosts.sort_by_key(|host| host.state == StepState::Done);
        }
        for host in hosts.iter().take(MAX_ROWS) {
            let row = format_host_row(host, &progress.spec.work, unfinished, &self.service_flag);
            let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        if let Some(left_out) = hosts.len().checked_sub(MAX_ROWS).filter(|left_out| *left_out > 0) {
            let _ = writeln!(
                text,
                "\nand {}: `switchman roll --status` shows every host",
                Count(left_out, "more host")
            );
        }
        text.push('\n');
    }
}

fn list_failed_hosts(progress: &RollProgress) -> Vec<&HostName> {
    progress.hosts.iter().filter(|host| host.state == StepState::Failed).map(|host| &host.host).collect()
}

/// Makes one line without control characters, and without those that change the direction of text.
fn clean(text: &str) -> String {
    let is_hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let mut cleaned: String = text
        .chars()
        .filter(|c| !is_hidden(*c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_CELL_CHARS + 1)
        .collect();
    if let Some((end, _)) = cleaned.char_indices().nth(MAX_CELL_CHARS) {
        cleaned.truncate(end);
        cleaned.push_str("...");
    }
    cleaned
}

/// Makes text that Markdown and HTML show as it is, also in a cell of a table.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' | '$' => {
                escaped.push('\\');
                escaped.push(c);
            }
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Returns the length of the longest run of backticks.
fn longest_backticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

fn code_span(text: &str) -> String {
    let text = clean(text);
    let ticks = "`".repeat(longest_backticks(&text) + 1);
    // A blank is removed on each side, and a backtick there would end the span.
    if text.starts_with('`') || text.ends_with('`') {
        format!("{ticks} {text} {ticks}")
    } else {
        format!("{ticks}{text}{ticks}")
    }
}

/// A block of code whose fence is longer than any in it.
fn fence(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| clean(line)).collect();
    let longest = lines.iter().map(|line| longest_backticks(line)).max().unwrap_or(0);
    let ticks = "`".repeat((longest + 1).max(3));
    format!("{ticks}text\n{}\n{ticks}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::TimeFormat;
    use crate::model::example;
    use crate::model::journal::{HostOutcome, RollEntryKind};
    use crate::model::roll::Step;
    use crate::plan::roll::progress::build_progress;

    fn render(summary: &RollSummary<'_>) -> String {
        Renderer::new(false, true, TimeFormat::default(), None).format_roll_summary(summary)
    }

    fn failed_roll(reason: &str) -> RollProgress {
        let failed = RollEntryKind::StepFailed { step: Step::Command, reason: reason.to_owned() };
        let settled = RollEntryKind::Settled { end: HostOutcome::Restored, detail: String::new() };
        let stopped = RollEntryKind::Stopped { reason: "1 failed, at most 0 may".to_owned() };
        let entries = vec![
            (Some("web1"), RollEntryKind::Done),
            (Some("web2"), failed),
            (Some("web2"), settled),
            (None, stopped),
        ];
        build_progress(&example::make_roll_entries(&["web1", "web2"], 0, entries)).unwrap()
    }

    #[test]
    fn summary_has_every_host_the_error_and_the_last_output() {
        let progress = failed_roll("no disk left");
        let outputs = BTreeMap::from([
            ("web1".parse().unwrap(), vec!["fine".to_owned()]),
            ("web2".parse().unwrap(), vec!["one".to_owned(), "no disk left".to_owned()]),
        ]);
        let failure = Failure::Interrupted;
        let summary =
            RollSummary { progress: Some(&progress), outputs: &outputs, failure: Some(&failure), remark: "" };
        let text = render(&summary);
        assert!(text.starts_with("### switchman roll: failed\n\n`r2026"), "{text}");
        assert!(text.contains("\n| web1 | done | "), "{text}");
        assert!(text.contains("\n| web2 | failed, returned | command | "), "{text}");
        assert!(text.contains("1 of 2 hosts done."), "{text}");
        assert!(text.contains("\n**error:** cannot finish the command"), "{text}");
        assert!(text.contains("\n**next:** "), "{text}");
        assert!(text.contains("The last output for web2:\n\n```text\none\nno disk left\n```\n"), "{text}");
        assert!(!text.contains("fine"), "{text}");
    }

    /// The output of a command may be anything.
    #[test]
    fn output_cannot_leave_its_place_in_the_page() {
        let progress = failed_roll("a | b\n| c | <img src=x> `x` **y** \u{1b}[31m\u{202e}");
        let lines = ["```", "````sh", "<script>", "\u{1b}[2J\u{7}"].map(str::to_owned).to_vec();
        let outputs = BTreeMap::from([("web2".parse().unwrap(), lines)]);
        let summary = RollSummary { progress: Some(&progress), outputs: &outputs, failure: None, remark: "" };
        let text = render(&summary);
        let row = text.lines().find(|line| line.starts_with("| web2")).unwrap();
        assert!(row.contains(r"a \| b \| c \| &lt;img src=x&gt; \`x\` \*\*y\*\*"), "{row}");
        let columns = row.replace(r"\|", "").matches('|').count();
        assert_eq!(columns, 7, "{row}");
        assert!(text.contains("\n`````text\n```\n````sh\n<script>\n"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text}");
    }

    #[test]
    fn code_span_is_longer_than_the_backticks_in_it() {
        assert_eq!(code_span("./deploy.sh v1"), "`./deploy.sh v1`");
        assert_eq!(code_span("a `` b"), "```a `` b```");
        assert_eq!(code_span("`a`"), "`` `a` ``");
    }

    #[test]
    fn summary_of_a_thousand_hosts_fits_on_the_page() {
        let names: Vec<String> = (0..3000).map(|number| format!("web{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let reason = "x".repeat(10_000);
        let failed =
            |name| (Some(name), RollEntryKind::StepFailed { step: Step::Command, reason: reason.clone() });
        let entries = names.iter().copied().map(failed).collect();
        let progress = build_progress(&example::make_roll_entries(&names, 0, entries)).unwrap();
        let outputs = names.iter().map(|name| (name.parse().unwrap(), vec![reason.clone(); 20])).collect();
        let summary = RollSummary { progress: Some(&progress), outputs: &outputs, failure: None, remark: "" };
        let text = render(&summary);
        assert!(text.len() < 1024 * 1024, "{}", text.len());
        assert!(text.contains("and 2000 more hosts"));
    }
}
