//! The exchange of one request, from its head to the head of its answer.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue, SET_COOKIE};
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{Interest, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::comparison::Recorder;
use super::connection::{Connection, ConnectionGuard};
use super::download::{Download, InFlightRequest};
use super::mirror::{Copies, start_copies};
use super::service::{CanaryAttempt, Service, Target};
use super::slot::Ingress;
use super::tee::{AbortReason, Tee};
use super::upload::{ContinueGate, ContinueSignal, Upload};
use super::upstream::{Protocol, SendError, UpstreamAddr};
use crate::model::deployment::Access;
use crate::plan::proxy::gateway::{self, GatewayError};
use crate::plan::proxy::headers;

/// The connection ends without an answer: the request may have been served, and only the client can decide on a retry.
#[derive(Debug, thiserror::Error)]
#[error("no answer: {reason}")]
pub struct ConnectionAborted {
    reason: String,
}

/// The recipient of a request.
enum Recipient {
    Users(Rc<Service>),
    HealthCheck(Rc<Service>),
    /// A single version: no canary, no copies.
    SingleVersion(Rc<Service>, Target),
}

type AnswerResult = Result<Response<Download>, ConnectionAborted>;

/// Answers one request of a connection.
pub async fn answer_request(
    connection: Rc<Connection>,
    guard: Rc<ConnectionGuard>,
    mut request: Request<Incoming>,
) -> AnswerResult {
    connection.head_state.mark_parsed();
    // A connection that was displaced is closed by the task that serves it.
    connection.permit.admit();
    let exchange = Exchange { connection: &connection, guard };
    match exchange.find_recipient(&mut request) {
        Ok(Recipient::Users(service)) => exchange.answer_users(&service, request).await,
        Ok(Recipient::HealthCheck(service)) => {
            exchange.answer_without_copies(&service, &service.main, request).await
        }
        Ok(Recipient::SingleVersion(service, target)) => {
            exchange.answer_without_copies(&service, &target, request).await
        }
        Err(refusal) => Ok(exchange.respond_refusal(&refusal, &request)),
    }
}

/// An answer of the proxy itself.
struct Refusal {
    status: StatusCode,
    text: String,
}

/// The upgrade that a request wants.
struct Upgrade {
    client: OnUpgrade,
    is_connect: bool,
}

/// The context that goes along with an answer.
struct ResponseContext {
    in_flight: InFlightRequest,
    upgrade: Option<Upgrade>,
    /// The cookie for a user who has none yet.
    cookie: Option<String>,
    recorder: Option<Recorder>,
}

/// The outcome of a request.
struct Outcome<'a> {
    result: Result<Response<Incoming>, SendError<Upload>>,
    /// The target that got the request.
    target: &'a Target,
    /// When that target got it.
    started_at: Instant,
}

struct Exchange<'a> {
    connection: &'a Rc<Connection>,
    guard: Rc<ConnectionGuard>,
}

impl Exchange<'_> {
    fn find_recipient(&self, request: &mut Request<Incoming>) -> Result<Recipient, Refusal> {
        match &self.connection.ingress {
            Ingress::Service(slot) if self.connection.is_check => Ok(Recipient::HealthCheck(slot.service())),
            Ingress::Service(slot) => Ok(Recipient::Users(slot.service())),
            Ingress::Gateway => self.resolve_gateway_call(request),
        }
    }

    fn resolve_gateway_call(&self, request: &mut Request<Incoming>) -> Result<Recipient, Refusal> {
        let worker = &self.connection.worker;
        let path = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
        let target = gateway::parse_target(path, |service| worker.find_slot(service).is_some());
        let not_found = |text: String| Refusal { status: StatusCode::NOT_FOUND, text };
        let target = target.map_err(|error: GatewayError| not_found(error.to_string()))?;
        let unknown_target =
            |version: &str| not_found(format!("No service matching {}{version}", target.service));
        let service = worker.find_slot(&target.service).ok_or_else(|| unknown_target(""))?.service();
        if service.config.access == Access::Private {
            service.counts.rejected.add("private");
            let text = "the invoked service is not public".to_owned();
            return Err(Refusal { status: StatusCode::BAD_REQUEST, text });
        }
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = target.target.parse().ok();
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| not_found(error.to_string()))?;
        match &target.version {
            None => Ok(Recipient::Users(service)),
            Some(version) => {
                let found = service.find_version(version).cloned();
                found
                    .map(|target| Recipient::SingleVersion(service.clone(), target))
                    .ok_or_else(|| unknown_target(&format!(" {version}")))
            }
        }
    }

    fn respond_refusal(&self, refusal: &Refusal, request: &Request<Incoming>) -> Response<Download> {
        let in_flight = self.track_in_flight(None, Rc::new(Cell::new(request.body().is_end_stream())), None);
        respond_text(refusal.status, &refusal.text, in_flight)
    }

    async fn answer_users(&self, service: &Rc<Service>, mut request: Request<Incoming>) -> AnswerResult {
        let (canary, cookie) = service.choose_canary(request.headers(), Instant::now());
        let (upgrade, protocol) = self.prepare_request(service, &mut request);
        let copies = start_copies(&self.connection.worker, service, &request, protocol, upgrade.is_some());
        let (request, in_flight) = self.wrap_body(Some(service), request, copies.as_ref());
        let abort_guard = AbortCopyOnDrop(copies.as_ref().map(|copies| copies.tee.clone()));
        let Outcome { result, target, started_at } =
            self.send_to_canary_or_main(service, canary, request).await;
        if !matches!(result, Err(SendError::ClientReset)) {
            abort_guard.disarm();
        }
        let recorder = match (&result, &copies) {
            (Ok(response), Some(copies)) if std::ptr::eq(target, &raw const service.main) => {
                copies.record_main_answer(response, started_at.elapsed())
            }
            _ => None,
        };
        Self::count_result(target, started_at, &result);
        self.finish(service, result, ResponseContext { in_flight, upgrade, cookie, recorder })
    }

    /// Main answers for a canary that does not accept the request; its time starts then.
    async fn send_to_canary_or_main<'s>(
        &self,
        service: &'s Service,
        canary: Option<CanaryAttempt<'s>>,
        mut request: Request<Upload>,
    ) -> Outcome<'s> {
        if let Some(canary) = canary {
            let (started_at, target) = (Instant::now(), canary.target);
            match self.send(target, request).await {
                Err(SendError::Connect { request: untouched, .. }) => {
                    canary.record_refusal(Instant::now());
                    request = *untouched;
                }
                // Whether it would have answered is unknown.
                result @ Err(SendError::ClientReset) => {
                    return Outcome { result, target, started_at };
                }
                result => {
                    canary.record_success();
                    return Outcome { result, target, started_at };
                }
            }
        }
        let (started_at, target) = (Instant::now(), &service.main);
        Outcome { result: self.send(target, request).await, target, started_at }
    }

    /// Answers by one target, without copies. The request is not counted.
    async fn answer_without_copies(
        &self,
        service: &Rc<Service>,
        target: &Target,
        mut request: Request<Incoming>,
    ) -> AnswerResult {
        let (upgrade, _) = self.prepare_request(service, &mut request);
        let (request, in_flight) = self.wrap_body(None, request, None);
        let result = self.send(target, request).await;
        self.finish(service, result, ResponseContext { in_flight, upgrade, cookie: None, recorder: None })
    }

    /// Prepares the head for the upstream, and an upgrade.
    fn prepare_request(
        &self,
        service: &Service,
        request: &mut Request<Incoming>,
    ) -> (Option<Upgrade>, Protocol) {
        let protocol = self.connection.protocol.get();
        let is_upgrade =
            protocol == Protocol::Http1 && headers::wants_upgrade(request.method(), request.headers());
        let (method, version) = (request.method().clone(), request.version());
        headers::prepare_request(&method, version, request.headers_mut());
        if service.config.traffic_split.forwarded {
            headers::append_forwarded(self.connection.peer.ip(), request.headers_mut());
        }
        let upgrade = is_upgrade.then(|| Upgrade {
            client: hyper::upgrade::on(&mut *request),
            is_connect: method == Method::CONNECT,
        });
        (upgrade, protocol)
    }

    fn track_in_flight(
        &self,
        service: Option<&Service>,
        is_read: Rc<Cell<bool>>,
        continue_signal: Option<ContinueSignal>,
    ) -> InFlightRequest {
        let gauge_guard = service.map(|service| service.counts.in_flight.acquire());
        InFlightRequest::new(self.connection.head_state.clone(), is_read, continue_signal, gauge_guard)
    }

    fn wrap_body(
        &self,
        counted: Option<&Service>,
        mut request: Request<Incoming>,
        copies: Option<&Copies>,
    ) -> (Request<Upload>, InFlightRequest) {
        let expects = request.headers().get(EXPECT);
        let expects = expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let signal = expects.then(|| {
            let signal = ContinueSignal::default();
            let setter = signal.clone();
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    setter.set_wanted();
                }
            });
            signal
        });
        let is_read = Rc::new(Cell::new(false));
        let (gate, tee) = (signal.clone().map(ContinueGate::new), copies.map(|copies| copies.tee.clone()));
        let in_flight = self.track_in_flight(counted, is_read.clone(), signal);
        (request.map(|body| Upload::new(body, tee, gate, is_read)), in_flight)
    }

    /// Sends a request to an instance of a target: to another one where an instance does not accept the connection.
    async fn send(
        &self,
        target: &Target,
        mut request: Request<Upload>,
    ) -> Result<Response<Incoming>, SendError<Upload>> {
        let mut addresses = target.addresses.list_from(self.connection.turn).peekable();
        while let Some(address) = addresses.next() {
            match self.send_to(address, request).await {
                Err(SendError::Connect { request: untouched, .. }) if addresses.peek().is_some() => {
                    request = *untouched;
                }
                result => return result,
            }
        }
        let reason = std::io::ErrorKind::AddrNotAvailable.into();
        Err(SendError::Connect { request: request.into(), reason })
    }

    /// Sends a request to an address; aborted when the client resets its connection.
    async fn send_to(
        &self,
        address: SocketAddr,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, SendError<Upload>> {
        let connections = self.connection.pinned_connections.borrow().clone();
        let connect_timeout = Duration::from_millis(self.connection.worker.limits().connect_timeout_ms);
        let upstream = UpstreamAddr { address, connect_timeout };
        tokio::select! {
            biased;
            result = connections.send(upstream, request, |address| self.connection.can_keep_upstream(address)) => result,
            () = wait_for_reset(&self.connection.stream) => Err(SendError::ClientReset),
        }
    }

    fn count_result(
        target: &Target,
        started_at: Instant,
        result: &Result<Response<Incoming>, SendError<Upload>>,
    ) {
        match result {
            Ok(response) => target.counts.record_answer(response.status().as_u16(), started_at.elapsed()),
            Err(SendError::Connect { .. }) => target.counts.errors.add("connect"),
            Err(SendError::ClientReset) => target.counts.errors.add("client"),
            Err(SendError::Broken(error)) => {
                target.counts.errors.add(if error.is_user() { "client" } else { "reset" });
            }
        }
    }

    fn finish(
        &self,
        service: &Rc<Service>,
        result: Result<Response<Incoming>, SendError<Upload>>,
        context: ResponseContext,
    ) -> AnswerResult {
        let ResponseContext { in_flight, upgrade, cookie, recorder } = context;
        let mut response = match result {
            Ok(response) => response,
            Err(SendError::Broken(error)) => return Err(ConnectionAborted { reason: error.to_string() }),
            Err(SendError::ClientReset) => {
                return Err(ConnectionAborted { reason: "the client closed the connection".to_owned() });
            }
            Err(SendError::Connect { reason, .. }) => {
                if !self.connection.is_check {
                    service.counts.rejected.add("connect");
                }
                log::debug!("{} of {}: {reason}", service.main.version, service.config.service);
                return Ok(respond_text(
                    StatusCode::BAD_GATEWAY,
                    "the service cannot be reached\n",
                    in_flight,
                ));
            }
        };
        let is_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let is_accepted =
            |upgrade: &Upgrade| is_switched || (upgrade.is_connect && response.status().is_success());
        if let Some(upgrade) = upgrade.filter(is_accepted) {
            self.connection.head_state.stop_tracking();
            self.tunnel(service, upgrade.client, hyper::upgrade::on(&mut response));
        }
        let is_last = self.connection.is_last() && self.connection.protocol.get() == Protocol::Http1;
        let version = response.version();
        if self.connection.protocol.get() == Protocol::Http1 {
            headers::prepare_response(version, is_switched, is_last, response.headers_mut());
        }
        if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        Ok(response.map(|body| Download::from_upstream(body, in_flight, recorder)))
    }

    /// Copies an upgraded connection byte by byte, in the protocol that both sides agreed on.
    fn tunnel(&self, service: &Rc<Service>, client: OnUpgrade, main: OnUpgrade) {
        let (guard, upgraded, peer) =
            (self.guard.clone(), service.counts.upgraded.acquire(), self.connection.peer);
        spawn_local(async move {
            let ended = async {
                let (client, main) = tokio::try_join!(client, main).map_err(std::io::Error::other)?;
                copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(main)).await
            };
            if let Err(error) = ended.await {
                log::debug!("{peer}: upgraded: {error}");
            }
            drop((guard, upgraded));
        });
    }
}

/// Returns when the connection was reset; a half-closed one still wants its answer.
async fn wait_for_reset(stream: &TcpStream) {
    if stream.ready(Interest::ERROR).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Aborts copies on behalf of the client: main is not the reason why the body ends early.
struct AbortCopyOnDrop(Option<Rc<Tee>>);

impl AbortCopyOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for AbortCopyOnDrop {
    fn drop(&mut self) {
        if let Some(tee) = &self.0 {
            tee.abort(AbortReason::Client);
        }
    }
}

fn respond_text(status: StatusCode, text: &str, in_flight: InFlightRequest) -> Response<Download> {
    let mut response = Response::new(Download::from_text(text.to_owned(), Some(in_flight)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
