//! One copy, from its start to the end of its shadow's answer.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::task::spawn_local;

use super::comparison::{Comparison, Recorder, Side};
use super::counters::{Held, class, up};
use super::service::{Memory, ShadowState};
use super::tee::{CopyBody, Given, Queue};
use super::upstream::{Pool, Protocol, SendError};
use crate::model::proxy::Limits;

/// Of a shadow's answer so much is read to keep its connection; a longer one costs the connection.
const LONGEST_ANSWER: u64 = 1 << 20;

/// What main's and the shadow's side of one copy know of each other.
pub struct Copy {
    pub state: Rc<ShadowState>,
    pub queue: Rc<Queue>,
    pub main: Cell<Option<u16>>,
    pub shadow: Cell<Option<u16>>,
    pub comparison: Option<Rc<Comparison>>,
}

impl Copy {
    /// Whoever comes second writes it down.
    pub fn told(&self) {
        if let (Some(main), Some(shadow)) = (self.main.get(), self.shadow.get()) {
            let mut statuses = self.state.counts.statuses.borrow_mut();
            *statuses.entry((class(main), class(shadow))).or_default() += 1;
        }
    }
}

/// How a copy failed for a reason that is its shadow's.
#[derive(Debug, Clone, Copy)]
enum Failed {
    Connect,
    Reset,
    Timeout,
    Protocol,
}

impl Failed {
    const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }
}

/// Each copy that was begun is counted once more when it ends, however it does.
pub struct Ending {
    state: Rc<ShadowState>,
    _in_flight: Held,
    told: bool,
}

impl Ending {
    pub fn begin(state: &Rc<ShadowState>) -> Self {
        up(&state.counts.selected);
        Self { state: state.clone(), _in_flight: state.counts.in_flight.hold(), told: false }
    }

    fn answered(mut self) {
        self.told = true;
        up(&self.state.counts.answered);
        self.state.breaker.borrow_mut().succeeded();
    }

    fn given_up(mut self, why: Given) {
        self.told = true;
        self.state.counts.aborted.add(why.word());
        if why == Given::Backlog {
            self.state.slow.set(Some(Instant::now()));
            self.state.breaker.borrow_mut().failed(Instant::now());
        } else {
            self.state.breaker.borrow_mut().undecided();
        }
    }

    fn failed(mut self, why: Failed) {
        self.told = true;
        self.fail(why);
    }

    fn fail(&self, why: Failed) {
        self.state.counts.failed.add(why.word());
        self.state.breaker.borrow_mut().failed(Instant::now());
    }
}

impl Drop for Ending {
    /// Only a copy whose task panicked, or was ended with its worker, is not told yet.
    fn drop(&mut self) {
        if !self.told {
            self.fail(Failed::Protocol);
        }
    }
}

pub struct Run {
    pub ending: Ending,
    pub began: Instant,
    pub copy: Rc<Copy>,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub limits: Rc<Limits>,
}

impl Run {
    pub async fn run(self, request: Request<CopyBody>) {
        let queue = self.copy.queue.clone();
        let limit = Duration::from_millis(self.limits.copy_ms);
        let ended = tokio::select! {
            biased;
            why = queue.given_up() => Err(Ended::Given(why)),
            done = tokio::time::timeout(limit, self.exchange(request)) => match done {
                Ok(done) => done.map_err(Ended::Failed),
                Err(_) if queue.waits_for_client() => Err(Ended::Given(Given::Client)),
                Err(_) => Err(Ended::Failed(Failed::Timeout)),
            },
        };
        queue.done();
        if let (Err(_), Some(comparison)) = (&ended, &self.copy.comparison) {
            comparison.forget();
        }
        match ended {
            Ok(()) => self.ending.answered(),
            Err(Ended::Given(why)) => self.ending.given_up(why),
            Err(Ended::Failed(why)) => self.ending.failed(why),
        }
    }

    async fn exchange(&self, request: Request<CopyBody>) -> Result<(), Failed> {
        let pool = &self.copy.state.pool;
        let limit = Duration::from_millis(self.limits.connect_ms);
        let sent = pool.send(self.address, self.protocol, limit, request).await;
        let (response, lent) = sent.map_err(|error| match error {
            SendError::Connect { .. } => Failed::Connect,
            SendError::Broken(error) => blamed(&error),
            SendError::Gone => Failed::Reset,
        })?;
        let took = self.began.elapsed();
        self.copy.state.counts.latency.add(took);
        self.copy.shadow.set(Some(response.status().as_u16()));
        self.copy.told();
        let comparisons = self.copy.comparison.iter().cloned().collect();
        let recorder = Recorder::new(Side::Shadow, comparisons, &response, took, self.limits.compare_bytes);
        if read(response, recorder).await? && !self.copy.queue.waits_for_client() {
            // Ready at once, or after the rest of the request: not this copy's time any more.
            let (state, most) = (self.copy.state.clone(), self.limits.idle);
            spawn_local(async move { state.pool.give_back(lent, most).await });
        }
        Ok(())
    }
}

/// The same request to main once more, to learn what main answers differently by itself. Not counted among users' requests.
pub struct Again {
    pub memory: Rc<Memory>,
    pub comparison: Rc<Comparison>,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub limits: Rc<Limits>,
}

/// Requests at once, of a service and worker, that main is asked again: it has its users to answer.
const MOST_AGAIN: u64 = 8;

impl Again {
    /// Where main is asked enough already, the comparison is made without.
    pub fn begin(self, request: Request<CopyBody>) {
        if !self.comparison.wants_more() {
            return;
        }
        if self.memory.asking().get() >= MOST_AGAIN {
            return self.comparison.uncontrolled();
        }
        let held = self.memory.asking().hold();
        spawn_local(async move {
            self.run(request).await;
            drop(held);
        });
    }

    async fn run(self, request: Request<CopyBody>) {
        let limit = Duration::from_millis(self.limits.copy_ms);
        // How it failed is main's affair, and counted where its users are.
        let _ = tokio::time::timeout(limit, self.exchange(request)).await;
        self.comparison.uncontrolled();
    }

    async fn exchange(&self, request: Request<CopyBody>) -> Result<(), Failed> {
        let (began, pool): (_, &Pool) = (Instant::now(), self.memory.again());
        let limit = Duration::from_millis(self.limits.connect_ms);
        let sent = pool.send(self.address, self.protocol, limit, request).await;
        let (response, lent) = sent.map_err(|_| Failed::Connect)?;
        let comparisons = vec![self.comparison.clone()];
        let cap = self.limits.compare_bytes;
        let recorder = Recorder::new(Side::Control, comparisons, &response, began.elapsed(), cap);
        if read(response, recorder).await? {
            pool.give_back(lent, self.limits.idle).await;
        }
        Ok(())
    }
}

enum Ended {
    Given(Given),
    Failed(Failed),
}

/// To the end or as far as is worth it; whether the end was reached.
async fn read(response: Response<Incoming>, mut recorder: Option<Recorder>) -> Result<bool, Failed> {
    let mut body = response.into_body();
    let (mut total, mut whole) = (0, true);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| blamed(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        total += data.len() as u64;
        if total > LONGEST_ANSWER {
            whole = false;
            break;
        }
        if let Some(recorder) = &mut recorder {
            recorder.push(data);
        }
    }
    if let Some(recorder) = &mut recorder {
        recorder.finish(whole);
    }
    Ok(whole)
}

fn blamed(error: &hyper::Error) -> Failed {
    if error.is_parse() || error.is_user() { Failed::Protocol } else { Failed::Reset }
}
