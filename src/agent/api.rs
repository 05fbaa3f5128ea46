//! The routes of the host API, version 1. `GET /v1/openapi.json` describes them.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRef, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::metrics::Metrics;
use super::openapi::{self, Operation};
use super::upload;
use crate::model::api::{
    ApiError, Hello, HostView, PlacedRelease, ProbeRequest, Probed, Pulse, Question, RunEnd, RunHeard,
    RunRequest,
};
use crate::model::deployment::Digest;
use crate::model::failure::ErrorCode;
use crate::model::forward::{Changed, Intent};
use crate::model::history::Entry;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::ProxyStats;
use crate::world::link::{Heard, HostLink, LinkError, Listener};
use crate::world::releases::Releases;

mod deployments;
mod table;

pub(super) use table::Route;
use table::{get, post, put};

/// A body is a few KiB; more is a mistake.
const LARGEST: usize = 1024 * 1024;
/// How often a silent program's caller is told that the link is alive.
const QUIET: Duration = Duration::from_secs(5);
/// Lines that wait for a slow reader; then the program waits too.
const LINES: usize = 256;

pub(super) type Host = Arc<dyn HostLink>;

/// What the routes lead to.
#[derive(Clone)]
pub(super) struct Doors {
    pub host: Host,
    /// Where an archive waits until it is whole.
    pub releases: Arc<dyn Releases>,
    pub metrics: Arc<Metrics>,
}

impl FromRef<Doors> for Host {
    fn from_ref(doors: &Doors) -> Self {
        doors.host.clone()
    }
}

impl FromRef<Doors> for Arc<Metrics> {
    fn from_ref(doors: &Doors) -> Self {
        doors.metrics.clone()
    }
}

/// All routes over one host. With a token, every request has to bear it.
pub fn router(
    host: Host,
    releases: Arc<dyn Releases>,
    metrics: Arc<Metrics>,
    token: Option<Arc<str>>,
) -> Router {
    let routes = table::router(table())
        .fallback(async || failed(StatusCode::NOT_FOUND, ErrorCode::NotFound, "there is no such route"))
        .method_not_allowed_fallback(async || {
            failed(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadRequest, "this route has no such method")
        })
        .with_state(Doors { host, releases, metrics });
    match token {
        Some(token) => routes.layer(middleware::from_fn_with_state(token, admit)),
        None => routes,
    }
}

pub(super) fn table() -> Vec<Route> {
    let mut table = host();
    table.extend(services());
    table.extend(deployments::table());
    table
}

fn host() -> Vec<Route> {
    let hello_op = Operation::new::<Hello>("hello", "Who answers, and which versions of the API");
    let description_op = Operation::new::<Map<String, Value>>("description", "This description");
    let status_op = Operation::new::<HostView>("status", "One look at this host");
    let probe_op = Operation::new::<Probed>("probe", "One health check of a real port");
    let run_op = Operation::new::<RunHeard>(
        "run",
        "Run a program: its lines, then its end. Ended when the caller goes away",
    );
    let proxy_op =
        Operation::new::<Option<ProxyStats>>("proxy", "What the host's proxy counted; null: it has none");
    let metrics_op = Operation::text("metrics", "This host in numbers: Prometheus' text format 0.0.4");
    let history_op = Operation::new::<Vec<Entry>>("history", "What was done on this host, oldest first");
    vec![
        get("/v1", hello, hello_op),
        get("/v1/openapi.json", description, description_op),
        post("/v1/status", status, status_op.body::<Question>()),
        post("/v1/probe", probe, probe_op.body::<ProbeRequest>()),
        post("/v1/run", run, run_op.body::<RunRequest>().lines()),
        get("/v1/history", history, history_op.query::<Rows>()),
        get("/v1/proxy", proxy, proxy_op),
        // Where every scraper looks.
        get("/metrics", metrics, metrics_op),
    ]
}

fn services() -> Vec<Route> {
    let pulse_op = Operation::new::<Pulse>(
        "pulse",
        "What changes while a command waits: the record's generation, connections at work",
    );
    let forward_op = Operation::new::<Changed>(
        "switchForward",
        "Kernel and record together; the same again changes nothing",
    );
    let releases_op = Operation::new::<Vec<PlacedRelease>>("releases", "The releases that are whole");
    let place_op = Operation::new::<Digest>(
        "placeRelease",
        "Unpack a .tar.gz of at most 1 GiB, whole or not at all; the same again is done already",
    );
    vec![
        get("/v1/services/{service}/pulse", pulse, pulse_op.query::<Which>()),
        put("/v1/services/{service}/forward", forward, forward_op.body::<Intent>()),
        get("/v1/services/{service}/releases", releases_of, releases_op),
        put("/v1/services/{service}/releases/{release}", upload::place, place_op.archive()),
    ]
}

async fn proxy(State(host): State<Host>) -> Response {
    answer(host.proxy().await)
}

async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    crate::agent::metrics::answer(&metrics).await
}

async fn description() -> Response {
    axum::Json(openapi::document(&table())).into_response()
}

async fn admit(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    if bears(request.headers(), &token) {
        return next.run(request).await;
    }
    failed(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, "the bearer token is missing or wrong")
}

/// Takes as long for a wrong token as for the right one.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().as_bytes();
    let differ = given.iter().zip(token.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differ == 0
}

/// A change that has begun is not stopped by a caller that goes away: half of it would be nobody's to take back.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, LinkError>> + Send + 'static,
) -> Result<T, LinkError> {
    let ended = tokio::spawn(change).await;
    ended.unwrap_or_else(|ended| {
        Err(LinkError::Refused { code: ErrorCode::Other, message: format!("it did not end: {ended}") })
    })
}

/// What is refused before the host is asked is answered as [`ApiError`] too.
pub(super) type Answer = Result<Response, Response>;

async fn hello(State(host): State<Host>) -> Response {
    answer(host.hello().await)
}

async fn status(State(host): State<Host>, body: Body) -> Answer {
    let question: Question = read(body).await?;
    Ok(answer(host.look(&question).await))
}

#[derive(Deserialize, JsonSchema)]
struct Which {
    // A query has texts only, which a `Port` is never read from.
    #[schemars(with = "Port")]
    port: u16,
}

async fn pulse(
    State(host): State<Host>,
    service: Result<Path<ServiceName>, PathRejection>,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer {
    let (Path(service), Query(which)) = (understood(service)?, understood(which)?);
    let port = Port::new(which.port).ok_or_else(|| bad("`port=0` names no port"))?;
    Ok(answer(host.pulse(&service, port).await))
}

async fn forward(
    State(host): State<Host>,
    service: Result<Path<ServiceName>, PathRejection>,
    body: Body,
) -> Answer {
    let Path(service) = understood(service)?;
    let intent: Intent = read(body).await?;
    if intent.forward.service != service {
        let text = format!("the path is about `{service}`, the body about `{}`", intent.forward.service);
        return Err(bad(&text));
    }
    Ok(answer(to_its_end(async move { host.switch(&intent).await }).await))
}

async fn probe(State(host): State<Host>, body: Body) -> Answer {
    let request: ProbeRequest = read(body).await?;
    Ok(answer(host.probe(&request).await))
}

#[derive(Deserialize, JsonSchema)]
struct Rows {
    limit: u32,
    service: Option<ServiceName>,
}

async fn history(State(host): State<Host>, rows: Result<Query<Rows>, QueryRejection>) -> Answer {
    let Query(rows) = understood(rows)?;
    Ok(answer(host.history(rows.service.as_ref(), rows.limit).await))
}

async fn releases_of(State(host): State<Host>, service: Result<Path<ServiceName>, PathRejection>) -> Answer {
    let Path(service) = understood(service)?;
    Ok(answer(host.releases(&service).await))
}

/// JSON lines while the program runs. A caller that goes away ends the program.
async fn run(State(host): State<Host>, body: Body) -> Answer {
    let request: RunRequest = read(body).await?;
    Ok(running(move |caller| async move { host.run(&request, caller).await }))
}

/// The answer that goes on while something runs.
fn running<F>(run: impl FnOnce(Heard) -> F) -> Response
where
    F: Future<Output = Result<RunEnd, LinkError>> + Send + 'static,
{
    let (lines, mut heard) = mpsc::channel(LINES);
    let ended = run(Arc::new(Caller(lines.clone())));
    let running = AbortOnDrop(tokio::spawn(run_to_its_end(ended, lines)));
    let stream = futures_util::stream::poll_fn(move |context| {
        let _held = &running;
        heard.poll_recv(context).map(|line: Option<RunHeard>| line.map(|line| as_line(&line)))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (headers, Body::from_stream(stream)).into_response()
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whoever asked for the run, at the other end of the link.
struct Caller(mpsc::Sender<RunHeard>);

#[async_trait]
impl Listener for Caller {
    async fn hear(&self, line: &str) {
        // One that went away hears nothing any more, and the run is ended for it.
        let _ = self.0.send(RunHeard::Line(line.to_owned())).await;
    }
}

async fn run_to_its_end(
    ended: impl Future<Output = Result<RunEnd, LinkError>>,
    lines: mpsc::Sender<RunHeard>,
) {
    tokio::pin!(ended);
    let ended = loop {
        tokio::select! {
            ended = &mut ended => break ended,
            () = tokio::time::sleep(QUIET) => {
                let _ = lines.try_send(RunHeard::Quiet);
            }
        }
    };
    let last = match ended {
        Ok(end) => RunHeard::Ended(end),
        Err(error) => RunHeard::Failed(body(&error)),
    };
    let _ = lines.send(last).await;
}

fn as_line(line: &RunHeard) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text.into())
}

/// Strict, with the place of a mistake.
async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Response> {
    let bytes = body_of(body).await?;
    serde_json::from_slice(&bytes).map_err(|error| bad(&format!("the body is not understood: {error}")))
}

async fn body_of(body: Body) -> Result<Bytes, Response> {
    let bytes = Limited::new(body, LARGEST).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let text = format!("the body has more than {LARGEST} bytes");
            failed(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BadRequest, &text)
        } else {
            bad(&error.to_string())
        }
    })?;
    Ok(bytes.to_bytes())
}

/// A path or a query.
pub(super) fn understood<T>(read: Result<T, impl Display>) -> Result<T, Response> {
    read.map_err(|error| bad(&error.to_string()))
}

pub(super) fn bad(message: &str) -> Response {
    failed(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
}

pub(super) fn answer<T: Serialize>(result: Result<T, LinkError>) -> Response {
    match result {
        Ok(value) => axum::Json(value).into_response(),
        Err(error) => {
            let body = body(&error);
            (status_of(body.code), axum::Json(body)).into_response()
        }
    }
}

fn body(error: &LinkError) -> ApiError {
    let code = match error {
        LinkError::Refused { code, .. } => *code,
        _ => ErrorCode::Other,
    };
    ApiError { message: error.to_string(), code }
}

pub(super) const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::NoPrivilege | ErrorCode::NotAllowed => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Busy
        | ErrorCode::RulesLocked
        | ErrorCode::RulesContested
        | ErrorCode::Exists
        | ErrorCode::NotDrained => StatusCode::CONFLICT,
        ErrorCode::NoAgent => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::BadArchive | ErrorCode::Unhealthy | ErrorCode::Unprocessable => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ErrorCode::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(super) fn failed(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    (status, axum::Json(ApiError { message: message.to_owned(), code })).into_response()
}
