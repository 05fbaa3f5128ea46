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
    ApiError, Hello, HostRelease, HostView, ProbeRequest, ProbeResult, RunEvent, RunOutcome, RunRequest,
    ServiceActivity, StatusRequest,
};
use crate::model::deployment::Digest;
use crate::model::failure::ErrorCode;
use crate::model::forward::{ChangeResult, Intent};
use crate::model::history::HistoryEntry;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::ProxyStats;
use crate::world::link::{HostLink, LineSink, LinkError, SharedLineSink};
use crate::world::releases::ReleaseStore;

mod deployments;
mod route_table;

pub(super) use route_table::Route;
use route_table::{get, post, put};

/// A body is a few KiB; more is a mistake.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Interval at which the caller of a silent program gets a sign that the link is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Lines that wait for a slow reader; then the program waits too.
const LINE_BUFFER: usize = 256;

pub(super) type Host = Arc<dyn HostLink>;

/// State that all routes share.
#[derive(Clone)]
pub(super) struct ApiState {
    pub host: Host,
    /// Directory that holds an archive until it is complete.
    pub releases: Arc<dyn ReleaseStore>,
    pub metrics: Arc<Metrics>,
}

impl FromRef<ApiState> for Host {
    fn from_ref(doors: &ApiState) -> Self {
        doors.host.clone()
    }
}

impl FromRef<ApiState> for Arc<Metrics> {
    fn from_ref(doors: &ApiState) -> Self {
        doors.metrics.clone()
    }
}

/// All routes over one host. With a token, every request has to bear it.
pub fn build_router(
    host: Host,
    releases: Arc<dyn ReleaseStore>,
    metrics: Arc<Metrics>,
    token: Option<Arc<str>>,
) -> Router {
    let routes = route_table::router(build_routes())
        .fallback(async || {
            respond_error(StatusCode::NOT_FOUND, ErrorCode::NotFound, "there is no such route")
        })
        .method_not_allowed_fallback(async || {
            respond_error(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorCode::BadRequest,
                "this route has no such method",
            )
        })
        .with_state(ApiState { host, releases, metrics });
    match token {
        Some(token) => routes.layer(middleware::from_fn_with_state(token, require_token)),
        None => routes,
    }
}

pub(super) fn build_routes() -> Vec<Route> {
    let mut table = build_host_routes();
    table.extend(build_service_routes());
    table.extend(deployments::build_routes());
    table
}

fn build_host_routes() -> Vec<Route> {
    let hello_op = Operation::new::<Hello>("hello", "Report the agent and its API versions");
    let description_op = Operation::new::<Map<String, Value>>("description", "This description");
    let status_op = Operation::new::<HostView>("status", "Report the state of this host");
    let probe_op = Operation::new::<ProbeResult>("probe", "One health check of a real port");
    let run_op = Operation::new::<RunEvent>(
        "run",
        "Run a program: its lines, then its end. The program ends when the caller disconnects",
    );
    let proxy_op = Operation::new::<Option<ProxyStats>>(
        "proxy",
        "Report the counters of the host's proxy; null: it has none",
    );
    let metrics_op =
        Operation::new_text("metrics", "Report the metrics of this host: Prometheus' text format 0.0.4");
    let history_op =
        Operation::new::<Vec<HistoryEntry>>("history", "List the operations on this host, oldest first");
    vec![
        get("/v1", get_hello, hello_op),
        get("/v1/openapi.json", get_description, description_op),
        post("/v1/status", get_status, status_op.body::<StatusRequest>()),
        post("/v1/probe", run_probe, probe_op.body::<ProbeRequest>()),
        post("/v1/run", run_program, run_op.body::<RunRequest>().with_ndjson_response()),
        get("/v1/history", get_history, history_op.with_query::<HistoryQuery>()),
        get("/v1/proxy", get_proxy_stats, proxy_op),
        // Where every scraper looks.
        get("/metrics", get_metrics, metrics_op),
    ]
}

fn build_service_routes() -> Vec<Route> {
    let pulse_op = Operation::new::<ServiceActivity>(
        "pulse",
        "Report what changes while a command waits: the record's generation, open connections",
    );
    let forward_op = Operation::new::<ChangeResult>(
        "switchForward",
        "Switch the forward in kernel and record; repeating the request changes nothing",
    );
    let releases_op = Operation::new::<Vec<HostRelease>>("releases", "List the complete releases");
    let place_op = Operation::new::<Digest>(
        "placeRelease",
        "Unpack a .tar.gz of at most 1 GiB, all or nothing; repeating the request changes nothing",
    );
    vec![
        get("/v1/services/{service}/pulse", pulse, pulse_op.with_query::<PortQuery>()),
        put("/v1/services/{service}/forward", set_forward, forward_op.body::<Intent>()),
        get("/v1/services/{service}/releases", list_releases, releases_op),
        put("/v1/services/{service}/releases/{release}", upload::upload_release, place_op.archive()),
    ]
}

async fn get_proxy_stats(State(host): State<Host>) -> Response {
    respond(host.read_proxy_stats().await)
}

async fn get_metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    crate::agent::metrics::respond(&metrics).await
}

async fn get_description() -> Response {
    axum::Json(openapi::build_document(&build_routes())).into_response()
}

async fn require_token(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    if has_token(request.headers(), &token) {
        return next.run(request).await;
    }
    respond_error(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, "the bearer token is missing or wrong")
}

/// Takes as long for a wrong token as for the right one.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().as_bytes();
    let differ = given.iter().zip(token.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differ == 0
}

/// A change that has begun is not stopped when its caller disconnects: no other caller could take back half of it.
async fn run_to_completion<T: Send + 'static>(
    change: impl Future<Output = Result<T, LinkError>> + Send + 'static,
) -> Result<T, LinkError> {
    let ended = tokio::spawn(change).await;
    ended.unwrap_or_else(|ended| {
        Err(LinkError::Refused { code: ErrorCode::Other, message: format!("it did not end: {ended}") })
    })
}

/// The result of a handler. A request that is refused before it reaches the host is answered with an [`ApiError`] too.
pub(super) type ApiResult = Result<Response, Response>;

async fn get_hello(State(host): State<Host>) -> Response {
    respond(host.hello().await)
}

async fn get_status(State(host): State<Host>, body: Body) -> ApiResult {
    let question: StatusRequest = parse_body(body).await?;
    Ok(respond(host.fetch_status(&question).await))
}

#[derive(Deserialize, JsonSchema)]
struct PortQuery {
    // A query has texts only, which a `Port` is never read from.
    #[schemars(with = "Port")]
    port: u16,
}

async fn pulse(
    State(host): State<Host>,
    service: Result<Path<ServiceName>, PathRejection>,
    which: Result<Query<PortQuery>, QueryRejection>,
) -> ApiResult {
    let (Path(service), Query(which)) = (require_valid(service)?, require_valid(which)?);
    let port = Port::new(which.port).ok_or_else(|| bad_request("`port=0` names no port"))?;
    Ok(respond(host.fetch_activity(&service, port).await))
}

async fn set_forward(
    State(host): State<Host>,
    service: Result<Path<ServiceName>, PathRejection>,
    body: Body,
) -> ApiResult {
    let Path(service) = require_valid(service)?;
    let intent: Intent = parse_body(body).await?;
    if intent.forward.service != service {
        let text = format!("the path is about `{service}`, the body about `{}`", intent.forward.service);
        return Err(bad_request(&text));
    }
    Ok(respond(run_to_completion(async move { host.switch(&intent).await }).await))
}

async fn run_probe(State(host): State<Host>, body: Body) -> ApiResult {
    let request: ProbeRequest = parse_body(body).await?;
    Ok(respond(host.probe(&request).await))
}

#[derive(Deserialize, JsonSchema)]
struct HistoryQuery {
    limit: u32,
    service: Option<ServiceName>,
}

async fn get_history(
    State(host): State<Host>,
    rows: Result<Query<HistoryQuery>, QueryRejection>,
) -> ApiResult {
    let Query(rows) = require_valid(rows)?;
    Ok(respond(host.load_history(rows.service.as_ref(), rows.limit).await))
}

async fn list_releases(
    State(host): State<Host>,
    service: Result<Path<ServiceName>, PathRejection>,
) -> ApiResult {
    let Path(service) = require_valid(service)?;
    Ok(respond(host.list_releases(&service).await))
}

/// JSON lines while the program runs. A caller that goes away ends the program.
async fn run_program(State(host): State<Host>, body: Body) -> ApiResult {
    let request: RunRequest = parse_body(body).await?;
    Ok(stream_run(move |caller| async move { host.run(&request, caller).await }))
}

/// The answer that goes on while something runs.
fn stream_run<F>(run: impl FnOnce(SharedLineSink) -> F) -> Response
where
    F: Future<Output = Result<RunOutcome, LinkError>> + Send + 'static,
{
    let (lines, mut heard) = mpsc::channel(LINE_BUFFER);
    let ended = run(Arc::new(ChannelSink(lines.clone())));
    let running = AbortOnDrop(tokio::spawn(drive_run(ended, lines)));
    let stream = futures_util::stream::poll_fn(move |context| {
        let _held = &running;
        heard.poll_recv(context).map(|line: Option<RunEvent>| line.map(|line| encode_line(&line)))
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

/// The caller that requested the run, at the other end of the link.
struct ChannelSink(mpsc::Sender<RunEvent>);

#[async_trait]
impl LineSink for ChannelSink {
    async fn write_line(&self, line: &str) {
        // A caller that disconnected receives nothing any more, and the run is ended for it.
        let _ = self.0.send(RunEvent::Line(line.to_owned())).await;
    }
}

async fn drive_run(
    ended: impl Future<Output = Result<RunOutcome, LinkError>>,
    lines: mpsc::Sender<RunEvent>,
) {
    tokio::pin!(ended);
    let ended = loop {
        tokio::select! {
            ended = &mut ended => break ended,
            () = tokio::time::sleep(KEEPALIVE_INTERVAL) => {
                let _ = lines.try_send(RunEvent::KeepAlive);
            }
        }
    };
    let last = match ended {
        Ok(end) => RunEvent::Exited(end),
        Err(error) => RunEvent::Failed(to_api_error(&error)),
    };
    let _ = lines.send(last).await;
}

fn encode_line(line: &RunEvent) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text.into())
}

/// Strict, with the place of a mistake.
async fn parse_body<T: DeserializeOwned>(body: Body) -> Result<T, Response> {
    let bytes = read_body(body).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| bad_request(&format!("the body is not understood: {error}")))
}

async fn read_body(body: Body) -> Result<Bytes, Response> {
    let bytes = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let text = format!("the body has more than {MAX_BODY_BYTES} bytes");
            respond_error(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BadRequest, &text)
        } else {
            bad_request(&error.to_string())
        }
    })?;
    Ok(bytes.to_bytes())
}

/// A path or a query.
pub(super) fn require_valid<T>(read: Result<T, impl Display>) -> Result<T, Response> {
    read.map_err(|error| bad_request(&error.to_string()))
}

pub(super) fn bad_request(message: &str) -> Response {
    respond_error(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
}

pub(super) fn respond<T: Serialize>(result: Result<T, LinkError>) -> Response {
    match result {
        Ok(value) => axum::Json(value).into_response(),
        Err(error) => {
            let body = to_api_error(&error);
            (to_status_code(body.code), axum::Json(body)).into_response()
        }
    }
}

fn to_api_error(error: &LinkError) -> ApiError {
    let code = match error {
        LinkError::Refused { code, .. } => *code,
        _ => ErrorCode::Other,
    };
    ApiError { message: error.to_string(), code }
}

pub(super) const fn to_status_code(code: ErrorCode) -> StatusCode {
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

pub(super) fn respond_error(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    (status, axum::Json(ApiError { message: message.to_owned(), code })).into_response()
}
