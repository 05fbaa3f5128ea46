//! A client of one kind, which sends request after request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, COOKIE, HOST, HeaderMap, SET_COOKIE};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::client_kind::ClientKind;
use super::ledger::{AnswerOrigin, FailureReason, RequestLedger};
use crate::lab::app;

/// A hang is a failure.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const UPLOAD_BYTES: usize = 4 * 1024 * 1024;
const WEBSOCKET_DURATION: Duration = Duration::from_secs(3);
const WEBSOCKET_INTERVAL: Duration = Duration::from_millis(100);
const COOKIE_NAME: &str = "SERVER_ID";

type Sender = SendRequest<Full<Bytes>>;

/// The state that a client carries from one request to the next.
pub(super) struct Client {
    kind: ClientKind,
    address: SocketAddr,
    /// The Host header.
    host: String,
    /// Value of HAProxy's cookie: the name of a host.
    cookie: Option<String>,
    connection: Option<Sender>,
}

impl Client {
    pub(super) fn new(kind: ClientKind, address: SocketAddr, host: String, cookie: Option<String>) -> Self {
        Self { kind, address, host, cookie: cookie.filter(|_| kind.has_cookie()), connection: None }
    }

    /// Sends requests until stopped, each accounted for.
    pub(super) async fn run(mut self, ledger: Arc<RequestLedger>, mut stopped: watch::Receiver<bool>) {
        let kind = self.kind;
        while !*stopped.borrow() {
            let phase = ledger.record_start(kind);
            let began = Instant::now();
            let sent = self.cookie.clone();
            let result = tokio::time::timeout(REQUEST_TIMEOUT, self.send_by_kind())
                .await
                .unwrap_or(Err(FailureReason::Timeout));
            match result {
                Ok(answer) => ledger.record_success(kind, answer, sent.as_deref(), began.elapsed(), phase),
                Err(reason) => {
                    self.connection = None;
                    ledger.record_failure(kind, reason);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(kind.request_interval()) => {}
                _ = stopped.changed() => {}
            }
        }
    }

    async fn send_by_kind(&mut self) -> Result<AnswerOrigin, FailureReason> {
        match self.kind {
            ClientKind::KeepAliveCookie | ClientKind::KeepAlive => self.get("/", true).await,
            ClientKind::PerRequest => self.get("/", false).await,
            ClientKind::Slow => self.get("/slow", false).await,
            ClientKind::Upload => self.upload().await,
            ClientKind::Websocket => self.echo_websocket().await,
        }
    }

    async fn get(&mut self, path: &str, keep: bool) -> Result<AnswerOrigin, FailureReason> {
        let request = self.build_request(Method::GET, path, keep, Bytes::new())?;
        self.send_request(request, keep).await.map(|(answer, _)| answer)
    }

    async fn upload(&mut self) -> Result<AnswerOrigin, FailureReason> {
        let body: Vec<u8> = (0..251u8).cycle().take(UPLOAD_BYTES).collect();
        let expected = app::compute_digest(&body);
        let request = self.build_request(Method::POST, "/upload", false, Bytes::from(body))?;
        let (answer, body) = self.send_request(request, false).await?;
        if body == expected.as_bytes() { Ok(answer) } else { Err(FailureReason::WrongBody) }
    }

    fn build_request(
        &self,
        method: Method,
        path: &str,
        keep: bool,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, FailureReason> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, format!("{COOKIE_NAME}={cookie}"));
        }
        if !keep {
            request = request.header(CONNECTION, "close");
        }
        request.body(Full::new(body)).map_err(|error| FailureReason::Other(error.to_string()))
    }

    async fn send_request(
        &mut self,
        request: Request<Full<Bytes>>,
        keep: bool,
    ) -> Result<(AnswerOrigin, Bytes), FailureReason> {
        let mut sender = self.open_sender().await?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| classify_error(&error, FailureReason::ClosedBeforeAnswer))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| classify_error(&error, FailureReason::ClosedMidBody))?;
        if status != 200 {
            return Err(FailureReason::Status(status));
        }
        let answer = read_origin(&headers)?;
        if self.kind.has_cookie() {
            self.cookie = read_cookie(&headers).or(self.cookie.take());
        }
        self.connection = keep.then_some(sender);
        Ok((answer, body.to_bytes()))
    }

    /// Returns the kept connection while it is open, else a new one. A connection that was closed while idle carried no request:
    /// any client opens another.
    async fn open_sender(&mut self) -> Result<Sender, FailureReason> {
        if let Some(mut sender) = self.connection.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let (sender, connection) = handshake(TokioIo::new(self.connect().await?))
            .await
            .map_err(|error| classify_error(&error, FailureReason::Reset))?;
        tokio::spawn(async move {
            // The request reports what goes wrong here.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn connect(&self) -> Result<TcpStream, FailureReason> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| classify_io_error(&error, FailureReason::Refused))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn echo_websocket(&mut self) -> Result<AnswerOrigin, FailureReason> {
        let stream = self.connect().await?;
        let url = format!("ws://{}/ws", self.host);
        let (mut socket, response) = client_async(url, stream).await.map_err(|error| match error {
            WsError::Http(response) => FailureReason::Status(response.status().as_u16()),
            other => classify_websocket_error(&other),
        })?;
        let answer = read_origin(response.headers())?;
        let ends = Instant::now() + WEBSOCKET_DURATION;
        let mut number = 0u64;
        while Instant::now() < ends {
            let sent = Message::text(number.to_string());
            socket.send(sent.clone()).await.map_err(|error| classify_websocket_error(&error))?;
            match socket.next().await {
                Some(Ok(echo)) if echo == sent => {}
                Some(Ok(_)) => return Err(FailureReason::WrongBody),
                Some(Err(error)) => return Err(classify_websocket_error(&error)),
                None => return Err(FailureReason::Websocket("closed by the other side".to_owned())),
            }
            number += 1;
            tokio::time::sleep(WEBSOCKET_INTERVAL).await;
        }
        socket.close(None).await.map_err(|error| classify_websocket_error(&error))?;
        while let Some(message) = socket.next().await {
            message.map_err(|error| classify_websocket_error(&error))?;
        }
        Ok(answer)
    }
}

fn read_origin(headers: &HeaderMap) -> Result<AnswerOrigin, FailureReason> {
    let value = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
            .ok_or(FailureReason::Unsigned)
    };
    Ok(AnswerOrigin {
        host: value(app::HOST_HEADER)?,
        vhost: value(app::VHOST_HEADER)?,
        version: value(app::VERSION_HEADER)?,
    })
}

fn read_cookie(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(SET_COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    values
        .filter_map(|value| value.split(';').next()?.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
        .map(str::to_owned)
        .next()
}

/// Returns the socket's own reason where there is one.
fn classify_error(error: &hyper::Error, closed: FailureReason) -> FailureReason {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return closed;
    }
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match source {
        Some(source) => classify_io_error(source, closed),
        None => FailureReason::Other(error.to_string()),
    }
}

fn classify_io_error(error: &std::io::Error, otherwise: FailureReason) -> FailureReason {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof};
    match error.kind() {
        ConnectionRefused => FailureReason::Refused,
        ConnectionReset | BrokenPipe => FailureReason::Reset,
        TimedOut => FailureReason::Timeout,
        UnexpectedEof => otherwise,
        _ => FailureReason::Other(error.to_string()),
    }
}

fn classify_websocket_error(error: &WsError) -> FailureReason {
    match error {
        WsError::Io(error) => classify_io_error(error, FailureReason::Websocket("closed".to_owned())),
        other => FailureReason::Websocket(other.to_string()),
    }
}
