use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A family as a reader of the page finds it.
#[derive(Debug)]
pub struct Read {
    pub kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    /// As they are written, without the braces.
    pub labels: String,
    pub value: String,
}

impl Read {
    pub fn value(&self, name: &str, labels: &str) -> Option<&str> {
        let found = self.samples.iter().find(|one| one.name == name && one.labels == labels);
        found.map(|one| one.value.as_str())
    }
}

/// Reads a page as strictly as the format is written: HELP, then TYPE, then the samples of that family and no others; each
/// family once, each sample once, every value a number.
pub fn read(page: &str) -> BTreeMap<String, Read> {
    let mut families: BTreeMap<String, Read> = BTreeMap::new();
    let mut lines = page.lines().peekable();
    assert!(page.is_empty() || page.ends_with('\n'));
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").expect(line).split_once(' ').expect(line);
        assert!(!help.is_empty(), "{line}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect(name).to_owned();
        let mut samples: Vec<Sample> = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = sample(line);
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
        assert!(families.insert(name.to_owned(), Read { kind, samples }).is_none(), "{name} twice");
    }
    families
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect(line);
    assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
    };
    Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.to_owned() }
}

const GAUGE: MetricFamily = new_gauge("switchman_test", "A \"help\" with a \\ and\na second line.");
const TIMES: MetricFamily = new_histogram("switchman_test_seconds", "Times.");

#[test]
fn label_values_and_help_are_escaped() {
    let mut page = MetricsPage::default();
    page.start_family(&GAUGE).add(&[("service", "a\"b\\c\nd{}"), ("version", "1.0.0+ü")], 3);
    assert_eq!(
        page.0,
        "# HELP switchman_test A \"help\" with a \\\\ and\\na second line.\n# TYPE switchman_test gauge\n\
         switchman_test{service=\"a\\\"b\\\\c\\nd{}\",version=\"1.0.0+ü\"} 3\n"
    );
}

#[test]
fn family_without_samples_is_omitted() {
    let mut page = MetricsPage::default();
    let _ = page.start_family(&TIMES);
    let mut samples = page.start_family(&GAUGE);
    samples.add_flag(&[], true);
    samples.add(&[("a", "b")], 0.25);
    assert!(page.0.ends_with("gauge\nswitchman_test 1\nswitchman_test{a=\"b\"} 0.25\n"), "{}", page.0);
    assert!(!page.0.contains("seconds"));
}

#[test]
fn histogram_buckets_are_cumulative() {
    let mut page = MetricsPage::default();
    let latencies = [0, 400, 501, 29_999_999, 60_000_000].into_iter().collect();
    page.start_family(&TIMES).add_durations(&[("service", "shop")], &latencies);
    let family = &read(&page.0)["switchman_test_seconds"];
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
    let mut page = MetricsPage::default();
    page.start_family(&TIMES).add_durations(&[], &Latencies::default());
    let family = &read(&page.0)["switchman_test_seconds"];
    assert!(family.samples.iter().all(|sample| sample.value.parse() == Ok(0.0)), "{}", page.0);
    assert_eq!(family.samples.len(), BUCKETS.len() + 3);
}

proptest! {
    #[test]
    fn histogram_is_monotonic_and_ends_at_its_count(all in proptest::collection::vec(0u64..100_000_000, 0..200)) {
        let mut page = MetricsPage::default();
        page.start_family(&TIMES).add_durations(&[], &all.iter().copied().collect());
        let family = &read(&page.0)["switchman_test_seconds"];
        let buckets: Vec<u64> = family.samples.iter().filter(|one| one.name.ends_with("_bucket")).map(|one| one.value.parse().unwrap()).collect();
        prop_assert!(buckets.is_sorted());
        prop_assert_eq!(buckets.last(), Some(&(all.len() as u64)));
        let count = all.len().to_string();
        prop_assert_eq!(family.value("switchman_test_seconds_count", ""), Some(count.as_str()));
    }
}

#[test]
fn bucket_labels_match_their_limits() {
    for (written, us) in BUCKETS {
        let us: u32 = us.try_into().unwrap();
        assert!((written.parse::<f64>().unwrap() * 1e6 - f64::from(us)).abs() < 1e-6, "{written}");
    }
    assert!(BUCKETS.is_sorted_by(|one, other| one.1 < other.1));
}

#[test]
fn metric_names_follow_prometheus_conventions() {
    let mut seen = BTreeSet::new();
    for MetricFamily { name, kind, help } in families() {
        assert!(seen.insert(name), "{name} twice");
        assert!(
            name.starts_with("switchman_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
        assert!(!name.contains("milli") && !name.contains("_us") && !name.ends_with("percent"), "{name}");
        assert!(help.ends_with('.') && help.is_ascii(), "{name}: {help}");
    }
}

/// Every exported metric has HELP and TYPE: [`read`] takes no sample without. And every declared metric is exported.
#[test]
fn golden_pages_contain_every_family() {
    let host = read(include_str!("../../../tests/golden/metrics/host.prom"));
    let fleet = read(include_str!("../../../tests/golden/metrics/fleet.prom"));
    let mut exported: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, family) in host.iter().chain(&fleet) {
        assert!(exported.insert(name, &family.kind).is_none(), "{name} on both pages");
    }
    let declared: BTreeMap<&str, &str> =
        families().map(|family| (family.name, family.kind.as_str())).collect();
    assert_eq!(exported, declared);
}
