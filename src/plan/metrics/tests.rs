use std::collections::{BTreeMap, BTreeSet};

use prometheus_client::metrics::MetricType;
use proptest::prelude::*;

use super::family::{MetricFamily, new_counter, new_gauge, new_histogram};
use super::list_families;
use super::page::{BUCKETS_US, MetricsPage};
use crate::model::proxy::Latencies;

/// A family as a reader of the page finds it.
#[derive(Debug)]
pub struct ParsedFamily {
    pub kind: String,
    pub samples: Vec<ParsedSample>,
}

#[derive(Debug)]
pub struct ParsedSample {
    pub name: String,
    /// As they are written, without the braces.
    pub labels: String,
    pub value: String,
}

impl ParsedFamily {
    pub fn value(&self, name: &str, labels: &str) -> Option<&str> {
        let found = self.samples.iter().find(|one| one.name == name && one.labels == labels);
        found.map(|one| one.value.as_str())
    }
}

/// Parses a page as strictly as the format is written: HELP, then TYPE, then the samples of that family and no others; each
/// family once, each sample once, every value a number.
pub fn parse(page: &str) -> BTreeMap<String, ParsedFamily> {
    let mut families: BTreeMap<String, ParsedFamily> = BTreeMap::new();
    let mut lines = page.lines().peekable();
    assert!(page.is_empty() || page.ends_with('\n'));
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").expect(line).split_once(' ').expect(line);
        assert!(is_metric_name(name) && !help.is_empty() && unescape(help, "\\n").is_some(), "{line}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect(name).to_owned();
        let mut samples: Vec<ParsedSample> = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = parse_sample(line);
            let end = sample.name.strip_prefix(name).expect(line);
            assert!(if kind == "histogram" {
                ["_bucket", "_sum", "_count"].contains(&end)
            } else {
                end.is_empty()
            });
            let twice = samples.iter().any(|one| one.name == sample.name && one.labels == sample.labels);
            assert!(!twice, "{line}");
            samples.push(sample);
        }
        assert!(!samples.is_empty(), "{name}");
        assert!(families.insert(name.to_owned(), ParsedFamily { kind, samples }).is_none(), "{name} twice");
    }
    families
}

fn parse_sample(line: &str) -> ParsedSample {
    let (series, value) = line.rsplit_once(' ').expect(line);
    assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
    };
    assert!(is_metric_name(name), "{line}");
    let names: Vec<String> = parse_labels(labels).into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| is_metric_name(name)), "{line}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{line}");
    ParsedSample { name: name.to_owned(), labels: labels.to_owned(), value: value.to_owned() }
}

fn is_metric_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Parses `name="value",...`, with the escapes of the format.
fn parse_labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").expect(text);
        let mut escaped = false;
        let end = rest.find(|c: char| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        let (value, rest) = rest.split_at(end.expect(text));
        labels.push((name.to_owned(), unescape(value, "\\n\"").expect(value)));
        text = rest.strip_prefix('"').unwrap();
        if let Some(next) = text.strip_prefix(',') {
            assert!(!next.is_empty(), "a comma without a label");
            text = next;
        } else {
            assert_eq!(text, "", "something after a label");
        }
    }
    labels
}

/// Returns the text, or `None` if a backslash precedes any other character.
fn unescape(text: &str, allowed: &str) -> Option<String> {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' { Some(chars.next().filter(|c| allowed.contains(*c))?) } else { None };
        plain.push(match escaped {
            Some('n') => '\n',
            Some(escaped) => escaped,
            None => c,
        });
    }
    Some(plain)
}

const GAUGE: MetricFamily = new_gauge("switchman_test", "A \"help\" with a \\ and\na second line.");
const COUNTER: MetricFamily = new_counter("switchman_test_total", "Events.");
const TIMES: MetricFamily = new_histogram("switchman_test_seconds", "Times.");

#[test]
fn label_values_and_help_are_escaped() {
    let mut page = MetricsPage::default();
    let value = "a\"b\\c\nd{},\\\"";
    page.start_family(&GAUGE).add_gauge(&[("service", value), ("version", "1.0.0+ü")], 3);
    let text = page.into_text();
    assert_eq!(
        text,
        "# HELP switchman_test A \"help\" with a \\\\ and\\na second line.\n# TYPE switchman_test gauge\n\
         switchman_test{service=\"a\\\"b\\\\c\\nd{},\\\\\\\"\",version=\"1.0.0+ü\"} 3\n"
    );
    let labels = &parse(&text)["switchman_test"].samples[0].labels;
    let expected = [("service", value), ("version", "1.0.0+ü")];
    assert_eq!(parse_labels(labels), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn family_without_samples_is_omitted() {
    let mut page = MetricsPage::default();
    let _ = page.start_family(&TIMES);
    let samples = page.start_family(&GAUGE);
    samples.add_flag(&[], true);
    samples.add_gauge(&[("a", "b")], 0.25);
    let text = page.into_text();
    assert!(text.ends_with("gauge\nswitchman_test 1\nswitchman_test{a=\"b\"} 0.25\n"), "{text}");
    assert!(!text.contains("seconds"));
}

/// node_exporter's textfile collector takes a counter for untyped if its TYPE line has another name than its samples.
#[test]
fn type_line_of_counter_has_the_name_of_its_samples() {
    let mut page = MetricsPage::default();
    page.start_family(&COUNTER).add_counter(&[], u64::MAX);
    let text = page.into_text();
    assert!(
        text.ends_with("# TYPE switchman_test_total counter\nswitchman_test_total 18446744073709551615\n"),
        "{text}"
    );
}

fn render_durations(labels: &[(&'static str, &str)], latencies: &Latencies) -> ParsedFamily {
    let mut page = MetricsPage::default();
    page.start_family(&TIMES).add_durations(labels, latencies);
    parse(&page.into_text()).remove("switchman_test_seconds").unwrap()
}

#[test]
fn histogram_buckets_are_cumulative() {
    let latencies = [0, 400, 501, 29_999_999, 60_000_000].into_iter().collect();
    let family = render_durations(&[("service", "shop")], &latencies);
    let within = |le: &str| {
        family
            .value("switchman_test_seconds_bucket", &format!("service=\"shop\",le=\"{le}\""))
            .unwrap()
            .to_owned()
    };
    // What was counted as 501 us lies in a bucket that ends at 503 us.
    assert_eq!([within("0.0005"), within("0.001"), within("10"), within("+Inf")], ["2", "3", "3", "5"]);
    assert_eq!(family.value("switchman_test_seconds_count", "service=\"shop\""), Some("5"));
    assert!(family.value("switchman_test_seconds_sum", "service=\"shop\"").unwrap().starts_with("90."));
}

#[test]
fn empty_histogram_has_zero_buckets() {
    let family = render_durations(&[], &Latencies::default());
    assert!(family.samples.iter().all(|sample| sample.value.parse() == Ok(0.0)), "{family:?}");
    assert_eq!(family.samples.len(), BUCKETS_US.len() + 3);
}

proptest! {
    #[test]
    fn histogram_is_monotonic_and_ends_at_its_count(all in proptest::collection::vec(0u64..100_000_000, 0..200)) {
        let family = render_durations(&[], &all.iter().copied().collect());
        let buckets: Vec<u64> = family.samples.iter().filter(|one| one.name.ends_with("_bucket")).map(|one| one.value.parse().unwrap()).collect();
        prop_assert!(buckets.is_sorted());
        prop_assert_eq!(buckets.last(), Some(&(all.len() as u64)));
        let count = all.len().to_string();
        prop_assert_eq!(family.value("switchman_test_seconds_count", ""), Some(count.as_str()));
    }

    #[test]
    fn any_label_value_reads_back(value in any::<String>()) {
        let mut page = MetricsPage::default();
        page.start_family(&GAUGE).add_gauge(&[("service", &value), ("state", "on")], 1);
        let families = parse(&page.into_text());
        let labels = parse_labels(&families["switchman_test"].samples[0].labels);
        prop_assert_eq!(labels, vec![("service".to_owned(), value), ("state".to_owned(), "on".to_owned())]);
    }
}

/// These values of `le` are part of the names of the series that a server has stored.
#[test]
fn bucket_labels_stay_the_same() {
    let family = render_durations(&[], &Latencies::default());
    let ends: Vec<&str> = family
        .samples
        .iter()
        .filter(|sample| sample.name.ends_with("_bucket"))
        .map(|sample| sample.labels.strip_prefix("le=\"").unwrap().strip_suffix('"').unwrap())
        .collect();
    let expected = "0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 +Inf";
    assert_eq!(ends.join(" "), expected);
}

#[test]
fn metric_names_follow_prometheus_conventions() {
    let mut names = BTreeSet::new();
    for MetricFamily { name, kind, help } in list_families() {
        assert!(names.insert(name), "{name} twice");
        assert!(
            name.starts_with("switchman_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), *kind == MetricType::Counter, "{name}");
        assert!(!name.contains("milli") && !name.contains("_us") && !name.ends_with("percent"), "{name}");
        assert!(help.ends_with('.') && help.is_ascii(), "{name}: {help}");
    }
}

/// Every exported metric has HELP and TYPE: [`parse`] takes no sample without. And every declared metric is exported.
#[test]
fn golden_pages_contain_every_family() {
    let host = parse(include_str!("../../../tests/golden/metrics/host.prom"));
    let fleet = parse(include_str!("../../../tests/golden/metrics/fleet.prom"));
    let mut exported: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, family) in host.iter().chain(&fleet) {
        assert!(exported.insert(name, &family.kind).is_none(), "{name} on both pages");
    }
    let declared: BTreeMap<&str, &str> =
        list_families().map(|family| (family.name, family.kind.as_str())).collect();
    assert_eq!(exported, declared);
}
