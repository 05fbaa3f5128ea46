//! The report as one page: no scripts, no external resources, and no markup from an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{
    ComparisonReport, describe_finding, describe_kind, format_interval, format_main_impact, format_match,
    format_ms, format_paired_latency, format_percent, format_period, format_ratio, format_reasons,
    list_lost_copies,
};
use crate::cli::render::time_format::TimeFormat;
use crate::model::plural::Count;
use crate::plan::compare::{
    ComparisonVerdict, FieldFinding, FieldVerdict, LatencyFinding, Quantiles, Rate, count,
};

const STYLE: &str = "\
:root{color-scheme:light dark;--bad:#b3261e;--good:#1b6e3c;--warn:#8a5a00;--line:#8884;--soft:#8881}\
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--good:#7fd99f;--warn:#ffc766}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
.same{color:var(--good)}.differs{color:var(--bad)}.insufficient{color:var(--warn)}\
table{border-collapse:collapse;width:100%}div.wide{overflow-x:auto}\
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}\
td.number{text-align:right;font-variant-numeric:tabular-nums}\
td.diagonal{background:var(--soft)}td.off{color:var(--bad);font-weight:600}\
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}\
.bar{position:relative;width:8rem;height:.7rem;background:var(--soft);margin-top:.4rem}\
.bar i{position:absolute;top:0;bottom:0;min-width:2px;background:currentColor;opacity:.35}\
.bar b{position:absolute;top:0;bottom:0;width:2px;background:currentColor}\
details{margin:.25rem 0}summary{cursor:pointer}\
";

/// Formats a self-contained page, for a browser or an attachment.
pub fn format_html_page(report: &ComparisonReport) -> String {
    let versions = &report.of;
    let title = escape(&format!("{}: {} beside {}", versions.service, versions.shadow, versions.main));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n"
    );
    let verdict = report.verdict;
    let _ = writeln!(
        page,
        "<h1>{} <strong>{}</strong> beside main {}: <span class=\"{verdict}\">{verdict}</span></h1>",
        escape(versions.service.as_str()),
        escape(&versions.shadow.to_string()),
        escape(&versions.main.to_string())
    );
    let _ = writeln!(page, "<p>{}.</p>", escape(&report.reason));
    let mut line = |text: &str| {
        if !text.is_empty() {
            let _ = writeln!(page, "<p>{}</p>", escape(text));
        }
    };
    line(&format_match(report));
    line(&format_period(report, TimeFormat::Iso8601));
    report.remarks.iter().for_each(|remark| line(remark));
    write_fields(&mut page, report);
    write_statuses(&mut page, report);
    if let Some(latency) = &report.latency {
        write_latencies(&mut page, latency);
    }
    write_coverage(&mut page, report);
    page.push_str("</body>\n</html>\n");
    page
}

/// Escapes text, also for attributes in double quotes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// `cells` is HTML already.
fn write_table(page: &mut String, header: &[&str], rows: impl IntoIterator<Item = String>) {
    page.push_str("<div class=\"wide\"><table>\n<tr>");
    for name in header {
        let _ = write!(page, "<th>{}</th>", escape(name));
    }
    page.push_str("</tr>\n");
    for row in rows {
        let _ = writeln!(page, "<tr>{row}</tr>");
    }
    page.push_str("</table></div>\n");
}

fn format_cell(text: &str) -> String {
    format!("<td>{}</td>", escape(text))
}

fn format_number_cell(text: &str) -> String {
    format!("<td class=\"number\">{}</td>", escape(text))
}

/// A share and its interval as a bar.
fn format_rate_bar(rate: &Rate) -> String {
    let width = rate.high - rate.low;
    format!(
        "<td>{}<div class=\"bar\"><i style=\"left:{};width:{}\"></i><b style=\"left:{}\"></b></div></td>",
        escape(&format_interval(rate)),
        format_percent(rate.low),
        format_percent(width),
        format_percent(rate.share)
    )
}

fn write_fields(page: &mut String, report: &ComparisonReport) {
    let _ = writeln!(page, "<h2>Fields</h2>\n<p>Compared: {}.</p>", Count(report.fields_compared, "field"));
    if report.fields.is_empty() {
        return;
    }
    write_table(
        page,
        &["Field", "Finding", "Differs", "Surely", "Main itself", "Examples"],
        report.fields.iter().map(format_field_row),
    );
}

fn format_field_row(field: &FieldFinding) -> String {
    let class = if field.verdict == FieldVerdict::Differs {
        ComparisonVerdict::Differs.to_string()
    } else {
        String::new()
    };
    let format_part = |rate: &Rate| format!("{} of {}", count(rate.part), count(rate.of));
    let control = if field.control.of == 0 {
        "not sent".to_owned()
    } else {
        format!("{}, {}", format_part(&field.control), format_interval(&field.control))
    };
    format!(
        "<td><code>{}</code></td><td class=\"{class}\">{}</td>{}{}{}<td>{}</td>",
        escape(&field.field),
        describe_finding(field.verdict),
        format_number_cell(&format_part(&field.shadow)),
        format_rate_bar(&field.shadow),
        format_cell(&control),
        format_examples(field)
    )
}

fn format_examples(field: &FieldFinding) -> String {
    let mut text = String::new();
    for one in &field.examples {
        let _ = write!(
            text,
            "<details><summary>{}, {:.0}</summary><code>{}</code><br>main <code>{}</code><br>shadow <code>{}</code></details>",
            describe_kind(one.kind),
            one.at,
            escape(&one.request),
            escape(&one.main),
            escape(&one.shadow)
        );
    }
    text
}

/// Main's statuses down, the shadow's across.
fn write_statuses(page: &mut String, report: &ComparisonReport) {
    if report.statuses.is_empty() {
        return;
    }
    page.push_str("<h2>Statuses</h2>\n");
    let rows: BTreeSet<&str> = report.statuses.iter().map(|one| one.main.as_str()).collect();
    let columns: BTreeSet<&str> = report.statuses.iter().map(|one| one.shadow.as_str()).collect();
    let counts: BTreeMap<(&str, &str), u64> =
        report.statuses.iter().map(|one| ((one.main.as_str(), one.shadow.as_str()), one.count)).collect();
    let header: Vec<&str> = std::iter::once("main / shadow").chain(columns.iter().copied()).collect();
    let row = |main: &&str| {
        let one = |shadow: &&str| {
            let found = counts.get(&(*main, *shadow));
            let class = match found {
                _ if main == shadow => "number diagonal",
                Some(_) => "number off",
                None => "number",
            };
            format!("<td class=\"{class}\">{}</td>", found.map_or_else(String::new, |found| count(*found)))
        };
        format_cell(main) + &columns.iter().map(one).collect::<String>()
    };
    write_table(page, &header, rows.iter().map(row));
}

fn write_latencies(page: &mut String, latency: &LatencyFinding) {
    page.push_str("<h2>Latency</h2>\n");
    let row = |name: &str, quantiles: &Quantiles| {
        let values = [quantiles.p50_us, quantiles.p90_us, quantiles.p99_us, quantiles.max_us];
        format_cell(name) + &values.iter().map(|us| format_number_cell(&format_ms(*us))).collect::<String>()
    };
    let ratios =
        [format_ratio(latency.p50_ratio), String::new(), format_ratio(latency.p99_ratio), String::new()];
    let ratios =
        format_cell("ratio") + &ratios.iter().map(|ratio| format_number_cell(ratio)).collect::<String>();
    let rows = [row("main", &latency.main), row("shadow", &latency.shadow), ratios];
    write_table(page, &["", "p50", "p90", "p99", "longest"], rows);
    let sentence = format_paired_latency(latency);
    let _ = writeln!(page, "<p>{}.</p>", escape(&sentence));
}

fn write_coverage(page: &mut String, report: &ComparisonReport) {
    page.push_str("<h2>Coverage</h2>\n");
    let coverage = &report.coverage;
    let counts = [
        ("copies begun", coverage.selected),
        ("answered", coverage.answered),
        ("in flight", coverage.in_flight),
        ("compared", coverage.compared),
        ("sent to main twice", report.controls),
    ];
    let counts = counts.iter().map(|(name, value)| format_cell(name) + &format_number_cell(&count(*value)));
    let lost = list_lost_copies(report).into_iter().filter(|(_, map)| !map.is_empty());
    let lost = lost.map(|(name, map)| format_cell(name) + &format_number_cell(&format_reasons(map)));
    write_table(page, &["", "Requests"], counts.chain(lost));
    let harm = format_main_impact(report);
    if !harm.is_empty() {
        let _ = writeln!(page, "<p>Main in the same period: {}.</p>", escape(&harm));
    }
}
