//! Copies of a request for shadows.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming, SizeHint};
use hyper::header::{CONNECTION, EXPECT, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response};
use tokio::task::spawn_local;

use super::comparison::{Comparison, Recorder, Side};
use super::service::{Service, Shadow};
use super::shadow_request::{Again, Copy, Ending, Run};
use super::tee::{CopyBody, Queue, Tee};
use super::upstream::Protocol;
use super::worker::Worker;

const X_SHADOW: HeaderName = HeaderName::from_static("x-shadow");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// So long after it fell behind, a shadow gets no body that it could fall behind with again.
const SLOW: Duration = Duration::from_secs(5);

/// The copies of one request.
pub struct Copies {
    pub tee: Rc<Tee>,
    each: Vec<Rc<Copy>>,
    /// What main is asked a second time, once it has answered.
    again: RefCell<Vec<(Again, Request<CopyBody>)>>,
    compare_bytes: usize,
}

impl Copies {
    /// Main, not a canary, answered; what records its body where that is to be compared.
    pub fn main_answered(&self, response: &Response<Incoming>, took: Duration) -> Option<Recorder> {
        for copy in &self.each {
            copy.main.set(Some(response.status().as_u16()));
            copy.told();
        }
        let comparisons = self.each.iter().filter_map(|copy| copy.comparison.clone()).collect();
        let recorder = Recorder::new(Side::Main, comparisons, response, took, self.compare_bytes);
        for (again, request) in self.again.take() {
            again.begin(request);
        }
        recorder
    }
}

impl Drop for Copies {
    /// Without an answer of main there is nothing to compare with.
    fn drop(&mut self) {
        let unanswered = self.each.iter().filter(|copy| copy.main.get().is_none());
        for comparison in unanswered.filter_map(|copy| copy.comparison.as_ref()) {
            comparison.forget();
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
    let (mut copies, mut all_again) = (Vec::new(), Vec::new());
    let mut id = None;
    for shadow in &service.shadows {
        if let Err(reason) = admits(worker, shadow, request, upgrade) {
            shadow.state.counts.dropped.add(reason);
            continue;
        }
        let id = id.get_or_insert_with(|| worker.request_id());
        let (copy, again) = copy(worker, service, shadow, request, protocol, id);
        copies.push(copy);
        all_again.extend(again);
    }
    if copies.is_empty() {
        return None;
    }
    let queues = copies.iter().map(|copy| copy.queue.clone()).collect();
    let compare_bytes = worker.limits().compare_bytes;
    Some(Copies { tee: Rc::new(Tee::new(queues)), each: copies, again: all_again.into(), compare_bytes })
}

fn copy(
    worker: &Worker,
    service: &Service,
    shadow: &Shadow,
    request: &Request<Incoming>,
    protocol: Protocol,
    id: &HeaderValue,
) -> (Rc<Copy>, Option<(Again, Request<CopyBody>)>) {
    let (body, limits) = (request.body(), worker.limits());
    let queue =
        Queue::new(worker.budget(), limits.backlog_bytes, limits.retained_bytes, body.is_end_stream());
    let controlled = shadow.line.is_some()
        && is_safe(request)
        && shadow.state.control.borrow_mut().takes(shadow.told.control);
    let comparison = shadow.line.as_ref().and_then(|line| Comparison::begin(line, request, controlled));
    let again = comparison.as_ref().filter(|_| controlled);
    let again = again.map(|comparison| ask_again(worker, service, comparison.clone(), request, protocol));
    let copy = Rc::new(Copy {
        state: shadow.state.clone(),
        queue: queue.clone(),
        main: Cell::default(),
        shadow: Cell::default(),
        comparison,
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
    spawn_local(run.run(request));
    (copy, again)
}

/// Asking it twice changes nothing.
fn is_safe(request: &Request<Incoming>) -> bool {
    [Method::GET, Method::HEAD].contains(request.method()) && request.body().is_end_stream()
}

fn ask_again(
    worker: &Worker,
    service: &Service,
    comparison: Rc<Comparison>,
    request: &Request<Incoming>,
    protocol: Protocol,
) -> (Again, Request<CopyBody>) {
    let limits = worker.limits();
    let queue = Queue::new(worker.budget(), limits.backlog_bytes, limits.retained_bytes, true);
    let size = SizeHint::with_exact(0);
    // Not marked: main is to answer as it answers its users.
    let request = head_of(request).map(|()| CopyBody { queue, size });
    let (memory, address) = (service.memory().clone(), service.main.address);
    (Again { memory, comparison, address, protocol, limits }, request)
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

/// As main gets it, with its letters' case, on a connection that is kept.
fn head_of(request: &Request<Incoming>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.extensions_mut() = request.extensions().clone();
    copy.extensions_mut().remove::<OnUpgrade>();
    let headers = copy.headers_mut();
    headers.clone_from(request.headers());
    headers.remove(CONNECTION);
    headers.remove(EXPECT);
    copy
}

fn head_for(shadow: &Shadow, request: &Request<Incoming>, id: &HeaderValue) -> Request<()> {
    let mut copy = head_of(request);
    let headers = copy.headers_mut();
    for name in &shadow.told.without_headers {
        headers.remove(name.as_str());
    }
    if let Ok(version) = HeaderValue::from_str(&shadow.version.to_string()) {
        headers.insert(X_SHADOW, version);
    }
    headers.entry(X_REQUEST_ID).or_insert_with(|| id.clone());
    copy
}
