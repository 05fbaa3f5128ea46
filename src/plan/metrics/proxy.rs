//! Counts of a host's proxy. A version that was killed and deployed again continues its counts; one that no longer exists has
//! none.

use std::collections::BTreeMap;

use super::family::{MetricFamily, families, new_counter, new_gauge, new_histogram};
use super::labels::{ListedVersions, VersionRole};
use super::page::MetricsPage;
use crate::model::capped::Merge;
use crate::model::name::ServiceName;
use crate::model::proxy::{ProxyStats, ServiceStats, ShadowStats, UpstreamStats};
use crate::model::version::Version;

families! {
    MEMORY = new_gauge("switchman_proxy_resident_memory_bytes", "Resident memory of the proxy's process.");
    SUSPENDED = new_gauge(
        "switchman_proxy_mirroring_suspended",
        "Whether nothing is copied because the proxy itself is at a limit of memory or files."
    );
    CONNECTIONS = new_gauge(
        "switchman_proxy_connections",
        "Open connections of clients, health checks apart."
    );
    UPGRADED = new_gauge(
        "switchman_proxy_upgraded_connections",
        "Those among the connections that were upgraded, as websockets are, and are passed through."
    );
    IN_FLIGHT = new_gauge("switchman_proxy_requests_in_flight", "Requests in flight in the proxy.");
    REJECTED = new_counter(
        "switchman_proxy_rejected_total",
        "Requests that the proxy answered itself; passed_through: connections with a head that main had to understand."
    );
    REQUESTS = new_counter(
        "switchman_requests_total",
        "Requests of users that the version answered, by class of status."
    );
    ERRORS = new_counter(
        "switchman_request_errors_total",
        "Requests of users that ended without an answer of the version."
    );
    FALLBACKS = new_counter(
        "switchman_request_fallbacks_total",
        "Requests meant for the canary that main answered because it did not take them."
    );
    DURATION = new_histogram(
        "switchman_request_duration_seconds",
        "From the head of a user's request to the head of the version's answer."
    );
    SELECTED = new_counter(
        "switchman_shadow_selected_total",
        "Requests whose copy to the shadow was begun: answered, failed, aborted or in flight."
    );
    ANSWERED = new_counter("switchman_shadow_answered_total", "Copies that the shadow answered.");
    COPIES = new_gauge("switchman_shadow_in_flight", "Copies in flight to the shadow.");
    DROPPED = new_counter(
        "switchman_shadow_dropped_total",
        "Requests of which no copy was begun, by reason."
    );
    ABORTED = new_counter(
        "switchman_shadow_aborted_total",
        "Copies that were given up on the way, by reason."
    );
    FAILED = new_counter(
        "switchman_shadow_failed_total",
        "Copies that the shadow did not answer, by reason."
    );
    STATUS_PAIRS = new_counter(
        "switchman_shadow_status_total",
        "Answered copies by the classes of main's status and the shadow's own."
    );
    SHADOW_DURATION = new_histogram(
        "switchman_shadow_duration_seconds",
        "From the head of a copy to the head of the shadow's answer."
    );
}

// Words that count from 0: of a counter that begins with its first event Prometheus does not see that event.
const STATUS_CLASSES: &[&str] = &["2", "3", "4", "5"];
const REJECT_REASONS: &[&str] = &["connect", "passed_through", "private"];
const ERROR_REASONS: &[&str] = &["client", "connect", "reset"];
const DROP_REASONS: &[&str] =
    &["breaker", "inflight", "loop", "memory", "method", "path", "sampled_out", "slow", "upgrade"];
const ABORT_REASONS: &[&str] = &["backlog", "client", "main_early"];
const FAIL_REASONS: &[&str] = &["connect", "protocol", "reset", "timeout"];

/// The word of a first digit.
fn name_status_class(digit: &str) -> &str {
    match digit {
        "1" => "1xx",
        "2" => "2xx",
        "3" => "3xx",
        "4" => "4xx",
        "5" => "5xx",
        _ => "other",
    }
}

type ReasonCounts = BTreeMap<String, u64>;

fn fill_zeros<'a>(counts: &'a ReasonCounts, words: &[&'a str]) -> BTreeMap<&'a str, u64> {
    let mut all: BTreeMap<&str, u64> = words.iter().map(|word| (*word, 0)).collect();
    all.extend(counts.iter().map(|(word, count)| (word.as_str(), *count)));
    all
}

/// A version of a service with its counts.
struct VersionCounts<'a, T> {
    service: &'a ServiceName,
    version: String,
    role: VersionRole,
    counts: T,
}

pub(super) fn write(page: &mut MetricsPage, stats: &ProxyStats, listed: &ListedVersions) {
    page.start_family(&MEMORY).add_gauge(&[], stats.resident_bytes);
    page.start_family(&SUSPENDED).add_flag(&[], stats.is_suspended);
    for (family, value) in [
        (&CONNECTIONS, (|of| of.connections) as fn(&ServiceStats) -> u64),
        (&UPGRADED, |of| of.upgraded),
        (&IN_FLIGHT, |of| of.in_flight),
    ] {
        page.add_each(family, &stats.services, |samples, of| {
            samples.add_gauge(&[("service", of.service.as_str())], value(of));
        });
    }
    page.add_each(&REJECTED, &stats.services, |rejected, of| {
        for (reason, count) in fill_zeros(&of.rejected, REJECT_REASONS) {
            rejected.add_counter(&[("service", of.service.as_str()), ("reason", reason)], count);
        }
    });
    let mut upstreams =
        sum_by_version(&stats.services, listed, |of| &of.upstreams, |upstream| &upstream.version);
    // The proxy lists every version that could be called.
    upstreams.retain(|upstream| {
        upstream.role != VersionRole::Other
            || !(upstream.counts.answers.is_empty() && upstream.counts.errors.is_empty())
    });
    write_upstreams(page, &upstreams);
    write_shadows(page, &sum_by_version(&stats.services, listed, |of| &of.shadows, |shadow| &shadow.version));
}

/// Deployments of one version are one.
fn sum_by_version<'a, T: Clone + Merge>(
    services: &'a [ServiceStats],
    listed: &ListedVersions,
    all: fn(&ServiceStats) -> &Vec<T>,
    version: fn(&T) -> &Version,
) -> Vec<VersionCounts<'a, T>> {
    let mut found: BTreeMap<(&ServiceName, &Version), (VersionRole, T)> = BTreeMap::new();
    for of in services {
        let Some(versions) = listed.get(&of.service) else { continue };
        for one in all(of) {
            let Some(role) = versions.get(version(one)) else { continue };
            match found.get_mut(&(&of.service, version(one))) {
                Some((_, sum)) => sum.absorb(one.clone()),
                None => {
                    found.insert((&of.service, version(one)), (*role, one.clone()));
                }
            }
        }
    }
    let of = |((service, version), (role, counts)): ((&'a ServiceName, &Version), (VersionRole, T))| {
        VersionCounts { service, version: version.to_string(), role, counts }
    };
    found.into_iter().map(of).collect()
}

impl<T> VersionCounts<'_, T> {
    fn to_labels(&self) -> [(&'static str, &str); 2] {
        [("service", self.service.as_str()), ("version", &self.version)]
    }

    /// Labels of a version that answers users. A shadow has no role, and families of its own.
    fn to_role_labels(&self) -> [(&'static str, &str); 3] {
        let [service, version] = self.to_labels();
        [service, version, ("role", self.role.as_str())]
    }
}

fn write_upstreams(page: &mut MetricsPage, upstreams: &[VersionCounts<'_, UpstreamStats>]) {
    page.add_each(&REQUESTS, upstreams, |requests, upstream| {
        let [service, version, role] = upstream.to_role_labels();
        for (digit, count) in fill_zeros(&upstream.counts.answers, STATUS_CLASSES) {
            requests.add_counter(&[service, version, role, ("class", name_status_class(digit))], count);
        }
    });
    page.add_each(&ERRORS, upstreams, |errors, upstream| {
        let [service, version, role] = upstream.to_role_labels();
        for (reason, count) in fill_zeros(&upstream.counts.errors, ERROR_REASONS) {
            errors.add_counter(&[service, version, role, ("reason", reason)], count);
        }
    });
    page.add_each(&FALLBACKS, upstreams, |fallbacks, upstream| {
        fallbacks.add_counter(&upstream.to_role_labels(), upstream.counts.fallbacks);
    });
    page.add_each(&DURATION, upstreams, |duration, upstream| {
        duration.add_durations(&upstream.to_role_labels(), &upstream.counts.latency);
    });
}

fn write_shadows(page: &mut MetricsPage, shadows: &[VersionCounts<'_, ShadowStats>]) {
    for (family, value) in [
        (&SELECTED, (|counts| counts.selected) as fn(&ShadowStats) -> u64),
        (&ANSWERED, |counts| counts.answered),
    ] {
        page.add_each(family, shadows, |samples, shadow| {
            samples.add_counter(&shadow.to_labels(), value(&shadow.counts));
        });
    }
    page.add_each(&COPIES, shadows, |copies, shadow| {
        copies.add_gauge(&shadow.to_labels(), shadow.counts.in_flight);
    });
    for (family, counts, words) in [
        (&DROPPED, (|counts| &counts.dropped) as fn(&ShadowStats) -> &ReasonCounts, DROP_REASONS),
        (&ABORTED, |counts| &counts.aborted, ABORT_REASONS),
        (&FAILED, |counts| &counts.failed, FAIL_REASONS),
    ] {
        page.add_each(family, shadows, |samples, shadow| {
            let [service, version] = shadow.to_labels();
            for (reason, count) in fill_zeros(counts(&shadow.counts), words) {
                samples.add_counter(&[service, version, ("reason", reason)], count);
            }
        });
    }
    page.add_each(&STATUS_PAIRS, shadows, |pairs, shadow| {
        let [service, version] = shadow.to_labels();
        for (pair, count) in &shadow.counts.statuses {
            let (main, own) = pair.split_once('/').unwrap_or((pair, ""));
            pairs.add_counter(
                &[service, version, ("main", name_status_class(main)), ("shadow", name_status_class(own))],
                *count,
            );
        }
    });
    page.add_each(&SHADOW_DURATION, shadows, |duration, shadow| {
        duration.add_durations(&shadow.to_labels(), &shadow.counts.latency);
    });
}
