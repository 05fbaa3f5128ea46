//! What `compare` found, for people: on a terminal, and as a page.

use std::fmt::Write as _;

use owo_colors::OwoColorize;

use super::{Render, table};
use crate::model::evidence::Kind;
use crate::plan::compare::{
    FieldFinding, Finding, LatencyFinding, Quantiles, Rate, Report, Verdict, count, reasons, share,
};

mod html;

pub use html::html;

/// Fields on a terminal; a page and JSON have them all.
const FIELDS: usize = 20;

impl Render {
    pub fn compared(&self, report: &Report) {
        if self.json {
            return self.document("comparison", report);
        }
        self.text(&text(report));
    }
}

fn text(report: &Report) -> String {
    let of = &report.of;
    let verdict = match report.verdict {
        Verdict::Same => "same".green().bold().to_string(),
        Verdict::Differs => "differs".red().bold().to_string(),
        Verdict::Insufficient => "insufficient".yellow().bold().to_string(),
    };
    let mut text = format!("{} {} beside main {}: {verdict}\n", of.service.bold(), of.shadow, of.main);
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<9} {value}");
        }
    };
    line("because", &report.reason);
    line("match", &matching(report));
    line("copies", &copies(report));
    for (name, counts) in lost(report) {
        line(name, &reasons(counts));
    }
    line("main", &harm(report));
    line("when", &when(report));
    for remark in &report.remarks {
        line("note", remark);
    }
    if !report.fields.is_empty() {
        let _ = write!(text, "\n{}", fields(report));
    }
    if !report.statuses.is_empty() {
        let row = |one: &crate::plan::compare::StatusCount| {
            vec![one.main.clone(), one.shadow.clone(), count(one.count)]
        };
        let rows = report.statuses.iter().map(row).collect();
        let _ = write!(text, "\n{}", table::table(&["MAIN", "SHADOW", "ANSWERS"], rows));
    }
    if let Some(latency) = &report.latency {
        let _ = write!(text, "\n{}", latencies(latency));
    }
    text
}

fn matching(report: &Report) -> String {
    let rate = &report.matching;
    if rate.of == 0 {
        return String::new();
    }
    format!("{} of {}, surely {}", share(rate), count(rate.of), interval(rate))
}

/// `12.3% to 14.1%`
fn interval(rate: &Rate) -> String {
    format!("{} to {}", percent(rate.low), percent(rate.high))
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

fn copies(report: &Report) -> String {
    let coverage = &report.coverage;
    format!(
        "{} begun, {} answered, {} compared, {} of them asked of main twice",
        count(coverage.selected),
        count(coverage.answered),
        count(coverage.compared),
        count(report.controls)
    )
}

fn lost(report: &Report) -> [(&'static str, &std::collections::BTreeMap<String, u64>); 4] {
    let coverage = &report.coverage;
    [
        ("dropped", &coverage.dropped),
        ("aborted", &coverage.aborted),
        ("failed", &coverage.failed),
        ("skipped", &coverage.skipped),
    ]
}

/// What users saw of main meanwhile.
fn harm(report: &Report) -> String {
    let harm = &report.harm;
    if harm.answers == 0 && harm.errors.is_empty() {
        return String::new();
    }
    let errors = if harm.errors.values().all(|count| *count == 0) {
        "none ended without an answer".to_owned()
    } else {
        format!("without an answer: {}", reasons(&harm.errors))
    };
    format!("{} answers to users, {} of them 5xx, {errors}", count(harm.answers), count(harm.server_errors))
}

fn when(report: &Report) -> String {
    match (report.since, report.until) {
        (Some(since), Some(until)) => format!("{since:.0} to {until:.0}"),
        _ => String::new(),
    }
}

fn fields(report: &Report) -> String {
    let row = |field: &FieldFinding| {
        let control = if field.control.of == 0 {
            "not asked".to_owned()
        } else {
            format!("{} of {}", count(field.control.part), count(field.control.of))
        };
        vec![
            field.field.clone(),
            finding(field.finding).to_owned(),
            format!("{} of {}", count(field.shadow.part), count(field.shadow.of)),
            interval(&field.shadow),
            control,
        ]
    };
    let rows = report.fields.iter().take(FIELDS).map(row).collect();
    let mut text = table::table(&["FIELD", "FINDING", "DIFFERS", "SURELY", "MAIN ITSELF"], rows);
    let shown = report.fields.len().min(FIELDS);
    if shown < report.fields.len() {
        let more = report.fields.len() - shown;
        let _ = writeln!(text, "and {more} more: see --html FILE or --output json");
    }
    let mut examples = report
        .fields
        .iter()
        .take(shown)
        .filter(|field| field.finding == Finding::Differs && !field.examples.is_empty())
        .peekable();
    if examples.peek().is_some() {
        text.push('\n');
    }
    for field in examples {
        for example in field.examples.iter().take(1) {
            let _ = writeln!(text, "{} ({}) in {}", field.field, kind(example.kind), example.request);
            let _ = writeln!(text, "  main    {}\n  shadow  {}", example.main, example.shadow);
        }
    }
    text
}

const fn finding(finding: Finding) -> &'static str {
    match finding {
        Finding::Differs => "differs",
        Finding::Noise => "noise",
        Finding::Ignored => "ignored",
    }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Value => "other value",
        Kind::Type => "other type",
        Kind::Missing => "missing",
        Kind::Extra => "extra",
        Kind::Length => "other length",
    }
}

fn latencies(latency: &LatencyFinding) -> String {
    let row = |name: &str, of: &Quantiles| {
        vec![name.to_owned(), ms(of.p50_us), ms(of.p90_us), ms(of.p99_us), ms(of.max_us)]
    };
    let ratio = vec!["ratio".into(), times(latency.p50_ratio), String::new(), times(latency.p99_ratio)];
    let rows = vec![row("main", &latency.main), row("shadow", &latency.shadow), ratio];
    let text = table::table(&["LATENCY", "P50", "P90", "P99", "MAX"], rows);
    format!("{text}{}\n", paired(latency))
}

/// One sentence about the same request to both.
fn paired(latency: &LatencyFinding) -> String {
    format!(
        "request by request the shadow takes {} (surely {} to {}), and is the slower one in {}",
        signed_ms(latency.median_difference_us),
        signed_ms(latency.low_us),
        signed_ms(latency.high_us),
        share(&latency.slower)
    )
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2}x")
}

fn ms(us: u64) -> String {
    format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
}

fn signed_ms(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "+" };
    format!("{sign}{}", ms(us.unsigned_abs()))
}

#[cfg(test)]
mod tests;
