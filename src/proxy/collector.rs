//! Compares answers beside the data path, which never waits for it: a bounded queue, a bound on bytes, one thread of low
//! priority. What is too much is dropped and counted.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::model::compare::{Pair, Rules, Subject};
use crate::model::evidence::Evidence;
use crate::plan::compare;

/// Pairs that may wait.
const QUEUE: usize = 1_024;
/// A pair costs at least that much beside its bodies.
const PAIR: usize = 1 << 10;
/// Added to the thread's niceness: users' requests come first.
const NICE: i32 = 10;

/// Knows what has been found out about every shadow. Its thread ends when it and all [`Line`]s are gone.
#[derive(Debug)]
pub struct Collector {
    queue: SyncSender<Job>,
    budget: Budget,
    rules: Arc<Rules>,
    subjects: Mutex<BTreeMap<Subject, Arc<Entry>>>,
}

/// One shadow's way to the collector, for one worker.
#[derive(Debug, Clone)]
pub struct Line {
    queue: SyncSender<Job>,
    budget: Budget,
    rules: Arc<Rules>,
    entry: Arc<Entry>,
}

/// Bytes of a pair that count against the bound until they were compared, or this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Budget {
    held: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Entry {
    evidence: Mutex<Evidence>,
    /// Pairs that were not taken.
    missed: AtomicU64,
}

#[derive(Debug)]
struct Job {
    entry: Arc<Entry>,
    pair: Box<Pair>,
    /// Given back when the pair is.
    held: Held,
}

impl Collector {
    /// `most`: bytes of all pairs that wait (`Limits::compare_retained_bytes`).
    pub fn start(rules: Rules, most: usize) -> std::io::Result<Self> {
        Self::with_queue(rules, most, QUEUE)
    }

    fn with_queue(rules: Rules, most: usize, pairs: usize) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(pairs);
        let rules = Arc::new(rules);
        let same = rules.clone();
        thread::Builder::new().name("swm-compare".into()).spawn(move || judge(&jobs, &same))?;
        let budget = Budget { held: Arc::default(), most: Arc::new(AtomicUsize::new(most)) };
        Ok(Self { queue, budget, rules, subjects: Mutex::default() })
    }

    /// Another bound, from now on.
    pub fn bound(&self, most: usize) {
        self.budget.most.store(most, Ordering::Relaxed);
    }

    /// Where a shadow's pairs go. All lines of a shadow lead to the same evidence, until it is forgotten.
    pub fn line(&self, subject: &Subject) -> Line {
        let entry = self.subjects().entry(subject.clone()).or_default().clone();
        let (queue, budget, rules) = (self.queue.clone(), self.budget.clone(), self.rules.clone());
        Line { queue, budget, rules, entry }
    }

    /// What has been found out; `None`: nobody asked for it, or it is forgotten.
    pub fn snapshot(&self, subject: &Subject) -> Option<Evidence> {
        let entry = self.subjects().get(subject)?.clone();
        let mut evidence = entry.evidence().clone();
        let missed = entry.missed.load(Ordering::Relaxed);
        if missed > 0 {
            evidence.skipped.insert("compare".into(), missed);
        }
        Some(evidence)
    }

    /// Begins anew: the shadow is gone, its code or main's is another. Lines that are left lead nowhere; new ones are asked for.
    pub fn forget(&self, subject: &Subject) {
        self.subjects().remove(subject);
    }

    /// Forgets all others.
    pub fn retain(&self, wanted: impl Fn(&Subject) -> bool) {
        self.subjects().retain(|subject, _| wanted(subject));
    }

    fn subjects(&self) -> MutexGuard<'_, BTreeMap<Subject, Arc<Entry>>> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// For one pair with so many bytes of its request, before anything of it is kept.
    pub fn hold(&self, request: usize) -> Option<Held> {
        let mut held = Held { budget: self.budget.clone(), bytes: 0 };
        held.grow(PAIR + request).then_some(held)
    }

    /// What of an answer is looked at.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether both lead to the same evidence.
    pub fn leads_where(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
    }

    /// Never waits. A pair that does not fit is dropped and counted.
    pub fn offer(&self, pair: Box<Pair>, held: Held) {
        if self.queue.try_send(Job { entry: self.entry.clone(), pair, held }).is_err() {
            self.missed();
        }
    }

    /// Counts a pair that was not kept for want of room.
    pub fn missed(&self) {
        self.entry.missed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Before so many more bytes are kept; `false`: there is no room, and nothing has changed.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let most = self.budget.most.load(Ordering::Relaxed);
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= most);
        let fits = self.budget.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        self.bytes += if fits { bytes } else { 0 };
        fits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Entry {
    fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn judge(jobs: &Receiver<Job>, rules: &Rules) {
    // Of this thread alone. Where it is refused, the work is done all the same.
    let _ = rustix::process::nice(NICE);
    for Job { entry, pair, held } in jobs {
        let mut evidence = entry.evidence();
        let judged = catch_unwind(AssertUnwindSafe(|| compare::record(&mut evidence, &pair, rules)));
        if judged.is_err() {
            compare::skip(&mut evidence, "error");
        }
        drop(evidence);
        drop(pair);
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use jiff::Timestamp;

    use super::*;
    use crate::model::compare::{Answer, Asked, Captured};

    fn subject(id: &str) -> Subject {
        Subject { service: "shop".parse().unwrap(), deployment: id.parse().unwrap() }
    }

    fn pair(main: &str, shadow: &str) -> Box<Pair> {
        let answer = |body: &str| Answer {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: Captured::whole(body.into()),
            latency_us: 1_000,
        };
        let request = Asked {
            method: "GET".into(),
            path_and_query: "/".into(),
            conditional: false,
            at: Timestamp::UNIX_EPOCH,
        };
        Box::new(Pair { request, main: answer(main), shadow: answer(shadow), control: None })
    }

    fn until(what: &str, reached: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !reached() {
            assert!(Instant::now() < deadline, "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn pairs_become_evidence_of_their_shadow() {
        let collector = Collector::start(Rules::default(), 1 << 20).unwrap();
        let (one, two) = (subject("dp_0000000001"), subject("dp_0000000002"));
        let (line, other) = (collector.line(&one), collector.line(&two));
        for line in [&line, &line.clone(), &collector.line(&one), &other] {
            line.offer(pair("1", "2"), line.hold(0).unwrap());
        }
        let compared =
            |subject: &Subject| collector.snapshot(subject).map_or(0, |evidence| evidence.compared);
        until("all are judged", || compared(&one) == 3 && compared(&two) == 1);
        let evidence = collector.snapshot(&one).unwrap();
        assert_eq!(evidence.fields.kept[&"$".parse().unwrap()].differing, 3);
        until("everything is given back", || collector.budget.held.load(Ordering::Relaxed) == 0);
        collector.forget(&one);
        assert_eq!(collector.snapshot(&one), None);
        line.offer(pair("1", "2"), line.hold(0).unwrap());
        assert_eq!(collector.line(&one).entry.evidence().compared, 0, "an old line leads nowhere");
        collector.retain(|subject| *subject == one);
        assert!(collector.snapshot(&two).is_none() && collector.snapshot(&one).is_some());
    }

    #[test]
    fn what_does_not_fit_is_counted_and_nobody_waits() {
        let collector = Collector::with_queue(Rules::default(), 1 << 20, 4).unwrap();
        let one = subject("dp_0000000001");
        let line = collector.line(&one);
        let entry = line.entry.clone();
        // The judge cannot go on while this is kept.
        let stuck = entry.evidence();
        for _ in 0..20 {
            line.offer(pair("1", "1"), line.hold(0).unwrap());
        }
        // One may be with the judge, four wait.
        assert!((15..=16).contains(&entry.missed.load(Ordering::Relaxed)));
        drop(stuck);
        until("the rest is judged", || {
            collector.snapshot(&one).is_some_and(|seen| seen.compared + seen.skipped["compare"] == 20)
        });
        until("everything is given back", || collector.budget.held.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn the_bound_on_bytes_is_kept() {
        let collector = Collector::start(Rules::default(), 10 * PAIR).unwrap();
        let line = collector.line(&subject("dp_0000000001"));
        let mut held = line.hold(0).unwrap();
        assert!(!held.grow(10 * PAIR) && !held.grow(usize::MAX));
        assert!(held.grow(9 * PAIR));
        assert!(line.hold(0).is_none(), "it is full");
        drop(held);
        assert!(line.hold(0).is_some());
        collector.bound(0);
        assert!(line.hold(0).is_none());
    }

    #[test]
    fn the_thread_ends_with_the_collector_and_its_lines() {
        let collector = Collector::start(Rules::default(), 1 << 20).unwrap();
        let line = collector.line(&subject("dp_0000000001"));
        let entry = line.entry.clone();
        line.offer(pair("1", "2"), line.hold(0).unwrap());
        drop((collector, line));
        until("what was offered is judged, and the queue is gone", || {
            entry.evidence().compared == 1 && Arc::strong_count(&entry) == 1
        });
    }
}
