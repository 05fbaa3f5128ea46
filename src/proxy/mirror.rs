//! Copies of a request for shadows.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{EXPECT, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use tokio::task::spawn_local;

use super::counts::{Held, class, up};
use super::service::{Service, Shadow, ShadowState};
use super::tee::{CopyBody, Given, Queue, Tee};
use super::upstream::{Protocol, SendError};
use super::worker::Worker;
use crate::model::proxy::Limits;

const X_SHADOW: HeaderName = HeaderName::from_static("x-shadow");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Of a shadow's answer so much is read to keep its connection; a longer one costs the connection.
const LONGEST_ANSWER: u64 = 1 << 20;

/// So long after it fell behind, a shadow gets no body that it could fall behind with again.
const SLOW: Duration = Duration::from_secs(5);

/// The copies of one request.
pub struct Copies {
    pub tee: Rc<Tee>,
    copies: Vec<Rc<Copy>>,
}

/// What main's and the shadow's side of one copy know of each other.
struct Copy {
    state: Rc<ShadowState>,
    queue: Rc<Queue>,
    main: Cell<Option<u16>>,
    shadow: Cell<Option<u16>>,
}

impl Copy {
    /// Whoever comes second writes it down.
    fn told(&self) {
        if let (Some(main), Some(shadow)) = (self.main.get(), self.shadow.get()) {
            let mut statuses = self.state.counts.statuses.borrow_mut();
            *statuses.entry((class(main), class(shadow))).or_default() += 1;
        }
    }
}

impl Copies {
    /// Main, not a canary, answered.
    pub fn main_answered(&self, status: u16) {
        for copy in &self.copies {
            copy.main.set(Some(status));
            copy.told();
        }
    }
}

/// Begins a copy for each shadow that is to get one. `request` is as main gets it.
pub fn begin(
    worker: &Rc<Worker>,
    service: &Service,
    request: &Request<Incoming>,
    protocol: Protocol,
    upgrade: bool,
) -> Option<Copies> {
    let mut copies = Vec::new();
    let mut id = None;
    for shadow in &service.shadows {
        if let Err(reason) = admits(worker, shadow, request, upgrade) {
            shadow.state.counts.dropped.add(reason);
            continue;
        }
        let id = id.get_or_insert_with(|| worker.request_id());
        let body = request.body();
        let limits = worker.limits();
        let queue =
            Queue::new(worker.budget(), limits.backlog_bytes, limits.retained_bytes, body.is_end_stream());
        let copy = Rc::new(Copy {
            state: shadow.state.clone(),
            queue: queue.clone(),
            main: Cell::default(),
            shadow: Cell::default(),
        });
        let request = head_for(shadow, request, id).map(|()| CopyBody { queue, size: body.size_hint() });
        let run = Run {
            ending: Ending::begin(&shadow.state),
            began: Instant::now(),
            copy: copy.clone(),
            address: shadow.address,
            protocol,
            limits,
        };
        spawn_local(run.to_its_end(request));
        copies.push(copy);
    }
    if copies.is_empty() {
        return None;
    }
    let queues = copies.iter().map(|copy| copy.queue.clone()).collect();
    Some(Copies { tee: Rc::new(Tee::new(queues)), copies })
}

/// Cheap first. Every request that is not copied is counted by its reason.
fn admits(
    worker: &Worker,
    shadow: &Shadow,
    request: &Request<Incoming>,
    upgrade: bool,
) -> Result<(), &'static str> {
    let (state, limits) = (&shadow.state, worker.limits());
    let long = || request.body().size_hint().lower() > limits.backlog_bytes as u64;
    if request.headers().contains_key(X_SHADOW) {
        Err("loop")
    } else if upgrade {
        Err("upgrade")
    } else if !shadow.matching.method(request.method().as_str()) {
        Err("method")
    } else if !shadow.matching.path(request.uri().path()) {
        Err("path")
    } else if !state.sampler.borrow_mut().takes(shadow.told.percent) {
        Err("sampled_out")
    } else if worker.is_suspended() || worker.budget().held() >= limits.retained_bytes {
        Err("memory")
    } else if state.slow.get().is_some_and(|since| since.elapsed() < SLOW) && long() {
        Err("slow")
    } else if state.counts.in_flight.get() >= limits.in_flight as u64 {
        Err("inflight")
    } else if !state.breaker.borrow_mut().admits(Instant::now()) {
        Err("breaker")
    } else {
        Ok(())
    }
}

/// As main gets it, with its letters' case; marked.
fn head_for(shadow: &Shadow, request: &Request<Incoming>, id: &HeaderValue) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.extensions_mut() = request.extensions().clone();
    copy.extensions_mut().remove::<OnUpgrade>();
    let headers = copy.headers_mut();
    headers.clone_from(request.headers());
    // Its connection is kept, whatever the client's is.
    headers.remove(hyper::header::CONNECTION);
    headers.remove(EXPECT);
    for name in &shadow.told.without_headers {
        headers.remove(name.as_str());
    }
    if let Ok(version) = HeaderValue::from_str(&shadow.version.to_string()) {
        headers.insert(X_SHADOW, version);
    }
    headers.entry(X_REQUEST_ID).or_insert_with(|| id.clone());
    copy
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
struct Ending {
    state: Rc<ShadowState>,
    _in_flight: Held,
    told: bool,
}

impl Ending {
    fn begin(state: &Rc<ShadowState>) -> Self {
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

struct Run {
    ending: Ending,
    began: Instant,
    copy: Rc<Copy>,
    address: std::net::SocketAddr,
    protocol: Protocol,
    limits: Rc<Limits>,
}

impl Run {
    async fn to_its_end(self, request: Request<CopyBody>) {
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
        self.copy.state.counts.latency.add(self.began.elapsed());
        self.copy.shadow.set(Some(response.status().as_u16()));
        self.copy.told();
        if read(response).await? && !self.copy.queue.waits_for_client() {
            // Ready at once, or after the rest of the request: not this copy's time any more.
            let (state, most) = (self.copy.state.clone(), self.limits.idle);
            spawn_local(async move { state.pool.give_back(lent, most).await });
        }
        Ok(())
    }
}

enum Ended {
    Given(Given),
    Failed(Failed),
}

/// Reads and forgets; whether the end was reached.
async fn read(response: Response<Incoming>) -> Result<bool, Failed> {
    let mut body = response.into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| blamed(&error))?;
        total += frame.data_ref().map_or(0, |data| data.len() as u64);
        if total > LONGEST_ANSWER {
            return Ok(false);
        }
    }
    Ok(true)
}

fn blamed(error: &hyper::Error) -> Failed {
    if error.is_parse() || error.is_user() { Failed::Protocol } else { Failed::Reset }
}
