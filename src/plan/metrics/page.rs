//! The samples of one scrape, and their encoding by the `prometheus-client` crate.

use std::fmt::{self, Debug};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeMetric, MetricEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Metric, Registry};

use super::family::MetricFamily;
use crate::model::proxy::Latencies;

/// Upper ends of the buckets of histograms, in microseconds.
pub const BUCKETS_US: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// Name and value.
type Label<'a> = (&'static str, &'a str);

/// The samples of one scrape, by family.
#[derive(Debug, Default)]
pub struct MetricsPage {
    families: Vec<FamilySamples>,
}

/// The samples of a family; a family without samples is not exported.
#[derive(Debug)]
pub struct FamilySamples {
    family: &'static MetricFamily,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    metric: Box<dyn Metric>,
}

impl MetricsPage {
    pub fn start_family(&mut self, family: &'static MetricFamily) -> &mut FamilySamples {
        self.families.push_mut(FamilySamples { family, samples: Vec::new() })
    }

    /// Adds a family with what a function adds for each of the items.
    pub fn add_each<I>(
        &mut self,
        family: &'static MetricFamily,
        items: impl IntoIterator<Item = I>,
        add: impl Fn(&mut FamilySamples, I),
    ) {
        let samples = self.start_family(family);
        items.into_iter().for_each(|item| add(samples, item));
    }

    /// Encodes the page in the text format 0.0.4 of Prometheus.
    pub fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Only the writer can fail, and a string does not.
        let _ = prometheus_text::encode(&mut text, &registry);
        text
    }
}

impl FamilySamples {
    pub fn add_counter(&mut self, labels: &[Label<'_>], count: u64) {
        self.add(labels, ConstCounter::new(count));
    }

    pub fn add_gauge<N>(&mut self, labels: &[Label<'_>], value: N)
    where
        N: EncodeGaugeValue + Debug + Send + Sync + 'static,
    {
        self.add(labels, ConstGauge::new(value));
    }

    /// Adds a gauge of 1 or 0.
    pub fn add_flag(&mut self, labels: &[Label<'_>], is_set: bool) {
        self.add_gauge(labels, u32::from(is_set));
    }

    pub fn add_durations(&mut self, labels: &[Label<'_>], latencies: &Latencies) {
        self.add(labels, DurationHistogram::new(latencies));
    }

    fn add(&mut self, labels: &[Label<'_>], metric: impl Metric) {
        debug_assert_eq!(metric.metric_type(), self.family.kind, "{}", self.family.name);
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(Sample { labels, metric: Box::new(metric) });
    }
}

impl Collector for MetricsPage {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for FamilySamples { family, samples } in &self.families {
            if samples.is_empty() {
                continue;
            }
            let mut encoder =
                encoder.encode_descriptor(family.base_name(), family.help, None, family.kind)?;
            for sample in samples {
                sample.metric.encode(encoder.encode_family(&sample.labels)?)?;
            }
        }
        Ok(())
    }
}

/// Durations in the buckets of [`BUCKETS_US`]. They were counted in buckets at most 2 % wide: one that lies across an upper
/// end counts as longer, and the sum is that of the ends of those buckets.
#[derive(Debug)]
struct DurationHistogram {
    sum_us: u64,
    count: u64,
    /// Upper ends in seconds, each with the durations between it and the end before.
    buckets: Vec<(f64, u64)>,
}

impl DurationHistogram {
    fn new(latencies: &Latencies) -> Self {
        let mut start = 0;
        let mut buckets = Vec::with_capacity(BUCKETS_US.len() + 1);
        for end in BUCKETS_US {
            buckets.push((to_seconds(end), latencies.0.range(start..=end).map(|(_, count)| count).sum()));
            start = end + 1;
        }
        buckets.push((f64::INFINITY, latencies.0.range(start..).map(|(_, count)| count).sum()));
        let sums = latencies.0.iter().map(|(us, count)| us.saturating_mul(*count));
        Self { sum_us: sums.fold(0, u64::saturating_add), count: latencies.count(), buckets }
    }
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<NoLabelSet>(to_seconds(self.sum_us), self.count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn to_seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}
