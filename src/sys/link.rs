//! `world::link` over a pipe: HTTP on any byte stream, one connection a host, reconnected when it broke.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use crate::model::api::{
    API_VERSION, ApiError, Hello, HostRelease, HostView, OLDEST_API_VERSION, ProbeRequest, ProbeResult,
    RunEvent, RunOutcome, RunRequest, ServiceActivity, StatusRequest,
};
use crate::model::deployment::Digest;
use crate::model::forward::{ChangeResult, Intent};
use crate::model::history::HistoryEntry;
use crate::model::host::{ConnectConfig, Transport};
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::Port;
use crate::world::link::{HostLink, LinkError, SharedLineSink};

mod deployments;
mod ssh;
mod tls;
mod traffic_split;
mod transport;
mod upload;

use ssh::SshStderr;
use transport::{Pipe, TransportError};

/// Bound on making a connection: ssh with a jump host and a slow login is a few seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Bound on one answer. A switch waits up to 15 s for another one, and for the xtables lock.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// The agent sends an event of a running program at least this often (every 5 s when nothing happens).
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that was idle for longer is not used again: half of an agent's patience.
const IDLE_LIMIT: Duration = Duration::from_mins(5);
/// Timeout for the end of an answer whose last line has arrived, and of a connection that had ended before it was used.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Few requests are more than some bytes; a file is read as it is sent.
type Body = UnsyncBoxBody<Bytes, io::Error>;
type Sender = SendRequest<Body>;

/// A host behind a pipe.
struct HttpLink {
    host: HostName,
    transport: Pipe,
    idle_connection: Mutex<Option<Connection>>,
}

struct Connection {
    sender: Sender,
    token: Option<String>,
    /// Standard error of the ssh that carries the connection.
    ssh_stderr: Option<SshStderr>,
    /// When it was made, or its last answer read to the end.
    last_used: Instant,
    /// Dropped with it, which ends it.
    _close: oneshot::Sender<()>,
}

/// Why a request got no answer.
enum RequestFailure {
    /// Not a byte of it was sent: the kept connection had ended.
    NotSent,
    Broken(String),
}

/// The link for a way that leads away from this process.
pub fn connect(host: &HostName, way: &Transport, reach: &ConnectConfig) -> Arc<dyn HostLink> {
    let pipe = Pipe::new(host, way, reach);
    Arc::new(HttpLink { host: host.clone(), transport: pipe, idle_connection: Mutex::new(None) })
}

impl HttpLink {
    fn unreachable_error(&self, why: impl Into<String>) -> LinkError {
        LinkError::Unreachable { via: self.transport_label(), why: why.into() }
    }

    fn broken_error(&self, why: impl Into<String>) -> LinkError {
        LinkError::Broken { via: self.transport_label(), why: why.into() }
    }

    /// Takes the kept connection if it is still usable.
    async fn take_usable(&self) -> Option<Connection> {
        let mut kept = self.idle_connection.lock().await.take()?;
        // The agent closes a connection that is idle for longer; this limit avoids a request at the moment of the close.
        let stands = kept.last_used.elapsed() < IDLE_LIMIT && kept.sender.ready().await.is_ok();
        stands.then_some(kept)
    }

    /// A new connection, greeted.
    async fn open_connection(&self) -> Result<Connection, LinkError> {
        let fresh = async {
            let mut fresh = self.transport.open().await?;
            match exchange(&mut fresh, Method::GET, "/v1", None::<&()>).await {
                Ok(hello) => Ok((fresh, hello)),
                Err(unanswered) => Err(TransportError::Other(explain_failure(&fresh, unanswered).await)),
            }
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, fresh).await;
        let (fresh, (status, body)) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(TransportError::Skew { theirs, their_api })) => {
                return Err(self.skew_error(&theirs, &their_api));
            }
            Ok(Err(TransportError::Other(why))) => return Err(self.unreachable_error(why)),
            Err(_) => {
                let waited = crate::model::duration::format(CONNECT_TIMEOUT);
                return Err(self.unreachable_error(format!("no connection within {waited}")));
            }
        };
        if status != StatusCode::OK {
            return Err(self.refused_error(status, &body));
        }
        let hello: Hello = serde_json::from_slice(&body)
            .map_err(|_| self.unreachable_error("what answers there is no switchman"))?;
        if hello.api < OLDEST_API_VERSION || hello.oldest_api > API_VERSION {
            return Err(self.skew_error(&hello.version, &format_range(hello.oldest_api, hello.api)));
        }
        Ok(fresh)
    }

    fn skew_error(&self, theirs: &str, their_api: &str) -> LinkError {
        LinkError::VersionMismatch {
            via: self.transport_label(),
            theirs: theirs.to_owned(),
            their_api: their_api.to_owned(),
            ours: env!("CARGO_PKG_VERSION").to_owned(),
            our_api: format_range(OLDEST_API_VERSION, API_VERSION),
        }
    }

    fn refused_error(&self, status: StatusCode, body: &[u8]) -> LinkError {
        match serde_json::from_slice::<ApiError>(body) {
            Ok(ApiError { message, code }) => LinkError::Refused { code, message },
            Err(_) => self.broken_error(format!("it answered HTTP status {status}")),
        }
    }

    /// Sends over the kept connection, and over a new one when that turns out to have ended. One that ends at the moment
    /// of a request that is `safe` to repeat counts as ended before it, too.
    async fn send(
        &self,
        bound: Duration,
        method: &Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        safe: bool,
    ) -> Result<(Connection, Response<Incoming>), LinkError> {
        if let Some(mut kept) = self.take_usable().await {
            let began = Instant::now();
            let sent = self.run_with_timeout(bound, send(&mut kept, method, path, body)).await?;
            match sent {
                Ok(answer) => return Ok((kept, answer)),
                Err(RequestFailure::NotSent) => {}
                Err(RequestFailure::Broken(_)) if safe && began.elapsed() < END_TIMEOUT => {}
                Err(broken) => return Err(self.broken_error(explain_failure(&kept, broken).await)),
            }
        }
        let mut fresh = self.open_connection().await?;
        match self.run_with_timeout(bound, send(&mut fresh, method, path, body)).await? {
            Ok(answer) => Ok((fresh, answer)),
            Err(broken) => Err(self.broken_error(explain_failure(&fresh, broken).await)),
        }
    }

    async fn run_with_timeout<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, LinkError> {
        let ended = tokio::time::timeout(bound, work).await;
        ended.map_err(|_| LinkError::TimedOut { via: self.transport_label(), waited: bound })
    }

    /// Only a connection whose answer was read to its end may carry another one.
    async fn store_idle(&self, mut connection: Connection) {
        connection.last_used = Instant::now();
        *self.idle_connection.lock().await = Some(connection);
    }

    async fn request_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, LinkError> {
        self.request_json_within(ANSWER_TIMEOUT, method, path, body).await
    }

    async fn request_json_within<T: DeserializeOwned>(
        &self,
        bound: Duration,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, LinkError> {
        let (connection, answer) = self.send(bound, &method, path, body, true).await?;
        self.read_json(connection, answer).await
    }

    async fn read_json<T: DeserializeOwned>(
        &self,
        connection: Connection,
        answer: Response<Incoming>,
    ) -> Result<T, LinkError> {
        let status = answer.status();
        let body = match self.run_with_timeout(ANSWER_TIMEOUT, answer.into_body().collect()).await? {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err(self.broken_error(
                    explain_failure(&connection, RequestFailure::Broken(describe_error(&error))).await,
                ));
            }
        };
        self.store_idle(connection).await;
        if !status.is_success() {
            return Err(self.refused_error(status, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|error| self.broken_error(format!("its answer is not understood: {error}")))
    }
}

#[async_trait]
impl HostLink for HttpLink {
    fn transport_label(&self) -> String {
        self.transport.to_string()
    }

    async fn hello(&self) -> Result<Hello, LinkError> {
        self.request_json(Method::GET, "/v1", None::<&()>).await
    }

    async fn fetch_status(&self, question: &StatusRequest) -> Result<HostView, LinkError> {
        self.request_json(Method::POST, "/v1/status", Some(question)).await
    }

    async fn fetch_activity(&self, service: &ServiceName, port: Port) -> Result<ServiceActivity, LinkError> {
        self.request_json(Method::GET, &format!("/v1/services/{service}/pulse?port={port}"), None::<&()>)
            .await
    }

    async fn probe(&self, request: &ProbeRequest) -> Result<ProbeResult, LinkError> {
        self.request_json(Method::POST, "/v1/probe", Some(request)).await
    }

    async fn switch(&self, intent: &Intent) -> Result<ChangeResult, LinkError> {
        let path = format!("/v1/services/{}/forward", intent.forward.service);
        self.request_json(Method::PUT, &path, Some(intent)).await
    }

    /// Uses a connection of its own while the program runs, so that other requests are sent in parallel.
    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> Result<RunOutcome, LinkError> {
        self.stream_lines(Method::POST, "/v1/run", Some(request), heard).await
    }

    async fn load_history(
        &self,
        service: Option<&ServiceName>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, LinkError> {
        let service = service.map(|service| format!("&service={service}")).unwrap_or_default();
        self.request_json(Method::GET, &format!("/v1/history?limit={limit}{service}"), None::<&()>).await
    }

    async fn place(&self, service: &ServiceName, release: &str, archive: &Path) -> Result<Digest, LinkError> {
        self.upload(service, release, archive).await
    }

    async fn list_releases(&self, service: &ServiceName) -> Result<Vec<HostRelease>, LinkError> {
        self.request_json(Method::GET, &format!("/v1/services/{service}/releases"), None::<&()>).await
    }
}

impl HttpLink {
    /// Passes lines on until the last one reports how the run ended.
    async fn stream_lines(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        heard: SharedLineSink,
    ) -> Result<RunOutcome, LinkError> {
        let (connection, answer) = self.send(ANSWER_TIMEOUT, &method, path, body, false).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut lines: Vec<u8> = Vec::new();
        loop {
            let frame = match self.run_with_timeout(SILENCE_TIMEOUT, body.frame()).await? {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    let why =
                        explain_failure(&connection, RequestFailure::Broken(describe_error(&error))).await;
                    return Err(self.broken_error(format!("while the command ran: {why}")));
                }
                None if !status.is_success() => return Err(self.refused_error(status, &lines)),
                None => return Err(self.broken_error("the answer ended without its last line")),
            };
            lines.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n').filter(|_| status.is_success())
            {
                let line: Vec<u8> = lines.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(RunEvent::Line(line)) => heard.write_line(&line).await,
                    Ok(RunEvent::KeepAlive) => {}
                    Ok(RunEvent::Exited(end)) => {
                        if let Ok(None) = self.run_with_timeout(END_TIMEOUT, body.frame()).await {
                            self.store_idle(connection).await;
                        }
                        return Ok(end);
                    }
                    Ok(RunEvent::Failed(ApiError { message, code })) => {
                        return Err(LinkError::Refused { code, message });
                    }
                    Err(error) => {
                        return Err(self.broken_error(format!("its answer is not understood: {error}")));
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for HttpLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpLink")
            .field("host", &self.host)
            .field("pipe", &self.transport.to_string())
            .finish_non_exhaustive()
    }
}

fn format_range(oldest: u32, newest: u32) -> String {
    if oldest == newest { newest.to_string() } else { format!("{oldest} to {newest}") }
}

async fn exchange(
    connection: &mut Connection,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<(StatusCode, Bytes), RequestFailure> {
    let answer = send(connection, &method, path, body).await?;
    let status = answer.status();
    let body =
        answer.into_body().collect().await.map_err(|error| RequestFailure::Broken(describe_error(&error)))?;
    Ok((status, body.to_bytes()))
}

async fn send(
    connection: &mut Connection,
    method: &Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<Response<Incoming>, RequestFailure> {
    let broken = |error: &dyn Error| RequestFailure::Broken(describe_error(error));
    let mut request = build_request(connection, method, path);
    let bytes = match body {
        Some(body) => {
            request = request.header("content-type", "application/json");
            Bytes::from(serde_json::to_vec(body).map_err(|error| broken(&error))?)
        }
        None => Bytes::new(),
    };
    let request = request
        .body(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
        .map_err(|error| broken(&error))?;
    connection.sender.send_request(request).await.map_err(|error| match error {
        error if error.is_canceled() => RequestFailure::NotSent,
        error => broken(&error),
    })
}

fn build_request(connection: &Connection, method: &Method, path: &str) -> Builder {
    let request = Request::builder().method(method).uri(path).header("host", "switchman");
    match &connection.token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// Describes a failure together with the standard error of ssh, which explains more.
async fn explain_failure(connection: &Connection, unanswered: RequestFailure) -> String {
    let why = match unanswered {
        RequestFailure::NotSent => "the connection was closed".to_owned(),
        RequestFailure::Broken(why) => why,
    };
    match &connection.ssh_stderr {
        Some(complaints) => match complaints.wait_for_text().await {
            words if words.is_empty() => why,
            words => format!("{why}; ssh reports: {words}"),
        },
        None => why,
    }
}

/// An error with its causes: hyper's own words stop before the cause.
fn describe_error(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}
