//! Compares answers beside the data path, which never waits for it: a bounded queue, a bound on bytes, one thread of low
//! priority. What is too much is dropped and counted.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::model::compare::{ComparedShadow, ComparisonRules, ResponsePair};
use crate::model::evidence::Evidence;
use crate::plan::compare;

/// Pairs that may wait.
const QUEUE_PAIRS: usize = 1_024;
/// A pair costs at least that much beside its bodies.
const PAIR_OVERHEAD_BYTES: usize = 1 << 10;
/// Added to the thread's niceness: users' requests come first.
const NICENESS: i32 = 10;

/// Holds the evidence about every shadow. Its thread ends when it and all its handles are dropped.
#[derive(Debug)]
pub struct Collector {
    queue: SyncSender<Job>,
    budget: ByteBudget,
    rules: Arc<ComparisonRules>,
    subjects: Mutex<BTreeMap<ComparedShadow, Arc<ShadowEvidence>>>,
}

/// The handle of one shadow to the collector, for one worker.
#[derive(Debug, Clone)]
pub struct CollectorHandle {
    queue: SyncSender<Job>,
    budget: ByteBudget,
    rules: Arc<ComparisonRules>,
    entry: Arc<ShadowEvidence>,
}

/// Bytes of a pair that count against the bound until they were compared, or this is dropped.
#[derive(Debug)]
pub struct ByteReservation {
    budget: ByteBudget,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct ByteBudget {
    reserved_bytes: Arc<AtomicUsize>,
    limit_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct ShadowEvidence {
    evidence: Mutex<Evidence>,
    /// Pairs that were not taken.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Job {
    entry: Arc<ShadowEvidence>,
    pair: Box<ResponsePair>,
    /// Released when the pair was compared.
    reservation: ByteReservation,
}

impl Collector {
    /// `limit_bytes`: of all pairs that wait (`Limits::compare_retained_bytes`).
    pub fn start(rules: ComparisonRules, limit_bytes: usize) -> std::io::Result<Self> {
        Self::with_queue(rules, limit_bytes, QUEUE_PAIRS)
    }

    fn with_queue(rules: ComparisonRules, limit_bytes: usize, pairs: usize) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(pairs);
        let rules = Arc::new(rules);
        let same = rules.clone();
        thread::Builder::new().name("swm-compare".into()).spawn(move || compare_pairs(&jobs, &same))?;
        let budget = ByteBudget {
            reserved_bytes: Arc::default(),
            limit_bytes: Arc::new(AtomicUsize::new(limit_bytes)),
        };
        Ok(Self { queue, budget, rules, subjects: Mutex::default() })
    }

    /// Another bound, from now on.
    pub fn set_limit(&self, limit_bytes: usize) {
        self.budget.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Opens a handle for a shadow's pairs. All handles of a shadow share the same evidence, until it is forgotten.
    pub fn open_handle(&self, subject: &ComparedShadow) -> CollectorHandle {
        let entry = self.subjects().entry(subject.clone()).or_default().clone();
        let (queue, budget, rules) = (self.queue.clone(), self.budget.clone(), self.rules.clone());
        CollectorHandle { queue, budget, rules, entry }
    }

    /// Returns the evidence so far, or `None` where no handle was ever opened or the evidence is forgotten.
    pub fn snapshot(&self, subject: &ComparedShadow) -> Option<Evidence> {
        let entry = self.subjects().get(subject)?.clone();
        let mut evidence = entry.evidence().clone();
        let missed = entry.dropped.load(Ordering::Relaxed);
        if missed > 0 {
            evidence.skipped.insert("compare".into(), missed);
        }
        Some(evidence)
    }

    /// Forgets all others: shadows that are removed, and those whose code or main's is another. Old handles have no effect, and
    /// new ones are requested.
    pub fn retain(&self, wanted: impl Fn(&ComparedShadow) -> bool) {
        self.subjects().retain(|subject, _| wanted(subject));
    }

    fn subjects(&self) -> MutexGuard<'_, BTreeMap<ComparedShadow, Arc<ShadowEvidence>>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CollectorHandle {
    /// Reserves bytes for one pair with a request of this length, before anything of it is kept.
    pub fn reserve(&self, request_bytes: usize) -> Option<ByteReservation> {
        let mut reservation = ByteReservation { budget: self.budget.clone(), bytes: 0 };
        reservation.grow(PAIR_OVERHEAD_BYTES + request_bytes).then_some(reservation)
    }

    /// The parts of an answer that are compared.
    pub fn rules(&self) -> &ComparisonRules {
        &self.rules
    }

    /// Whether both share the same evidence.
    pub fn shares_evidence_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
    }

    /// Never waits. A pair that does not fit is dropped and counted.
    pub fn offer(&self, pair: Box<ResponsePair>, reservation: ByteReservation) {
        if self.queue.try_send(Job { entry: self.entry.clone(), pair, reservation }).is_err() {
            self.count_dropped();
        }
    }

    /// Counts a pair that was not kept for want of room.
    pub fn count_dropped(&self) {
        self.entry.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl ByteReservation {
    /// Reserves this number of further bytes before they are kept; `false`: there is no room, and nothing has changed.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let limit = self.budget.limit_bytes.load(Ordering::Relaxed);
        let add = |reserved: usize| reserved.checked_add(bytes).filter(|reserved| *reserved <= limit);
        let fits = self.budget.reserved_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        self.bytes += if fits { bytes } else { 0 };
        fits
    }
}

impl Drop for ByteReservation {
    fn drop(&mut self) {
        self.budget.reserved_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl ShadowEvidence {
    fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compare_pairs(jobs: &Receiver<Job>, rules: &ComparisonRules) {
    // Of this thread alone. Where it is refused, the work is done all the same.
    let _ = rustix::process::nice(NICENESS);
    for Job { entry, pair, reservation } in jobs {
        let mut evidence = entry.evidence();
        let judged = catch_unwind(AssertUnwindSafe(|| compare::record_pair(&mut evidence, &pair, rules)));
        if judged.is_err() {
            compare::record_skipped(&mut evidence, "error");
        }
        drop(evidence);
        drop(pair);
        drop(reservation);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use jiff::Timestamp;

    use super::*;
    use crate::model::compare::{CapturedBody, CapturedResponse, RequestSummary};

    fn build_subject(id: &str) -> ComparedShadow {
        ComparedShadow { service: "shop".parse().unwrap(), deployment: id.parse().unwrap() }
    }

    fn build_pair(main: &str, shadow: &str) -> Box<ResponsePair> {
        let answer = |body: &str| CapturedResponse {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: CapturedBody::from_bytes(body.into()),
            latency_us: 1_000,
        };
        let request = RequestSummary {
            method: "GET".into(),
            path_and_query: "/".into(),
            conditional: false,
            at: Timestamp::UNIX_EPOCH,
        };
        Box::new(ResponsePair { request, main: answer(main), shadow: answer(shadow), control: None })
    }

    fn wait_until(condition: &str, reached: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !reached() {
            assert!(Instant::now() < deadline, "{condition}");
            thread::yield_now();
        }
    }

    #[test]
    fn collector_records_pairs_under_their_shadow() {
        let collector = Collector::start(ComparisonRules::default(), 1 << 20).unwrap();
        let (one, two) = (build_subject("dp_0000000001"), build_subject("dp_0000000002"));
        let (handle, other) = (collector.open_handle(&one), collector.open_handle(&two));
        for handle in [&handle, &handle.clone(), &collector.open_handle(&one), &other] {
            handle.offer(build_pair("1", "2"), handle.reserve(0).unwrap());
        }
        let compared =
            |subject: &ComparedShadow| collector.snapshot(subject).map_or(0, |evidence| evidence.compared);
        wait_until("all are judged", || compared(&one) == 3 && compared(&two) == 1);
        let evidence = collector.snapshot(&one).unwrap();
        assert_eq!(evidence.fields.entries[&"$".parse().unwrap()].differing, 3);
        wait_until("everything is given back", || {
            collector.budget.reserved_bytes.load(Ordering::Relaxed) == 0
        });
        collector.retain(|subject| *subject != one);
        assert_eq!(collector.snapshot(&one), None);
        handle.offer(build_pair("1", "2"), handle.reserve(0).unwrap());
        assert_eq!(collector.open_handle(&one).entry.evidence().compared, 0, "an old handle has no effect");
        collector.retain(|subject| *subject == one);
        assert!(collector.snapshot(&two).is_none() && collector.snapshot(&one).is_some());
    }

    #[test]
    fn collector_counts_pairs_that_do_not_fit_without_blocking() {
        let collector = Collector::with_queue(ComparisonRules::default(), 1 << 20, 4).unwrap();
        let one = build_subject("dp_0000000001");
        let handle = collector.open_handle(&one);
        let entry = handle.entry.clone();
        // The judge cannot go on while this is kept.
        let stuck = entry.evidence();
        for _ in 0..20 {
            handle.offer(build_pair("1", "1"), handle.reserve(0).unwrap());
        }
        // One may be with the judge, four wait.
        assert!((15..=16).contains(&entry.dropped.load(Ordering::Relaxed)));
        drop(stuck);
        wait_until("the rest is judged", || {
            collector.snapshot(&one).is_some_and(|seen| seen.compared + seen.skipped["compare"] == 20)
        });
        wait_until("everything is given back", || {
            collector.budget.reserved_bytes.load(Ordering::Relaxed) == 0
        });
    }

    #[test]
    fn collector_enforces_byte_limit() {
        let collector = Collector::start(ComparisonRules::default(), 10 * PAIR_OVERHEAD_BYTES).unwrap();
        let handle = collector.open_handle(&build_subject("dp_0000000001"));
        let mut reservation = handle.reserve(0).unwrap();
        assert!(!reservation.grow(10 * PAIR_OVERHEAD_BYTES) && !reservation.grow(usize::MAX));
        assert!(reservation.grow(9 * PAIR_OVERHEAD_BYTES));
        assert!(handle.reserve(0).is_none(), "it is full");
        drop(reservation);
        assert!(handle.reserve(0).is_some());
        collector.set_limit(0);
        assert!(handle.reserve(0).is_none());
    }

    #[test]
    fn collector_thread_ends_with_its_last_handle() {
        let collector = Collector::start(ComparisonRules::default(), 1 << 20).unwrap();
        let handle = collector.open_handle(&build_subject("dp_0000000001"));
        let entry = handle.entry.clone();
        handle.offer(build_pair("1", "2"), handle.reserve(0).unwrap());
        drop((collector, handle));
        wait_until("what was offered is judged, and the queue is dropped", || {
            entry.evidence().compared == 1 && Arc::strong_count(&entry) == 1
        });
    }
}
