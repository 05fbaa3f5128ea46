//! The findings of `compare`, for people: on a terminal, and as a page.

use std::fmt::Write as _;

use owo_colors::OwoColorize;

use super::renderer::Renderer;
use super::table;
use super::time_format::TimeFormat;
use crate::model::evidence::DifferenceKind;
use crate::model::plural::Count;
use crate::plan::compare::{
    ComparisonReport, ComparisonVerdict, FieldFinding, FieldVerdict, LatencyFinding, Quantiles, Rate, count,
    format_reasons, format_share,
};

mod html;

pub use html::format_html_page;

/// Fields on a terminal; a page and JSON have them all.
const MAX_FIELDS_SHOWN: usize = 20;

impl Renderer {
    pub fn print_comparison(&self, report: &ComparisonReport) {
        self.print("comparison", report, || format_comparison(report, self.time_format));
    }
}

fn format_comparison(report: &ComparisonReport, time: TimeFormat) -> String {
    let versions = &report.of;
    let verdict = match report.verdict {
        ComparisonVerdict::Same => "same".green().bold().to_string(),
        ComparisonVerdict::Differs => "differs".red().bold().to_string(),
        ComparisonVerdict::Insufficient => "insufficient".yellow().bold().to_string(),
    };
    let mut text =
        format!("{} {} beside main {}: {verdict}\n", versions.service.bold(), versions.shadow, versions.main);
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<9} {value}");
        }
    };
    line("because", &report.reason);
    line("headers", &report.headers_compared);
    line("match", &format_match(report));
    line("copies", &format_copies(report));
    for (name, counts) in list_lost_copies(report) {
        line(name, &format_reasons(counts));
    }
    line("main", &format_main_impact(report));
    line("when", &format_period(report, time));
    for remark in &report.remarks {
        line("note", remark);
    }
    if !report.fields.is_empty() {
        let _ = write!(text, "\n{}", format_fields(report));
    }
    if !report.statuses.is_empty() {
        let row = |one: &crate::plan::compare::StatusCount| {
            vec![one.main.clone(), one.shadow.clone(), count(one.count)]
        };
        let rows = report.statuses.iter().map(row).collect();
        let _ = write!(text, "\n{}", table::format_table(&["MAIN", "SHADOW", "ANSWERS"], rows));
    }
    if let Some(latency) = &report.latency {
        let _ = write!(text, "\n{}", format_latencies(latency));
    }
    text
}

fn format_match(report: &ComparisonReport) -> String {
    let rate = &report.matching;
    if rate.of == 0 {
        return String::new();
    }
    format!("{} of {}, surely {}", format_share(rate), count(rate.of), format_interval(rate))
}

/// `12.3% to 14.1%`
fn format_interval(rate: &Rate) -> String {
    format!("{} to {}", format_percent(rate.low), format_percent(rate.high))
}

fn format_percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

fn format_copies(report: &ComparisonReport) -> String {
    let coverage = &report.coverage;
    format!(
        "{} begun, {} answered, {} compared, {} of them sent to main twice",
        count(coverage.selected),
        count(coverage.answered),
        count(coverage.compared),
        count(report.controls)
    )
}

fn list_lost_copies(
    report: &ComparisonReport,
) -> [(&'static str, &std::collections::BTreeMap<String, u64>); 4] {
    let coverage = &report.coverage;
    [
        ("dropped", &coverage.dropped),
        ("aborted", &coverage.aborted),
        ("failed", &coverage.failed),
        ("skipped", &coverage.skipped),
    ]
}

/// Main's answers to users over the same period.
fn format_main_impact(report: &ComparisonReport) -> String {
    let harm = &report.harm;
    if harm.answers == 0 && harm.errors.is_empty() {
        return String::new();
    }
    let errors = if harm.errors.values().all(|count| *count == 0) {
        "none ended without an answer".to_owned()
    } else {
        format!("without an answer: {}", format_reasons(&harm.errors))
    };
    format!(
        "{} to users, {} of them 5xx, {errors}",
        Count(count(harm.answers), "answer"),
        count(harm.server_errors)
    )
}

fn format_period(report: &ComparisonReport, time: TimeFormat) -> String {
    match (report.since, report.until) {
        (Some(since), Some(until)) => format!("{} to {}", time.format(since), time.format(until)),
        _ => String::new(),
    }
}

fn format_fields(report: &ComparisonReport) -> String {
    let row = |field: &FieldFinding| {
        let control = if field.control.of == 0 {
            "not sent".to_owned()
        } else {
            format!("{} of {}", count(field.control.part), count(field.control.of))
        };
        vec![
            field.field.clone(),
            describe_finding(field.verdict).to_owned(),
            format!("{} of {}", count(field.shadow.part), count(field.shadow.of)),
            format_interval(&field.shadow),
            control,
        ]
    };
    let rows = report.fields.iter().take(MAX_FIELDS_SHOWN).map(row).collect();
    let mut text = table::format_table(&["FIELD", "FINDING", "DIFFERS", "SURELY", "MAIN ITSELF"], rows);
    let shown = report.fields.len().min(MAX_FIELDS_SHOWN);
    if shown < report.fields.len() {
        let more = report.fields.len() - shown;
        let _ = writeln!(text, "and {more} more: see --html FILE or --output json");
    }
    let mut examples = report
        .fields
        .iter()
        .take(shown)
        .filter(|field| field.verdict == FieldVerdict::Differs && !field.examples.is_empty())
        .peekable();
    if examples.peek().is_some() {
        text.push('\n');
    }
    for field in examples {
        for example in field.examples.iter().take(1) {
            let _ =
                writeln!(text, "{} ({}) in {}", field.field, describe_kind(example.kind), example.request);
            let _ = writeln!(text, "  main    {}\n  shadow  {}", example.main, example.shadow);
        }
    }
    text
}

const fn describe_finding(finding: FieldVerdict) -> &'static str {
    match finding {
        FieldVerdict::Differs => "differs",
        FieldVerdict::Noise => "noise",
        FieldVerdict::Ignored => "ignored",
        FieldVerdict::LeftOut => "not compared",
    }
}

const fn describe_kind(kind: DifferenceKind) -> &'static str {
    match kind {
        DifferenceKind::Value => "other value",
        DifferenceKind::Type => "other type",
        DifferenceKind::Missing => "missing",
        DifferenceKind::Extra => "extra",
        DifferenceKind::Length => "other length",
    }
}

fn format_latencies(latency: &LatencyFinding) -> String {
    let row = |name: &str, quantiles: &Quantiles| {
        vec![
            name.to_owned(),
            format_ms(quantiles.p50_us),
            format_ms(quantiles.p90_us),
            format_ms(quantiles.p99_us),
            format_ms(quantiles.max_us),
        ]
    };
    let ratio =
        vec!["ratio".into(), format_ratio(latency.p50_ratio), String::new(), format_ratio(latency.p99_ratio)];
    let rows = vec![row("main", &latency.main), row("shadow", &latency.shadow), ratio];
    let text = table::format_table(&["LATENCY", "P50", "P90", "P99", "MAX"], rows);
    format!("{text}{}\n", format_paired_latency(latency))
}

/// Returns a sentence that compares the latency of the same requests to both.
fn format_paired_latency(latency: &LatencyFinding) -> String {
    format!(
        "request by request the shadow takes {} (surely {} to {}), and is the slower one in {}",
        format_signed_ms(latency.median_difference_us),
        format_signed_ms(latency.low_us),
        format_signed_ms(latency.high_us),
        format_share(&latency.slower_requests)
    )
}

fn format_ratio(ratio: f64) -> String {
    format!("{ratio:.2}x")
}

fn format_ms(us: u64) -> String {
    format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
}

fn format_signed_ms(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "+" };
    format!("{sign}{}", format_ms(us.unsigned_abs()))
}

#[cfg(test)]
mod tests;
