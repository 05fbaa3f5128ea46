//! What the proxy of a host counted. A version that was killed and deployed again counts on; one that is gone has no numbers.

use std::collections::BTreeMap;

use super::host::{Part, Told};
use super::{Family, Page, counter, gauge, histogram};
use crate::model::capped::Merge;
use crate::model::name::ServiceName;
use crate::model::proxy::{LegStats, ProxyStats, ServiceStats, ShadowStats};
use crate::model::version::Version;

const MEMORY: Family =
    gauge("switchman_proxy_resident_memory_bytes", "Resident memory of the proxy's process.");
const SUSPENDED: Family = gauge(
    "switchman_proxy_mirroring_suspended",
    "Whether nothing is copied because the proxy itself is at a limit of memory or files.",
);
const OPEN: Family =
    gauge("switchman_proxy_connections", "Open connections of clients, health checks apart.");
const UPGRADED: Family = gauge(
    "switchman_proxy_upgraded_connections",
    "Those among the connections that were upgraded, as websockets are, and are passed through.",
);
const IN_FLIGHT: Family = gauge("switchman_proxy_requests_in_flight", "Requests in flight in the proxy.");
const REJECTED: Family = counter(
    "switchman_proxy_rejected_total",
    "Requests that the proxy answered itself; passed_through: connections with a head that main had to understand.",
);
const REQUESTS: Family =
    counter("switchman_requests_total", "Requests of users that the version answered, by class of status.");
const ERRORS: Family = counter(
    "switchman_request_errors_total",
    "Requests of users that ended without an answer of the version.",
);
const FALLBACKS: Family = counter(
    "switchman_request_fallbacks_total",
    "Requests meant for the canary that main answered because it did not take them.",
);
const DURATION: Family = histogram(
    "switchman_request_duration_seconds",
    "From the head of a user's request to the head of the version's answer.",
);
const SELECTED: Family = counter(
    "switchman_shadow_selected_total",
    "Requests whose copy to the shadow was begun: answered, failed, aborted or in flight.",
);
const ANSWERED: Family = counter("switchman_shadow_answered_total", "Copies that the shadow answered.");
const COPIES: Family = gauge("switchman_shadow_in_flight", "Copies in flight to the shadow.");
const DROPPED: Family =
    counter("switchman_shadow_dropped_total", "Requests of which no copy was begun, by reason.");
const ABORTED: Family =
    counter("switchman_shadow_aborted_total", "Copies that were given up on the way, by reason.");
const FAILED: Family =
    counter("switchman_shadow_failed_total", "Copies that the shadow did not answer, by reason.");
const PAIRS: Family = counter(
    "switchman_shadow_status_total",
    "Answered copies by the classes of main's status and the shadow's own.",
);
const SHADOW_DURATION: Family = histogram(
    "switchman_shadow_duration_seconds",
    "From the head of a copy to the head of the shadow's answer.",
);

pub(super) const FAMILIES: &[&Family] = &[
    &MEMORY,
    &SUSPENDED,
    &OPEN,
    &UPGRADED,
    &IN_FLIGHT,
    &REJECTED,
    &REQUESTS,
    &ERRORS,
    &FALLBACKS,
    &DURATION,
    &SELECTED,
    &ANSWERED,
    &COPIES,
    &DROPPED,
    &ABORTED,
    &FAILED,
    &PAIRS,
    &SHADOW_DURATION,
];

// Words that count from 0: of a counter that begins with its first event Prometheus does not see that event.
const CLASSES: &[&str] = &["2", "3", "4", "5"];
const REJECTIONS: &[&str] = &["connect", "passed_through", "private"];
const WITHOUT_ANSWER: &[&str] = &["client", "connect", "reset"];
const NOT_BEGUN: &[&str] =
    &["breaker", "inflight", "loop", "memory", "method", "path", "sampled_out", "slow", "upgrade"];
const GIVEN_UP: &[&str] = &["backlog", "client", "main_early"];
const NOT_ANSWERED: &[&str] = &["connect", "protocol", "reset", "timeout"];

/// The word of a first digit.
fn class(digit: &str) -> &str {
    match digit {
        "1" => "1xx",
        "2" => "2xx",
        "3" => "3xx",
        "4" => "4xx",
        "5" => "5xx",
        _ => "other",
    }
}

type Counts = BTreeMap<String, u64>;

fn from_zero<'a>(counts: &'a Counts, words: &[&'a str]) -> BTreeMap<&'a str, u64> {
    let mut all: BTreeMap<&str, u64> = words.iter().map(|word| (*word, 0)).collect();
    all.extend(counts.iter().map(|(word, count)| (word.as_str(), *count)));
    all
}

/// One version of a service with its counts.
struct Of<'a, T> {
    service: &'a ServiceName,
    version: String,
    part: Part,
    counts: T,
}

pub(super) fn write(page: &mut Page, stats: &ProxyStats, told: &Told) {
    page.family(&MEMORY).add(&[], stats.resident_bytes);
    page.family(&SUSPENDED).flag(&[], stats.suspended);
    for (family, value) in [
        (&OPEN, (|of| of.connections) as fn(&ServiceStats) -> u64),
        (&UPGRADED, |of| of.upgraded),
        (&IN_FLIGHT, |of| of.in_flight),
    ] {
        let mut samples = page.family(family);
        for of in &stats.services {
            samples.add(&[("service", of.service.as_str())], value(of));
        }
    }
    let mut rejected = page.family(&REJECTED);
    for of in &stats.services {
        for (reason, count) in from_zero(&of.rejected, REJECTIONS) {
            rejected.add(&[("service", of.service.as_str()), ("reason", reason)], count);
        }
    }
    let mut answering = by_version(&stats.services, told, |of| &of.legs, |leg| &leg.version, add_leg);
    // The proxy knows whoever could be called.
    answering.retain(|leg| {
        leg.part != Part::Other || !(leg.counts.answers.is_empty() && leg.counts.errors.is_empty())
    });
    legs(page, &answering);
    shadows(page, &by_version(&stats.services, told, |of| &of.shadows, |shadow| &shadow.version, add_shadow));
}

/// Deployments of one version are one.
fn by_version<'a, T: Clone>(
    services: &'a [ServiceStats],
    told: &Told,
    all: fn(&ServiceStats) -> &Vec<T>,
    version: fn(&T) -> &Version,
    add: fn(&mut T, T),
) -> Vec<Of<'a, T>> {
    let mut found: BTreeMap<(&ServiceName, &Version), (Part, T)> = BTreeMap::new();
    for of in services {
        let Some(versions) = told.get(&of.service) else { continue };
        for one in all(of) {
            let Some(part) = versions.get(version(one)) else { continue };
            match found.get_mut(&(&of.service, version(one))) {
                Some((_, sum)) => add(sum, one.clone()),
                None => {
                    found.insert((&of.service, version(one)), (*part, one.clone()));
                }
            }
        }
    }
    let of = |((service, version), (part, counts)): ((&'a ServiceName, &Version), (Part, T))| Of {
        service,
        version: version.to_string(),
        part,
        counts,
    };
    found.into_iter().map(of).collect()
}

fn add_leg(sum: &mut LegStats, more: LegStats) {
    sum.answers.absorb(more.answers);
    sum.errors.absorb(more.errors);
    sum.latency.absorb(more.latency);
    sum.fallbacks.absorb(more.fallbacks);
}

fn add_shadow(sum: &mut ShadowStats, more: ShadowStats) {
    sum.selected.absorb(more.selected);
    sum.answered.absorb(more.answered);
    sum.in_flight.absorb(more.in_flight);
    sum.dropped.absorb(more.dropped);
    sum.aborted.absorb(more.aborted);
    sum.failed.absorb(more.failed);
    sum.statuses.absorb(more.statuses);
    sum.latency.absorb(more.latency);
}

impl<T> Of<'_, T> {
    fn named(&self) -> [(&str, &str); 2] {
        [("service", self.service.as_str()), ("version", &self.version)]
    }

    /// A version that answers users has a role; what is none but a shadow has another family.
    fn in_role(&self) -> [(&str, &str); 3] {
        let [service, version] = self.named();
        [service, version, ("role", self.part.as_str())]
    }
}

fn legs(page: &mut Page, legs: &[Of<'_, LegStats>]) {
    let mut requests = page.family(&REQUESTS);
    for leg in legs {
        let [service, version, role] = leg.in_role();
        for (digit, count) in from_zero(&leg.counts.answers, CLASSES) {
            requests.add(&[service, version, role, ("class", class(digit))], count);
        }
    }
    let mut errors = page.family(&ERRORS);
    for leg in legs {
        let [service, version, role] = leg.in_role();
        for (reason, count) in from_zero(&leg.counts.errors, WITHOUT_ANSWER) {
            errors.add(&[service, version, role, ("reason", reason)], count);
        }
    }
    let mut fallbacks = page.family(&FALLBACKS);
    for leg in legs {
        fallbacks.add(&leg.in_role(), leg.counts.fallbacks);
    }
    let mut duration = page.family(&DURATION);
    for leg in legs {
        duration.durations(&leg.in_role(), &leg.counts.latency);
    }
}

fn shadows(page: &mut Page, shadows: &[Of<'_, ShadowStats>]) {
    for (family, value) in [
        (&SELECTED, (|counts| counts.selected) as fn(&ShadowStats) -> u64),
        (&ANSWERED, |counts| counts.answered),
        (&COPIES, |counts| counts.in_flight),
    ] {
        let mut samples = page.family(family);
        for shadow in shadows {
            samples.add(&shadow.named(), value(&shadow.counts));
        }
    }
    for (family, counts, words) in [
        (&DROPPED, (|counts| &counts.dropped) as fn(&ShadowStats) -> &Counts, NOT_BEGUN),
        (&ABORTED, |counts| &counts.aborted, GIVEN_UP),
        (&FAILED, |counts| &counts.failed, NOT_ANSWERED),
    ] {
        let mut samples = page.family(family);
        for shadow in shadows {
            let [service, version] = shadow.named();
            for (reason, count) in from_zero(counts(&shadow.counts), words) {
                samples.add(&[service, version, ("reason", reason)], count);
            }
        }
    }
    let mut pairs = page.family(&PAIRS);
    for shadow in shadows {
        let [service, version] = shadow.named();
        for (pair, count) in &shadow.counts.statuses {
            let (main, own) = pair.split_once('/').unwrap_or((pair, ""));
            pairs.add(&[service, version, ("main", class(main)), ("shadow", class(own))], count);
        }
    }
    let mut duration = page.family(&SHADOW_DURATION);
    for shadow in shadows {
        duration.durations(&shadow.named(), &shadow.counts.latency);
    }
}
