//! The counters of a worker. No other thread reads them: cells, no locks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::model::capped::Merge;
use crate::model::deployment::DeploymentId;
use crate::model::name::ServiceName;
use crate::model::proxy::{Latencies, ServiceStats, ShadowStats, UpstreamStats};
use crate::model::version::Version;

/// Counts by a short word.
#[derive(Debug, Default)]
pub struct WordCounts(RefCell<BTreeMap<&'static str, u64>>);

impl WordCounts {
    pub fn add(&self, word: &'static str) {
        *self.0.borrow_mut().entry(word).or_default() += 1;
    }

    fn to_map(&self) -> BTreeMap<String, u64> {
        self.0.borrow().iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
    }
}

/// Adds one.
pub fn increment(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// The number of guards that exist now.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Rc<Cell<u64>>);

impl Gauge {
    pub fn acquire(&self) -> GaugeGuard {
        increment(&self.0);
        GaugeGuard(self.0.clone())
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

#[derive(Debug)]
pub struct GaugeGuard(Rc<Cell<u64>>);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[derive(Debug, Default)]
pub struct LatencyRecorder(RefCell<Latencies>);

impl LatencyRecorder {
    pub fn add(&self, took: Duration) {
        self.0.borrow_mut().record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn to_latencies(&self) -> Latencies {
        self.0.borrow().clone()
    }
}

/// The first digit of a status.
pub const fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1",
        2 => "2",
        3 => "3",
        4 => "4",
        5 => "5",
        _ => "0",
    }
}

/// Counters of one service, kept from one configuration to the next.
#[derive(Debug, Default)]
pub struct ServiceCounts {
    pub connections: Gauge,
    pub upgraded: Gauge,
    pub in_flight: Gauge,
    pub rejected: WordCounts,
    upstreams: RefCell<BTreeMap<DeploymentId, Rc<UpstreamCounts>>>,
    shadows: RefCell<BTreeMap<DeploymentId, Rc<ShadowCounts>>>,
}

#[derive(Debug)]
pub struct UpstreamCounts {
    deployment: DeploymentId,
    version: Version,
    answers: WordCounts,
    pub errors: WordCounts,
    latency: LatencyRecorder,
    pub fallbacks: Cell<u64>,
}

impl UpstreamCounts {
    pub fn record_answer(&self, status: u16, took: Duration) {
        self.answers.add(status_class(status));
        self.latency.add(took);
    }
}

#[derive(Debug)]
pub struct ShadowCounts {
    deployment: DeploymentId,
    version: Version,
    pub selected: Cell<u64>,
    pub answered: Cell<u64>,
    pub in_flight: Gauge,
    pub dropped: WordCounts,
    pub aborted: WordCounts,
    pub failed: WordCounts,
    pub statuses: RefCell<BTreeMap<(&'static str, &'static str), u64>>,
    pub latency: LatencyRecorder,
}

impl ServiceCounts {
    pub fn get_or_insert_upstream(&self, deployment: &DeploymentId, version: &Version) -> Rc<UpstreamCounts> {
        let new = || {
            Rc::new(UpstreamCounts {
                deployment: deployment.clone(),
                version: version.clone(),
                answers: WordCounts::default(),
                errors: WordCounts::default(),
                latency: LatencyRecorder::default(),
                fallbacks: Cell::default(),
            })
        };
        self.upstreams.borrow_mut().entry(deployment.clone()).or_insert_with(new).clone()
    }

    /// In the place of what was counted of it before.
    pub fn new_shadow(&self, deployment: &DeploymentId, version: &Version) -> Rc<ShadowCounts> {
        let new = Rc::new(ShadowCounts {
            deployment: deployment.clone(),
            version: version.clone(),
            selected: Cell::default(),
            answered: Cell::default(),
            in_flight: Gauge::default(),
            dropped: WordCounts::default(),
            aborted: WordCounts::default(),
            failed: WordCounts::default(),
            statuses: RefCell::default(),
            latency: LatencyRecorder::default(),
        });
        self.shadows.borrow_mut().insert(deployment.clone(), new.clone());
        new
    }

    /// Forgets deployments that the configuration does not name any more, but the newest few.
    pub fn forget(&self, named: impl Fn(&DeploymentId) -> bool) {
        prune_removed(&mut self.upstreams.borrow_mut(), &named);
        prune_removed(&mut self.shadows.borrow_mut(), &named);
    }

    pub fn to_stats(&self, service: &ServiceName) -> ServiceStats {
        ServiceStats {
            service: service.clone(),
            connections: self.connections.get(),
            upgraded: self.upgraded.get(),
            in_flight: self.in_flight.get(),
            upstreams: self.upstreams.borrow().values().map(|upstream| upstream.to_stats()).collect(),
            shadows: self.shadows.borrow().values().map(|shadow| shadow.to_stats()).collect(),
            rejected: self.rejected.to_map(),
        }
    }
}

/// Removed deployments whose counts are still reported.
const MAX_REMOVED: usize = 16;

/// Ids sort by time.
fn prune_removed<T>(all: &mut BTreeMap<DeploymentId, T>, named: impl Fn(&DeploymentId) -> bool) {
    let removed: Vec<DeploymentId> = all.keys().filter(|id| !named(id)).cloned().collect();
    for id in removed.iter().rev().skip(MAX_REMOVED) {
        all.remove(id);
    }
}

impl UpstreamCounts {
    fn to_stats(&self) -> UpstreamStats {
        UpstreamStats {
            deployment: self.deployment.clone(),
            version: self.version.clone(),
            answers: self.answers.to_map(),
            errors: self.errors.to_map(),
            latency: self.latency.to_latencies(),
            fallbacks: self.fallbacks.get(),
        }
    }
}

impl ShadowCounts {
    fn to_stats(&self) -> ShadowStats {
        let statuses = self.statuses.borrow();
        ShadowStats {
            deployment: self.deployment.clone(),
            version: self.version.clone(),
            selected: self.selected.get(),
            answered: self.answered.get(),
            in_flight: self.in_flight.get(),
            dropped: self.dropped.to_map(),
            aborted: self.aborted.to_map(),
            failed: self.failed.to_map(),
            statuses: statuses.iter().map(|((main, own), count)| (format!("{main}/{own}"), *count)).collect(),
            latency: self.latency.to_latencies(),
        }
    }
}

/// Adds the counts of another worker.
pub fn merge_stats(all: &mut Vec<ServiceStats>, more: Vec<ServiceStats>) {
    for more in more {
        let Some(sum) = all.iter_mut().find(|known| known.service == more.service) else {
            all.push(more);
            continue;
        };
        sum.connections += more.connections;
        sum.upgraded += more.upgraded;
        sum.in_flight += more.in_flight;
        sum.rejected.absorb(more.rejected);
        merge_by_deployment(&mut sum.upstreams, more.upstreams, |one| &one.deployment);
        merge_by_deployment(&mut sum.shadows, more.shadows, |one| &one.deployment);
    }
}

fn merge_by_deployment<T: Merge>(all: &mut Vec<T>, more: Vec<T>, deployment: fn(&T) -> &DeploymentId) {
    for more in more {
        match all.iter_mut().find(|known| deployment(known) == deployment(&more)) {
            Some(sum) => sum.absorb(more),
            None => all.push(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> DeploymentId {
        format!("dp_{number:010}").parse().unwrap()
    }

    #[test]
    fn counters_sum_workers_and_prune_removed_deployments() {
        let version: Version = "1.0.0".parse().unwrap();
        let service: ServiceName = "shop".parse().unwrap();
        let workers = [ServiceCounts::default(), ServiceCounts::default()];
        let mut all = Vec::new();
        for (number, worker) in workers.iter().enumerate() {
            worker.rejected.add("connect");
            for deployment in 0..40 {
                worker
                    .get_or_insert_upstream(&id(deployment), &version)
                    .record_answer(200, Duration::from_millis(1));
            }
            let shadow = worker.new_shadow(&id(50), &version);
            shadow.dropped.add(["loop", "memory"][number]);
            worker.forget(|known| *known == id(3));
            merge_stats(&mut all, vec![worker.to_stats(&service)]);
        }
        let sum = &all[0];
        assert_eq!((all.len(), sum.rejected["connect"], sum.shadows[0].dropped.len()), (1, 2, 2));
        let kept: Vec<_> = sum.upstreams.iter().map(|upstream| upstream.deployment.clone()).collect();
        let expected: Vec<_> = std::iter::once(3).chain(24..40).map(id).collect();
        assert_eq!(kept, expected);
        assert!(
            sum.upstreams
                .iter()
                .all(|upstream| upstream.answers["2"] == 2 && upstream.latency.0.values().sum::<u64>() == 2)
        );
    }

    #[test]
    fn latency_buckets_are_within_two_percent() {
        let timings = LatencyRecorder::default();
        let all = [0, 1, 255, 1_000, 12_345, 1_000_000, 59_000_000, 7_200_000_000];
        for micros in all {
            timings.add(Duration::from_micros(micros));
        }
        let buckets: Vec<u64> = timings.to_latencies().0.into_keys().collect();
        for (bucket, micros) in buckets.iter().zip(all) {
            assert!((micros..=micros + micros / 50).contains(bucket), "{bucket} for {micros}");
        }
        assert_eq!(buckets.len(), 8);
    }
}
