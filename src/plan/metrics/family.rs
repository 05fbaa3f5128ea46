//! The description of a metric.

use prometheus_client::metrics::MetricType;

/// A metric name with its type and help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricFamily {
    /// `switchman_`, base units, `_total` for counters.
    pub name: &'static str,
    /// Histograms are of seconds.
    pub kind: MetricType,
    pub help: &'static str,
}

impl MetricFamily {
    /// Returns the name without `_total`, which the encoder appends to the name of a counter.
    pub fn base_name(&self) -> &'static str {
        match self.kind {
            MetricType::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            _ => self.name,
        }
    }
}

/// Declares metrics, and the list of them all.
macro_rules! families {
    ($($name:ident = $new:ident($metric:literal, $help:literal);)*) => {
        $(const $name: MetricFamily = $new($metric, $help);)*

        pub(crate) const FAMILIES: &[&MetricFamily] = &[$(&$name),*];
    };
}

pub(super) use families;

pub(super) const fn new_counter(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Counter, help }
}

pub(super) const fn new_gauge(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Gauge, help }
}

pub(super) const fn new_histogram(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Histogram, help }
}
