//! `world::link` over a pipe: HTTP on any byte stream, one connection a host, reconnected when it broke.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::model::api::endpoint::{ANSWER_TIMEOUT, Endpoint, JsonLines, NoQuery, PathValues, RequestBody};
use crate::model::api::endpoints::{DEPLOYMENTS, HELLO, JOURNAL};
use crate::model::api::plain_text::{clean_texts, find_unsafe_text};
use crate::model::api::{API_VERSION, ApiError, Hello, OLDEST_API_VERSION, RunEvent, RunOutcome};
use crate::model::host::{ConnectConfig, Transport};
use crate::model::name::HostName;
use crate::world::link::{HostLink, LinkError, LinkResult, SharedLineSink};

mod answer;
mod calls;
mod connection;
mod handshake;
mod ssh;
mod tls;
mod transport;
mod upload;

use answer::{Content, MAX_LINE_BYTES, clean_message, decode, read_body};
use connection::{Connection, EncodedRequest, RequestFailure, describe_error};
use handshake::TransportError;
use transport::Pipe;

/// Bound on making a connection: ssh with a jump host and a slow login is a few seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The agent sends an event of a running program at least this often (every 5 s when nothing happens).
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that was idle for longer is not used again: half of an agent's patience.
const IDLE_LIMIT: Duration = Duration::from_mins(5);
/// Timeout for the end of an answer whose last line has arrived, and of a connection that had ended before it was used.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A host behind a pipe.
struct HttpLink {
    host: HostName,
    transport: Pipe,
    idle_connection: Mutex<Option<Connection>>,
}

/// The link for a way that leads away from this process.
pub fn connect(host: &HostName, way: &Transport, reach: &ConnectConfig) -> Arc<dyn HostLink> {
    let pipe = Pipe::new(host, way, reach);
    Arc::new(HttpLink { host: host.clone(), transport: pipe, idle_connection: Mutex::new(None) })
}

impl HttpLink {
    fn unreachable_error(&self, reason: impl Into<String>) -> LinkError {
        LinkError::Unreachable { via: self.transport_label(), reason: reason.into(), ssh: None }
    }

    fn broken_error(&self, reason: impl Into<String>) -> LinkError {
        LinkError::Broken { via: self.transport_label(), reason: reason.into() }
    }

    /// Takes the kept connection if it is still usable.
    async fn take_usable(&self) -> Option<Connection> {
        let mut kept = self.idle_connection.lock().await.take()?;
        // The agent closes a connection that is idle for longer; this limit avoids a request at the moment of the close.
        let stands = kept.last_used.elapsed() < IDLE_LIMIT && kept.sender.ready().await.is_ok();
        stands.then_some(kept)
    }

    /// A new connection, greeted.
    async fn open_connection(&self) -> LinkResult<Connection> {
        let fresh = async {
            let mut fresh = self.transport.open().await?;
            match exchange_hello(&mut fresh).await {
                Ok(hello) => Ok((fresh, hello)),
                Err(failure) => Err(TransportError::Other(fresh.explain_failure(failure).await)),
            }
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, fresh).await;
        let (fresh, (status, body)) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(TransportError::Skew { their_version, their_api })) => {
                return Err(self.skew_error(&their_version, &their_api));
            }
            Ok(Err(TransportError::Ssh { reason, attempt })) => {
                return Err(LinkError::Unreachable {
                    via: self.transport_label(),
                    reason,
                    ssh: Some(attempt),
                });
            }
            Ok(Err(TransportError::Other(reason))) => return Err(self.unreachable_error(reason)),
            Err(_) => {
                let waited = crate::model::duration::format(CONNECT_TIMEOUT);
                return Err(self.unreachable_error(format!("no connection within {waited}")));
            }
        };
        if status != StatusCode::OK {
            return Err(self.refused_error(status, &body));
        }
        let hello: Hello = decode(&body, Content::Display)
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
        match decode::<ApiError>(body, Content::Data) {
            Ok(ApiError { message, code }) => LinkError::Refused { code, message: clean_message(&message) },
            Err(_) => self.broken_error(format!("it answered HTTP status {status}")),
        }
    }

    /// Sends over the kept connection, and over a new one when that turns out to have ended. One that ends at the moment
    /// of a request that is `safe` to repeat counts as ended before it, too.
    async fn send(
        &self,
        timeout: Duration,
        request: &EncodedRequest,
        safe: bool,
    ) -> LinkResult<(Connection, Response<Incoming>)> {
        if let Some(mut kept) = self.take_usable().await {
            let began = Instant::now();
            match self.run_with_timeout(timeout, kept.send(request)).await? {
                Ok(answer) => return Ok((kept, answer)),
                Err(RequestFailure::NotSent) => {}
                Err(RequestFailure::Broken(_)) if safe && began.elapsed() < END_TIMEOUT => {}
                Err(broken) => return Err(self.broken_error(kept.explain_failure(broken).await)),
            }
        }
        let mut fresh = self.open_connection().await?;
        match self.run_with_timeout(timeout, fresh.send(request)).await? {
            Ok(answer) => Ok((fresh, answer)),
            Err(broken) => Err(self.broken_error(fresh.explain_failure(broken).await)),
        }
    }

    async fn run_with_timeout<T>(&self, timeout: Duration, work: impl Future<Output = T>) -> LinkResult<T> {
        let ended = tokio::time::timeout(timeout, work).await;
        ended.map_err(|_| LinkError::TimedOut { via: self.transport_label(), waited: timeout })
    }

    /// Only a connection whose answer was read to its end may carry another one.
    async fn store_idle(&self, mut connection: Connection) {
        connection.last_used = Instant::now();
        *self.idle_connection.lock().await = Some(connection);
    }

    fn encode<P: PathValues, Q: Serialize, B: RequestBody, R>(
        &self,
        endpoint: &Endpoint<P, Q, B, R>,
        path: &P,
        query: &Q,
        body: &B,
    ) -> LinkResult<EncodedRequest> {
        let body = body.to_json().map_err(|error| self.broken_error(describe_error(&error)))?;
        let body = body.map(|body| clean_body(endpoint.row.id, body));
        let target = endpoint.build_target(path, query);
        Ok(EncodedRequest { method: endpoint.row.method, target, body: body.map(Bytes::from) })
    }

    /// Calls an endpoint that answers with JSON.
    async fn call<P: PathValues, Q: Serialize, B: RequestBody, R: DeserializeOwned>(
        &self,
        endpoint: &Endpoint<P, Q, B, R>,
        path: &P,
        query: &Q,
        body: &B,
    ) -> LinkResult<R> {
        let request = self.encode(endpoint, path, query, body)?;
        let (connection, answer) = self.send(endpoint.timeout(body), &request, true).await?;
        let content = match endpoint.row {
            row if row == JOURNAL.row => Content::Data,
            row if row == DEPLOYMENTS.row => Content::Deployments,
            _ => Content::Display,
        };
        self.read_json(content, connection, answer).await
    }

    async fn read_json<R: DeserializeOwned>(
        &self,
        content: Content,
        connection: Connection,
        answer: Response<Incoming>,
    ) -> LinkResult<R> {
        let status = answer.status();
        let body = match self.run_with_timeout(ANSWER_TIMEOUT, read_body(answer.into_body())).await? {
            Ok(body) => body,
            Err(reason) => {
                let failure = RequestFailure::Broken(reason);
                return Err(self.broken_error(connection.explain_failure(failure).await));
            }
        };
        self.store_idle(connection).await;
        if !status.is_success() {
            return Err(self.refused_error(status, &body));
        }
        decode(&body, content)
            .map_err(|error| self.broken_error(format!("its answer is not understood: {error}")))
    }
}

impl HttpLink {
    /// Passes lines on until the last one reports how the run ended. Uses a connection of its own, so that other
    /// requests are sent in parallel.
    async fn stream_lines<P: PathValues, Q: Serialize, B: RequestBody>(
        &self,
        endpoint: &Endpoint<P, Q, B, JsonLines<RunEvent>>,
        path: &P,
        query: &Q,
        body: &B,
        heard: SharedLineSink,
    ) -> LinkResult<RunOutcome> {
        let request = self.encode(endpoint, path, query, body)?;
        let (connection, answer) = self.send(endpoint.timeout(body), &request, false).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut lines: Vec<u8> = Vec::new();
        loop {
            let frame = match self.run_with_timeout(SILENCE_TIMEOUT, body.frame()).await? {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    let failure = RequestFailure::Broken(describe_error(&error));
                    let reason = connection.explain_failure(failure).await;
                    return Err(self.broken_error(format!("while the command ran: {reason}")));
                }
                None if !status.is_success() => return Err(self.refused_error(status, &lines)),
                None => return Err(self.broken_error("the answer ended without its last line")),
            };
            lines.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            // The answer of a refusal is one JSON value, with or without lines.
            if lines.len() > MAX_LINE_BYTES && (!status.is_success() || !lines.contains(&b'\n')) {
                let limit = MAX_LINE_BYTES / 1024;
                return Err(self.broken_error(format!("it sent a line of more than {limit} KiB")));
            }
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n').filter(|_| status.is_success())
            {
                let line: Vec<u8> = lines.drain(..=end).collect();
                match decode(&line, Content::Display) {
                    Ok(RunEvent::Line(line)) => heard.write_line(&line).await,
                    Ok(RunEvent::KeepAlive) => {}
                    Ok(RunEvent::Exited(end)) => {
                        if let Ok(None) = self.run_with_timeout(END_TIMEOUT, body.frame()).await {
                            self.store_idle(connection).await;
                        }
                        return Ok(end);
                    }
                    Ok(RunEvent::Failed(ApiError { message, code })) => {
                        let message = clean_message(&message);
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

/// A host refuses a text with control characters. A command of several lines, or an error of another host, may have brought some.
fn clean_body(operation: &str, body: Vec<u8>) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice(&body) else { return body };
    if find_unsafe_text(operation, &value).is_none() {
        return body;
    }
    clean_texts(operation, &mut value);
    serde_json::to_vec(&value).unwrap_or(body)
}

fn format_range(oldest: u32, newest: u32) -> String {
    if oldest == newest { newest.to_string() } else { format!("{oldest} to {newest}") }
}

async fn exchange_hello(connection: &mut Connection) -> Result<(StatusCode, Bytes), RequestFailure> {
    let target = HELLO.build_target(&(), &NoQuery {});
    let request = EncodedRequest { method: HELLO.row.method, target, body: None };
    let answer = connection.send(&request).await?;
    let status = answer.status();
    let body = read_body(answer.into_body()).await.map_err(RequestFailure::Broken)?;
    Ok((status, body))
}

/// Reads bytes as each answer of a host, and returns the texts for people in them: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub fn fuzz_answer(answer: &[u8]) -> Vec<String> {
    use serde_json::Value;

    use crate::model::api::deployments::{DeployResponse, DeploymentsView};
    use crate::model::api::{HostView, ProbeResult};

    fn list_strings(value: Value, found: &mut Vec<String>) {
        match value {
            Value::String(text) => found.push(text),
            Value::Array(values) => values.into_iter().for_each(|value| list_strings(value, found)),
            Value::Object(fields) => fields.into_iter().for_each(|(key, value)| {
                found.push(key);
                list_strings(value, found);
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    let mut texts = Vec::new();
    match decode(answer, Content::Display) {
        Ok(value) => list_strings(value, &mut texts),
        Err(error) => texts.push(error),
    }
    let errors = [
        decode::<HostView>(answer, Content::Display).err(),
        decode::<DeploymentsView>(answer, Content::Display).err(),
        decode::<DeployResponse>(answer, Content::Display).err(),
        decode::<ProbeResult>(answer, Content::Display).err(),
        decode::<Hello>(answer, Content::Data).err(),
        decode::<RunEvent>(answer, Content::Data).err(),
        decode::<ApiError>(answer, Content::Display).err(),
    ];
    texts.extend(errors.into_iter().flatten());
    let text = String::from_utf8_lossy(answer);
    texts.push(clean_message(&text).replace('\n', " "));
    ssh::fuzz_greeting(&text);
    texts
}
