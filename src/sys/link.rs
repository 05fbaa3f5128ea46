//! `world::link` over a pipe: HTTP on whatever bytes lie between, one connection a host, made anew when it broke.

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
    API, ApiError, Hello, HostView, OLDEST_API, PlacedRelease, ProbeRequest, Probed, Pulse, Question, RunEnd,
    RunHeard, RunRequest,
};
use crate::model::deployment::Digest;
use crate::model::forward::{Changed, Intent};
use crate::model::history::Entry;
use crate::model::host::{Reach, Way};
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::Port;
use crate::world::link::{Heard, HostLink, LinkError};

mod deployments;
mod pipe;
mod ssh;
mod tls;
mod traffic_split;
mod upload;

use pipe::{Pipe, PipeError};
use ssh::Complaints;

/// Bound on making a connection: ssh with a jump host and a slow login is a few seconds.
const CONNECT: Duration = Duration::from_secs(20);
/// Bound on one answer. A switch waits up to 15 s for another one, and for the xtables lock.
const ANSWER: Duration = Duration::from_secs(40);
/// A running program is heard of at least this often (the agent says so when nothing happens every 5 s).
const SILENCE: Duration = Duration::from_secs(20);

/// A connection that was idle for longer is not used again: half of an agent's patience.
const IDLE: Duration = Duration::from_mins(5);
/// For the end of an answer whose last line is there; and of a connection that had ended already when it was used.
const MOMENT: Duration = Duration::from_secs(1);

/// Few requests are more than some bytes; a file is read as it is sent.
type Body = UnsyncBoxBody<Bytes, io::Error>;
type Sender = SendRequest<Body>;

/// A host behind a pipe.
struct HttpLink {
    host: HostName,
    pipe: Pipe,
    sender: Mutex<Option<Connection>>,
}

struct Connection {
    sender: Sender,
    token: Option<String>,
    /// Of the program that carries it.
    complaints: Option<Complaints>,
    /// When it was made, or its last answer read to the end.
    used: Instant,
    /// Dropped with it, which ends it.
    _end: oneshot::Sender<()>,
}

/// Why a request got no answer.
enum Unanswered {
    /// Not a byte of it was sent: the kept connection had ended.
    Unsent,
    Broken(String),
}

/// The link for a way that leads away from this process.
pub fn connect(host: &HostName, way: &Way, reach: &Reach) -> Arc<dyn HostLink> {
    let pipe = Pipe::new(host, way, reach);
    Arc::new(HttpLink { host: host.clone(), pipe, sender: Mutex::new(None) })
}

impl HttpLink {
    fn unreachable(&self, why: impl Into<String>) -> LinkError {
        LinkError::Unreachable { via: self.via(), why: why.into() }
    }

    fn broken(&self, why: impl Into<String>) -> LinkError {
        LinkError::Broken { via: self.via(), why: why.into() }
    }

    /// The kept connection while it stands.
    async fn kept(&self) -> Option<Connection> {
        let mut kept = self.sender.lock().await.take()?;
        // The agent ends one that is idle for longer; never in the moment that something is asked over it.
        let stands = kept.used.elapsed() < IDLE && kept.sender.ready().await.is_ok();
        stands.then_some(kept)
    }

    /// A new connection, greeted.
    async fn fresh(&self) -> Result<Connection, LinkError> {
        let fresh = async {
            let mut fresh = self.pipe.open().await?;
            match exchange(&mut fresh, Method::GET, "/v1", None::<&()>).await {
                Ok(hello) => Ok((fresh, hello)),
                Err(unanswered) => Err(PipeError::Other(why(&fresh, unanswered).await)),
            }
        };
        let opened = tokio::time::timeout(CONNECT, fresh).await;
        let (fresh, (status, body)) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(PipeError::Skew { theirs, their_api })) => return Err(self.skew(&theirs, &their_api)),
            Ok(Err(PipeError::Other(why))) => return Err(self.unreachable(why)),
            Err(_) => {
                let waited = crate::model::duration::show(CONNECT);
                return Err(self.unreachable(format!("no connection within {waited}")));
            }
        };
        if status != StatusCode::OK {
            return Err(self.refused(status, &body));
        }
        let hello: Hello = serde_json::from_slice(&body)
            .map_err(|_| self.unreachable("what answers there is no switchman"))?;
        if hello.api < OLDEST_API || hello.oldest_api > API {
            return Err(self.skew(&hello.version, &range(hello.oldest_api, hello.api)));
        }
        Ok(fresh)
    }

    fn skew(&self, theirs: &str, their_api: &str) -> LinkError {
        LinkError::Skew {
            via: self.via(),
            theirs: theirs.to_owned(),
            their_api: their_api.to_owned(),
            ours: env!("CARGO_PKG_VERSION").to_owned(),
            our_api: range(OLDEST_API, API),
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> LinkError {
        match serde_json::from_slice::<ApiError>(body) {
            Ok(ApiError { message, code }) => LinkError::Refused { code, message },
            Err(_) => self.broken(format!("it answered HTTP status {status}")),
        }
    }

    /// Sends over the kept connection, and over a new one when that turns out to have ended. One that ends in the very moment
    /// of a question that is `safe` to ask twice had ended before it, too.
    async fn send(
        &self,
        bound: Duration,
        method: &Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        safe: bool,
    ) -> Result<(Connection, Response<Incoming>), LinkError> {
        if let Some(mut kept) = self.kept().await {
            let began = Instant::now();
            let sent = self.in_time(bound, send(&mut kept, method, path, body)).await?;
            match sent {
                Ok(answer) => return Ok((kept, answer)),
                Err(Unanswered::Unsent) => {}
                Err(Unanswered::Broken(_)) if safe && began.elapsed() < MOMENT => {}
                Err(broken) => return Err(self.broken(why(&kept, broken).await)),
            }
        }
        let mut fresh = self.fresh().await?;
        match self.in_time(bound, send(&mut fresh, method, path, body)).await? {
            Ok(answer) => Ok((fresh, answer)),
            Err(broken) => Err(self.broken(why(&fresh, broken).await)),
        }
    }

    async fn in_time<T>(&self, bound: Duration, work: impl Future<Output = T>) -> Result<T, LinkError> {
        let ended = tokio::time::timeout(bound, work).await;
        ended.map_err(|_| LinkError::Silent { via: self.via(), waited: bound })
    }

    /// Only a connection whose answer was read to its end may carry another one.
    async fn keep(&self, mut connection: Connection) {
        connection.used = Instant::now();
        *self.sender.lock().await = Some(connection);
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, LinkError> {
        self.ask_within(ANSWER, method, path, body).await
    }

    async fn ask_within<T: DeserializeOwned>(
        &self,
        bound: Duration,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, LinkError> {
        let (connection, answer) = self.send(bound, &method, path, body, true).await?;
        self.read(connection, answer).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        connection: Connection,
        answer: Response<Incoming>,
    ) -> Result<T, LinkError> {
        let status = answer.status();
        let body = match self.in_time(ANSWER, answer.into_body().collect()).await? {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err(self.broken(why(&connection, Unanswered::Broken(reason(&error))).await));
            }
        };
        self.keep(connection).await;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|error| self.broken(format!("its answer is not understood: {error}")))
    }
}

#[async_trait]
impl HostLink for HttpLink {
    fn via(&self) -> String {
        self.pipe.to_string()
    }

    async fn hello(&self) -> Result<Hello, LinkError> {
        self.ask(Method::GET, "/v1", None::<&()>).await
    }

    async fn look(&self, question: &Question) -> Result<HostView, LinkError> {
        self.ask(Method::POST, "/v1/status", Some(question)).await
    }

    async fn pulse(&self, service: &ServiceName, port: Port) -> Result<Pulse, LinkError> {
        self.ask(Method::GET, &format!("/v1/services/{service}/pulse?port={port}"), None::<&()>).await
    }

    async fn probe(&self, request: &ProbeRequest) -> Result<Probed, LinkError> {
        self.ask(Method::POST, "/v1/probe", Some(request)).await
    }

    async fn switch(&self, intent: &Intent) -> Result<Changed, LinkError> {
        let path = format!("/v1/services/{}/forward", intent.forward.service);
        self.ask(Method::PUT, &path, Some(intent)).await
    }

    /// On a connection of its own while it lasts: others ask meanwhile.
    async fn run(&self, request: &RunRequest, heard: Heard) -> Result<RunEnd, LinkError> {
        self.stream(Method::POST, "/v1/run", Some(request), heard).await
    }

    async fn history(&self, service: Option<&ServiceName>, limit: u32) -> Result<Vec<Entry>, LinkError> {
        let service = service.map(|service| format!("&service={service}")).unwrap_or_default();
        self.ask(Method::GET, &format!("/v1/history?limit={limit}{service}"), None::<&()>).await
    }

    async fn place(&self, service: &ServiceName, release: &str, archive: &Path) -> Result<Digest, LinkError> {
        self.upload(service, release, archive).await
    }

    async fn releases(&self, service: &ServiceName) -> Result<Vec<PlacedRelease>, LinkError> {
        self.ask(Method::GET, &format!("/v1/services/{service}/releases"), None::<&()>).await
    }
}

impl HttpLink {
    /// Lines until the last one says how it ended.
    async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        heard: Heard,
    ) -> Result<RunEnd, LinkError> {
        let (connection, answer) = self.send(ANSWER, &method, path, body, false).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut lines: Vec<u8> = Vec::new();
        loop {
            let frame = match self.in_time(SILENCE, body.frame()).await? {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    let why = why(&connection, Unanswered::Broken(reason(&error))).await;
                    return Err(self.broken(format!("while the command ran: {why}")));
                }
                None if !status.is_success() => return Err(self.refused(status, &lines)),
                None => return Err(self.broken("its end was not told")),
            };
            lines.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n').filter(|_| status.is_success())
            {
                let line: Vec<u8> = lines.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(RunHeard::Line(line)) => heard.hear(&line).await,
                    Ok(RunHeard::Quiet) => {}
                    Ok(RunHeard::Ended(end)) => {
                        if let Ok(None) = self.in_time(MOMENT, body.frame()).await {
                            self.keep(connection).await;
                        }
                        return Ok(end);
                    }
                    Ok(RunHeard::Failed(ApiError { message, code })) => {
                        return Err(LinkError::Refused { code, message });
                    }
                    Err(error) => return Err(self.broken(format!("its answer is not understood: {error}"))),
                }
            }
        }
    }
}

impl std::fmt::Debug for HttpLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpLink")
            .field("host", &self.host)
            .field("pipe", &self.pipe.to_string())
            .finish_non_exhaustive()
    }
}

fn range(oldest: u32, newest: u32) -> String {
    if oldest == newest { newest.to_string() } else { format!("{oldest} to {newest}") }
}

async fn exchange(
    connection: &mut Connection,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<(StatusCode, Bytes), Unanswered> {
    let answer = send(connection, &method, path, body).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| Unanswered::Broken(reason(&error)))?;
    Ok((status, body.to_bytes()))
}

async fn send(
    connection: &mut Connection,
    method: &Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<Response<Incoming>, Unanswered> {
    let broken = |error: &dyn Error| Unanswered::Broken(reason(error));
    let mut request = request(connection, method, path);
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
        error if error.is_canceled() => Unanswered::Unsent,
        error => broken(&error),
    })
}

fn request(connection: &Connection, method: &Method, path: &str) -> Builder {
    let request = Request::builder().method(method).uri(path).header("host", "switchman");
    match &connection.token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// With the words of the program that carried it, which tell more.
async fn why(connection: &Connection, unanswered: Unanswered) -> String {
    let why = match unanswered {
        Unanswered::Unsent => "the connection was closed".to_owned(),
        Unanswered::Broken(why) => why,
    };
    match &connection.complaints {
        Some(complaints) => match complaints.settled().await {
            words if words.is_empty() => why,
            words => format!("{why}; ssh says: {words}"),
        },
        None => why,
    }
}

/// An error with its causes: hyper's own words stop before the cause.
fn reason(error: &dyn Error) -> String {
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
