//! Numbers for Prometheus, in its text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).
//!
//! Written here, because the `prometheus-client` crate writes OpenMetrics alone, whose counters node_exporter's textfile
//! collector takes for untyped ones, and because these are counts that others have made: there is nothing to register
//! (docs/design/dependencies.md#ours).
//!
//! Labels are bounded: services and hosts by the configuration, versions by what is deployed (and [`VERSIONS`]), reasons and
//! classes by the words the program knows. Nothing of a request is a label.

use std::fmt::{self, Write as _};

use crate::model::proxy::Latencies;

pub mod fleet;
pub mod host;
mod proxy;

/// The content type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The most versions of a service on a page: main first, then the youngest.
pub const MAX_VERSIONS: usize = 50;

/// A metric name with its type and help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricFamily {
    /// `switchman_`, base units, `_total` for counters.
    pub name: &'static str,
    pub kind: MetricKind,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    /// A histogram of seconds, in the buckets of [`BUCKETS`].
    Histogram,
}

impl MetricKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const fn new_counter(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Counter, help }
}

const fn new_gauge(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Gauge, help }
}

const fn new_histogram(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Histogram, help }
}

/// Everything that is ever exported.
pub fn families() -> impl Iterator<Item = &'static MetricFamily> {
    let of_fleet = fleet::FAMILIES.iter().chain(fleet::PROMOTIONS);
    host::FAMILIES.iter().chain(proxy::FAMILIES).chain(of_fleet).copied()
}

/// Upper ends: as written, and in microseconds.
pub const BUCKETS: [(&str, u64); 15] = [
    ("0.0005", 500),
    ("0.001", 1_000),
    ("0.0025", 2_500),
    ("0.005", 5_000),
    ("0.01", 10_000),
    ("0.025", 25_000),
    ("0.05", 50_000),
    ("0.1", 100_000),
    ("0.25", 250_000),
    ("0.5", 500_000),
    ("1", 1_000_000),
    ("2.5", 2_500_000),
    ("5", 5_000_000),
    ("10", 10_000_000),
    ("30", 30_000_000),
];

/// Name and value.
type Label<'a> = (&'a str, &'a str);

/// The response to one scrape.
#[derive(Debug, Default)]
struct MetricsPage(String);

impl MetricsPage {
    /// All samples of a family stand together; one without samples does not appear.
    fn start_family(&mut self, family: &'static MetricFamily) -> Samples<'_> {
        Samples { page: &mut self.0, family, has_header: false }
    }
}

struct Samples<'a> {
    page: &'a mut String,
    family: &'static MetricFamily,
    has_header: bool,
}

impl Samples<'_> {
    fn add(&mut self, labels: &[Label<'_>], value: impl fmt::Display) {
        self.write_line("", labels, &value);
    }

    fn add_flag(&mut self, labels: &[Label<'_>], is_so: bool) {
        self.add(labels, u8::from(is_so));
    }

    /// Durations were counted in buckets at most 2 % wide: one that lies across an upper end counts as longer, and the sum is
    /// that of the buckets' ends.
    fn add_durations(&mut self, labels: &[Label<'_>], latencies: &Latencies) {
        let within = |end: u64| latencies.0.range(..=end).map(|(_, count)| count).sum::<u64>();
        for (written, end) in BUCKETS {
            self.write_line("_bucket", &[labels, &[("le", written)]].concat(), &within(end));
        }
        let (count, sum) =
            (latencies.count(), latencies.0.iter().map(|(us, count)| us.saturating_mul(*count)));
        self.write_line("_bucket", &[labels, &[("le", "+Inf")]].concat(), &count);
        self.write_line("_sum", labels, &Seconds(sum.fold(0, u64::saturating_add)));
        self.write_line("_count", labels, &count);
    }

    fn write_line(&mut self, end: &str, labels: &[Label<'_>], value: &dyn fmt::Display) {
        let MetricFamily { name, kind, help } = self.family;
        if !self.has_header {
            self.has_header = true;
            let _ = writeln!(self.page, "# HELP {name} {}", EscapedText { text: help, is_quoted: false });
            let _ = writeln!(self.page, "# TYPE {name} {}", kind.as_str());
        }
        let _ = write!(self.page, "{name}{end}");
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.page, "{before}{label}=\"{}\"", EscapedText { text: value, is_quoted: true });
        }
        let _ = writeln!(self.page, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// Microseconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A help text, or the value of a label.
struct EscapedText<'a> {
    text: &'a str,
    is_quoted: bool,
}

impl fmt::Display for EscapedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' if self.is_quoted => f.write_str("\\\""),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests;
