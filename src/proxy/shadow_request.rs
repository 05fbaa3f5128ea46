//! A copy of a request, from its start to the end of its shadow's answer.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::task::spawn_local;

use super::comparison::{Comparison, Recorder, Side};
use super::counters::{GaugeGuard, increment, status_class};
use super::service::{CarriedState, ShadowState};
use super::tee::{AbortReason, CopyBody, Queue};
use super::upstream::{Pool, Protocol, SendError};
use crate::model::proxy::ProxyLimits;

/// Bytes of a shadow's answer that are read to keep its connection; a longer one costs the connection.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// State that main's and the shadow's side of one copy share.
pub struct ShadowCopy {
    pub state: Rc<ShadowState>,
    pub queue: Rc<Queue>,
    pub main: Cell<Option<u16>>,
    pub shadow: Cell<Option<u16>>,
    pub comparison: Option<Rc<Comparison>>,
}

impl ShadowCopy {
    /// Records both statuses, when the second of the two is known.
    pub fn record_statuses(&self) {
        if let (Some(main), Some(shadow)) = (self.main.get(), self.shadow.get()) {
            let mut statuses = self.state.counts.statuses.borrow_mut();
            *statuses.entry((status_class(main), status_class(shadow))).or_default() += 1;
        }
    }
}

/// How a copy failed for a reason that is its shadow's.
#[derive(Debug, Clone, Copy)]
enum CopyFailure {
    Connect,
    Reset,
    Timeout,
    Protocol,
}

impl CopyFailure {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }
}

/// Counts a copy when it starts, and once more when it ends, for any reason.
pub struct CopyGuard {
    state: Rc<ShadowState>,
    _in_flight: GaugeGuard,
    is_recorded: bool,
}

impl CopyGuard {
    pub fn start(state: &Rc<ShadowState>) -> Self {
        increment(&state.counts.selected);
        Self { state: state.clone(), _in_flight: state.counts.in_flight.acquire(), is_recorded: false }
    }

    fn record_answer(mut self) {
        self.is_recorded = true;
        increment(&self.state.counts.answered);
        self.state.breaker.borrow_mut().record_success();
    }

    fn record_abort(mut self, reason: AbortReason) {
        self.is_recorded = true;
        self.state.counts.aborted.add(reason.as_str());
        if reason == AbortReason::Backlog {
            self.state.slow_since.set(Some(Instant::now()));
            self.state.breaker.borrow_mut().record_failure(Instant::now());
        } else {
            self.state.breaker.borrow_mut().record_inconclusive();
        }
    }

    fn record_failure(mut self, reason: CopyFailure) {
        self.is_recorded = true;
        self.count_failure(reason);
    }

    fn count_failure(&self, reason: CopyFailure) {
        self.state.counts.failed.add(reason.as_str());
        self.state.breaker.borrow_mut().record_failure(Instant::now());
    }
}

impl Drop for CopyGuard {
    /// Only a copy whose task panicked, or was ended with its worker, is not reported yet.
    fn drop(&mut self) {
        if !self.is_recorded {
            self.count_failure(CopyFailure::Protocol);
        }
    }
}

pub struct CopyTask {
    pub guard: CopyGuard,
    pub started_at: Instant,
    pub copy: Rc<ShadowCopy>,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub limits: Rc<ProxyLimits>,
}

impl CopyTask {
    pub async fn run(self, request: Request<CopyBody>) {
        let queue = self.copy.queue.clone();
        let limit = Duration::from_millis(self.limits.copy_timeout_ms);
        let ended = tokio::select! {
            biased;
            reason = queue.wait_for_abort() => Err(CopyError::Aborted(reason)),
            answered = tokio::time::timeout(limit, self.exchange(request)) => match answered {
                Ok(answered) => answered.map_err(CopyError::Failed),
                Err(_) if queue.waits_for_client() => Err(CopyError::Aborted(AbortReason::Client)),
                Err(_) => Err(CopyError::Failed(CopyFailure::Timeout)),
            },
        };
        queue.finish();
        if let (Err(_), Some(comparison)) = (&ended, &self.copy.comparison) {
            comparison.forget();
        }
        match ended {
            Ok(()) => self.guard.record_answer(),
            Err(CopyError::Aborted(reason)) => self.guard.record_abort(reason),
            Err(CopyError::Failed(reason)) => self.guard.record_failure(reason),
        }
    }

    async fn exchange(&self, request: Request<CopyBody>) -> Result<(), CopyFailure> {
        let pool = &self.copy.state.pool;
        let limit = Duration::from_millis(self.limits.connect_timeout_ms);
        let sent = pool.send(self.address, self.protocol, limit, request).await;
        let (response, connection) = sent.map_err(|error| match error {
            SendError::Connect { .. } => CopyFailure::Connect,
            SendError::Broken(error) => classify_error(&error),
            SendError::ClientReset => CopyFailure::Reset,
        })?;
        let took = self.started_at.elapsed();
        self.copy.state.counts.latency.add(took);
        self.copy.shadow.set(Some(response.status().as_u16()));
        self.copy.record_statuses();
        let comparisons = self.copy.comparison.iter().cloned().collect();
        let recorder = Recorder::new(Side::Shadow, comparisons, &response, took, self.limits.compare_bytes);
        if read_answer(response, recorder).await? && !self.copy.queue.waits_for_client() {
            // Ready at once, or after the rest of the request: not this copy's time any more.
            let (state, max_idle) = (self.copy.state.clone(), self.limits.idle_connections);
            spawn_local(async move { state.pool.put_back(connection, max_idle).await });
        }
        Ok(())
    }
}

/// A repetition of the same request to main, to learn what main answers differently by itself. Not counted among users'
/// requests.
pub struct ControlRequest {
    pub carried_state: Rc<CarriedState>,
    pub comparison: Rc<Comparison>,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub limits: Rc<ProxyLimits>,
}

/// Limit of concurrent repeated requests to main, for a service and worker: main has its users to answer.
const MAX_CONTROL_REQUESTS: u64 = 8;

impl ControlRequest {
    /// Starts the repetition. At the limit, the comparison is made without.
    pub fn start(self, request: Request<CopyBody>) {
        if !self.comparison.is_pending() {
            return;
        }
        if self.carried_state.control_requests().get() >= MAX_CONTROL_REQUESTS {
            return self.comparison.skip_control();
        }
        let guard = self.carried_state.control_requests().acquire();
        spawn_local(async move {
            self.run(request).await;
            drop(guard);
        });
    }

    async fn run(self, request: Request<CopyBody>) {
        let limit = Duration::from_millis(self.limits.copy_timeout_ms);
        // A failure of main is counted at its users' requests.
        let _ = tokio::time::timeout(limit, self.exchange(request)).await;
        self.comparison.skip_control();
    }

    async fn exchange(&self, request: Request<CopyBody>) -> Result<(), CopyFailure> {
        let (started_at, pool): (_, &Pool) = (Instant::now(), self.carried_state.control_pool());
        let limit = Duration::from_millis(self.limits.connect_timeout_ms);
        let sent = pool.send(self.address, self.protocol, limit, request).await;
        let (response, connection) = sent.map_err(|_| CopyFailure::Connect)?;
        let comparisons = vec![self.comparison.clone()];
        let cap = self.limits.compare_bytes;
        let recorder = Recorder::new(Side::Control, comparisons, &response, started_at.elapsed(), cap);
        if read_answer(response, recorder).await? {
            pool.put_back(connection, self.limits.idle_connections).await;
        }
        Ok(())
    }
}

enum CopyError {
    Aborted(AbortReason),
    Failed(CopyFailure),
}

/// Reads an answer up to a limit; returns whether it was read to its end.
async fn read_answer(
    response: Response<Incoming>,
    mut recorder: Option<Recorder>,
) -> Result<bool, CopyFailure> {
    let mut body = response.into_body();
    let (mut total, mut is_whole) = (0, true);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| classify_error(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        total += data.len() as u64;
        if total > MAX_ANSWER_BYTES {
            is_whole = false;
            break;
        }
        if let Some(recorder) = &mut recorder {
            recorder.push(data);
        }
    }
    if let Some(recorder) = &mut recorder {
        recorder.finish(is_whole);
    }
    Ok(is_whole)
}

fn classify_error(error: &hyper::Error) -> CopyFailure {
    if error.is_parse() || error.is_user() { CopyFailure::Protocol } else { CopyFailure::Reset }
}
