//! The account of every request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::client_kind::ClientKind;
use crate::model::duration;

/// Who answered, by the answer's own headers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AnswerOrigin {
    pub host: String,
    pub vhost: String,
    pub version: String,
}

/// Why a request failed, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureReason {
    Refused,
    Reset,
    /// The connection ended before a status line.
    ClosedBeforeAnswer,
    /// The connection ended within the body.
    ClosedMidBody,
    Timeout,
    Status(u16),
    /// Length or sum differ, or an echo that is not what was sent.
    WrongBody,
    /// The answer does not name its sender.
    Unsigned,
    Websocket(String),
    Other(String),
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Reset => f.write_str("connection reset"),
            Self::ClosedBeforeAnswer => f.write_str("closed before an answer"),
            Self::ClosedMidBody => f.write_str("closed within the body"),
            Self::Timeout => f.write_str("timeout"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::WrongBody => f.write_str("wrong body"),
            Self::Unsigned => f.write_str("unsigned answer"),
            Self::Websocket(reason) => write!(f, "websocket: {reason}"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedRequest {
    pub kind: ClientKind,
    pub phase: String,
    pub reason: FailureReason,
}

#[derive(Debug, Default)]
struct Tally {
    started: u64,
    failed: u64,
    /// Milliseconds, of those that succeeded; one entry a request.
    latencies: Vec<u32>,
    last_success: Option<Instant>,
    longest_gap: Duration,
}

#[derive(Debug, Default)]
struct LedgerState {
    phase: String,
    tallies: BTreeMap<ClientKind, Tally>,
    answers: BTreeMap<(String, AnswerOrigin), u64>,
    answers_by_start_phase: BTreeMap<(String, String), u64>,
    failures: BTreeMap<(ClientKind, String, FailureReason), u64>,
    /// Phase in which the request began -> answers of another host than the cookie's.
    strays: BTreeMap<String, u64>,
}

/// Shared by all clients of a load.
#[derive(Debug)]
pub struct RequestLedger {
    state: Mutex<LedgerState>,
}

/// Counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub started: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub kinds: BTreeMap<ClientKind, u64>,
    /// (phase, who answered) -> requests.
    pub answers: BTreeMap<(String, AnswerOrigin), u64>,
    /// (phase in which it began, version that answered) -> requests.
    pub answers_by_start_phase: BTreeMap<(String, String), u64>,
    /// Answers to a client whose cookie names another host.
    pub strays: u64,
}

impl Snapshot {
    /// Requests of a phase that this vhost of this host answered, of one version when given.
    pub fn count_answers(&self, phase: &str, host: &str, vhost: &str, version: Option<&str>) -> u64 {
        let fits = |answer: &AnswerOrigin| {
            answer.host == host
                && answer.vhost == vhost
                && version.is_none_or(|version| answer.version == version)
        };
        self.answers
            .iter()
            .filter(|((name, answer), _)| name == phase && fits(answer))
            .map(|(_, count)| count)
            .sum()
    }

    /// Requests that began in a phase and were answered by another version.
    pub fn count_answers_by_others(&self, phase: &str, version: &str) -> u64 {
        let others =
            self.answers_by_start_phase.iter().filter(|((began, by), _)| began == phase && by != version);
        others.map(|(_, count)| count).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KindReport {
    pub kind: ClientKind,
    pub requests: u64,
    pub failed: u64,
    #[serde(rename = "median_ms", serialize_with = "duration::serialize_ms")]
    pub median: Duration,
    #[serde(rename = "longest_ms", serialize_with = "duration::serialize_ms")]
    pub longest: Duration,
    /// Longest time without a success.
    #[serde(rename = "longest_gap_ms", serialize_with = "duration::serialize_ms")]
    pub longest_gap: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub kinds: Vec<KindReport>,
    pub answers: Vec<(String, AnswerOrigin, u64)>,
    pub failures: Vec<(FailedRequest, u64)>,
    /// Answers to a client whose cookie names another host.
    pub strays: u64,
    /// Phase in which the request began -> strays.
    #[serde(skip)]
    pub strays_by_start_phase: BTreeMap<String, u64>,
}

impl Report {
    pub fn total_requests(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.requests).sum()
    }

    pub fn total_failed(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.failed).sum()
    }
}

impl RequestLedger {
    pub fn new(kinds: impl IntoIterator<Item = ClientKind>) -> Self {
        let tallies = kinds.into_iter().map(|kind| (kind, Tally::default())).collect();
        Self { state: Mutex::new(LedgerState { tallies, ..LedgerState::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_phase(&self, name: &str) {
        name.clone_into(&mut self.lock().phase);
    }

    /// Gives back the phase in which it began.
    pub(super) fn record_start(&self, kind: ClientKind) -> String {
        let mut state = self.lock();
        state.tallies.entry(kind).or_default().started += 1;
        state.phase.clone()
    }

    pub(super) fn record_success(
        &self,
        kind: ClientKind,
        answer: AnswerOrigin,
        cookie: Option<&str>,
        latency: Duration,
        began: String,
    ) {
        let mut state = self.lock();
        if cookie.is_some_and(|host| host != answer.host) {
            *state.strays.entry(began.clone()).or_default() += 1;
        }
        *state.answers_by_start_phase.entry((began, answer.version.clone())).or_default() += 1;
        let phase = state.phase.clone();
        *state.answers.entry((phase, answer)).or_default() += 1;
        let tally = state.tallies.entry(kind).or_default();
        tally.latencies.push(u32::try_from(latency.as_millis()).unwrap_or(u32::MAX));
        let now = Instant::now();
        if let Some(last) = tally.last_success.replace(now) {
            tally.longest_gap = tally.longest_gap.max(now - last);
        }
    }

    pub(super) fn record_failure(&self, kind: ClientKind, reason: FailureReason) {
        let mut state = self.lock();
        let phase = state.phase.clone();
        *state.failures.entry((kind, phase, reason)).or_default() += 1;
        state.tallies.entry(kind).or_default().failed += 1;
    }

    pub fn take_snapshot(&self) -> Snapshot {
        let state = self.lock();
        let sum = |field: fn(&Tally) -> u64| state.tallies.values().map(field).sum();
        let succeeded = |tally: &Tally| tally.latencies.len() as u64;
        Snapshot {
            started: sum(|tally| tally.started),
            succeeded: sum(succeeded),
            failed: sum(|tally| tally.failed),
            kinds: state.tallies.iter().map(|(kind, tally)| (*kind, succeeded(tally))).collect(),
            answers: state.answers.clone(),
            answers_by_start_phase: state.answers_by_start_phase.clone(),
            strays: state.strays.values().sum(),
        }
    }

    /// To be called when every client has ended: then every request that was started has succeeded or failed.
    pub fn build_report(&self) -> Report {
        let mut state = self.lock();
        let kinds = state.tallies.iter_mut().map(|(kind, tally)| {
            tally.latencies.sort_unstable();
            let at = |index: usize| {
                Duration::from_millis(u64::from(tally.latencies.get(index).copied().unwrap_or(0)))
            };
            let count = tally.latencies.len();
            // A client that vanished without a report is a failure like any other.
            let lost = tally.started.saturating_sub(count as u64 + tally.failed);
            KindReport {
                kind: *kind,
                requests: tally.started,
                failed: tally.failed + lost,
                median: at(count / 2),
                longest: at(count.saturating_sub(1)),
                longest_gap: tally.longest_gap,
            }
        });
        let kinds = kinds.collect();
        let failure = |((kind, phase, reason), count): (&(ClientKind, String, FailureReason), &u64)| {
            (FailedRequest { kind: *kind, phase: phase.clone(), reason: reason.clone() }, *count)
        };
        Report {
            kinds,
            answers: state
                .answers
                .iter()
                .map(|((phase, answer), n)| (phase.clone(), answer.clone(), *n))
                .collect(),
            failures: state.failures.iter().map(failure).collect(),
            strays: state.strays.values().sum(),
            strays_by_start_phase: state.strays.clone(),
        }
    }
}
