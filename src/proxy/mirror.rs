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
use super::shadow_request::{ControlRequest, CopyGuard, CopyTask, ShadowCopy};
use super::tee::{CopyBody, Queue, Tee};
use super::upstream::Protocol;
use super::worker::Worker;

const X_SHADOW: HeaderName = HeaderName::from_static("x-shadow");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// After a shadow fell behind, it gets no long body for this time.
const SLOW_SHADOW_BACKOFF: Duration = Duration::from_secs(5);

/// The copies of one request.
pub struct Copies {
    pub tee: Rc<Tee>,
    per_shadow: Vec<Rc<ShadowCopy>>,
    /// The request that main gets a second time, once it has answered.
    control_requests: RefCell<Vec<(ControlRequest, Request<CopyBody>)>>,
    compare_bytes: usize,
}

impl Copies {
    /// Records that main, not a canary, answered; returns the recorder of its body where that is to be compared.
    pub fn record_main_answer(&self, response: &Response<Incoming>, took: Duration) -> Option<Recorder> {
        for copy in &self.per_shadow {
            copy.main.set(Some(response.status().as_u16()));
            copy.record_statuses();
        }
        let comparisons = self.per_shadow.iter().filter_map(|copy| copy.comparison.clone()).collect();
        let recorder = Recorder::new(Side::Main, comparisons, response, took, self.compare_bytes);
        for (control, request) in self.control_requests.take() {
            control.start(request);
        }
        recorder
    }
}

impl Drop for Copies {
    /// Without an answer of main there is nothing to compare with.
    fn drop(&mut self) {
        let unanswered = self.per_shadow.iter().filter(|copy| copy.main.get().is_none());
        for comparison in unanswered.filter_map(|copy| copy.comparison.as_ref()) {
            comparison.forget();
        }
    }
}

/// Starts a copy for each shadow that is to get one. `request` is as main gets it.
pub fn start_copies(
    worker: &Rc<Worker>,
    service: &Service,
    request: &Request<Incoming>,
    protocol: Protocol,
    is_upgrade: bool,
) -> Option<Copies> {
    let (mut copies, mut control_requests) = (Vec::new(), Vec::new());
    let mut id = None;
    for shadow in &service.shadows {
        if let Err(reason) = check_admission(worker, shadow, request, is_upgrade) {
            shadow.state.counts.dropped.add(reason);
            continue;
        }
        let id = id.get_or_insert_with(|| worker.next_request_id());
        let (copy, control) = start_copy(worker, service, shadow, request, protocol, id);
        copies.push(copy);
        control_requests.extend(control);
    }
    if copies.is_empty() {
        return None;
    }
    let queues = copies.iter().map(|copy| copy.queue.clone()).collect();
    let compare_bytes = worker.limits().compare_bytes;
    Some(Copies {
        tee: Rc::new(Tee::new(queues)),
        per_shadow: copies,
        control_requests: control_requests.into(),
        compare_bytes,
    })
}

fn start_copy(
    worker: &Worker,
    service: &Service,
    shadow: &Shadow,
    request: &Request<Incoming>,
    protocol: Protocol,
    id: &HeaderValue,
) -> (Rc<ShadowCopy>, Option<(ControlRequest, Request<CopyBody>)>) {
    let (body, limits) = (request.body(), worker.limits());
    let queue =
        Queue::new(worker.budget(), limits.backlog_bytes, limits.retained_bytes, body.is_end_stream());
    let is_controlled = shadow.collector.is_some()
        && is_safe(request)
        && shadow.state.control.borrow_mut().sample(shadow.config.control);
    let comparison =
        shadow.collector.as_ref().and_then(|handle| Comparison::start(handle, request, is_controlled));
    let control = comparison.as_ref().filter(|_| is_controlled);
    let control = control
        .map(|comparison| prepare_control_request(worker, service, comparison.clone(), request, protocol));
    let copy = Rc::new(ShadowCopy {
        state: shadow.state.clone(),
        queue: queue.clone(),
        main: Cell::default(),
        shadow: Cell::default(),
        comparison,
    });
    let request = build_shadow_head(shadow, request, id).map(|()| CopyBody { queue, size: body.size_hint() });
    let task = CopyTask {
        guard: CopyGuard::start(&shadow.state),
        started_at: Instant::now(),
        copy: copy.clone(),
        address: shadow.addresses.take_next(),
        protocol,
        limits,
    };
    spawn_local(task.run(request));
    (copy, control)
}

/// Whether sending it twice changes nothing.
fn is_safe(request: &Request<Incoming>) -> bool {
    [Method::GET, Method::HEAD].contains(request.method()) && request.body().is_end_stream()
}

fn prepare_control_request(
    worker: &Worker,
    service: &Service,
    comparison: Rc<Comparison>,
    request: &Request<Incoming>,
    protocol: Protocol,
) -> (ControlRequest, Request<CopyBody>) {
    let limits = worker.limits();
    let queue = Queue::new(worker.budget(), limits.backlog_bytes, limits.retained_bytes, true);
    let size = SizeHint::with_exact(0);
    // Not marked: main is to answer as it answers its users.
    let request = copy_head(request).map(|()| CopyBody { queue, size });
    let (carried_state, address) = (service.carried_state().clone(), service.main.addresses.take_next());
    (ControlRequest { carried_state, comparison, address, protocol, limits }, request)
}

/// Cheap first. Every request that is not copied is counted by its reason.
fn check_admission(
    worker: &Worker,
    shadow: &Shadow,
    request: &Request<Incoming>,
    is_upgrade: bool,
) -> Result<(), &'static str> {
    let (state, limits) = (&shadow.state, worker.limits());
    let is_long = || request.body().size_hint().lower() > limits.backlog_bytes as u64;
    if request.headers().contains_key(X_SHADOW) {
        Err("loop")
    } else if is_upgrade {
        Err("upgrade")
    } else if !shadow.filter.matches_method(request.method().as_str()) {
        Err("method")
    } else if !shadow.filter.matches_path(request.uri().path()) {
        Err("path")
    } else if !state.sampler.borrow_mut().sample(shadow.config.percent) {
        Err("sampled_out")
    } else if worker.is_suspended() || worker.budget().held_bytes() >= limits.retained_bytes {
        Err("memory")
    } else if state.slow_since.get().is_some_and(|since| since.elapsed() < SLOW_SHADOW_BACKOFF) && is_long() {
        Err("slow")
    } else if state.counts.in_flight.get() >= limits.max_in_flight as u64 {
        Err("inflight")
    } else if !state.breaker.borrow_mut().try_admit(Instant::now()) {
        Err("breaker")
    } else {
        Ok(())
    }
}

/// Copies the head that main gets, with the case of its names, for a connection that is kept.
fn copy_head(request: &Request<Incoming>) -> Request<()> {
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

fn build_shadow_head(shadow: &Shadow, request: &Request<Incoming>, id: &HeaderValue) -> Request<()> {
    let mut copy = copy_head(request);
    let headers = copy.headers_mut();
    for name in &shadow.config.without_headers {
        headers.remove(name.as_str());
    }
    if let Ok(version) = HeaderValue::from_str(&shadow.version.to_string()) {
        headers.insert(X_SHADOW, version);
    }
    headers.entry(X_REQUEST_ID).or_insert_with(|| id.clone());
    copy
}
