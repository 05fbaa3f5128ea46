//! One client of one kind, request after request.

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

use super::Kind;
use super::book::{Answer, Book, Reason};
use crate::lab::app;

/// A hang is a failure.
const DEADLINE: Duration = Duration::from_secs(20);
const UPLOAD: usize = 4 * 1024 * 1024;
const WEBSOCKET_LIFE: Duration = Duration::from_secs(3);
const WEBSOCKET_PAUSE: Duration = Duration::from_millis(100);
const COOKIE_NAME: &str = "SERVER_ID";

type Sender = SendRequest<Full<Bytes>>;

/// What a client carries from one request to the next.
pub(super) struct Client {
    kind: Kind,
    address: SocketAddr,
    /// The Host header.
    host: String,
    /// Value of HAProxy's cookie: the name of a host.
    cookie: Option<String>,
    connection: Option<Sender>,
}

impl Client {
    pub(super) fn new(kind: Kind, address: SocketAddr, host: String, cookie: Option<String>) -> Self {
        Self { kind, address, host, cookie: cookie.filter(|_| kind.has_cookie()), connection: None }
    }

    /// Sends requests until stopped, each accounted for.
    pub(super) async fn run(mut self, book: Arc<Book>, mut stopped: watch::Receiver<bool>) {
        let kind = self.kind;
        while !*stopped.borrow() {
            let phase = book.started(kind);
            let began = Instant::now();
            let sent = self.cookie.clone();
            let asked = tokio::time::timeout(DEADLINE, self.ask()).await.unwrap_or(Err(Reason::Timeout));
            match asked {
                Ok(answer) => book.succeeded(kind, answer, sent.as_deref(), began.elapsed(), phase),
                Err(reason) => {
                    self.connection = None;
                    book.failed(kind, reason);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(kind.pause()) => {}
                _ = stopped.changed() => {}
            }
        }
    }

    async fn ask(&mut self) -> Result<Answer, Reason> {
        match self.kind {
            Kind::KeepAliveCookie | Kind::KeepAlive => self.get("/", true).await,
            Kind::PerRequest => self.get("/", false).await,
            Kind::Slow => self.get("/slow", false).await,
            Kind::Upload => self.upload().await,
            Kind::Websocket => self.websocket().await,
        }
    }

    async fn get(&mut self, path: &str, keep: bool) -> Result<Answer, Reason> {
        let request = self.request(Method::GET, path, keep, Bytes::new())?;
        self.exchange(request, keep).await.map(|(answer, _)| answer)
    }

    async fn upload(&mut self) -> Result<Answer, Reason> {
        let body: Vec<u8> = (0..251u8).cycle().take(UPLOAD).collect();
        let expected = app::digest(&body);
        let request = self.request(Method::POST, "/upload", false, Bytes::from(body))?;
        let (answer, body) = self.exchange(request, false).await?;
        if body == expected.as_bytes() { Ok(answer) } else { Err(Reason::WrongBody) }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        keep: bool,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Reason> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, format!("{COOKIE_NAME}={cookie}"));
        }
        if !keep {
            request = request.header(CONNECTION, "close");
        }
        request.body(Full::new(body)).map_err(|error| Reason::Other(error.to_string()))
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        keep: bool,
    ) -> Result<(Answer, Bytes), Reason> {
        let mut sender = self.sender().await?;
        let response =
            sender.send_request(request).await.map_err(|error| reason(&error, Reason::ClosedBeforeAnswer))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body =
            response.into_body().collect().await.map_err(|error| reason(&error, Reason::ClosedMidBody))?;
        if status != 200 {
            return Err(Reason::Status(status));
        }
        let answer = answered_by(&headers)?;
        if self.kind.has_cookie() {
            self.cookie = cookie(&headers).or(self.cookie.take());
        }
        self.connection = keep.then_some(sender);
        Ok((answer, body.to_bytes()))
    }

    /// The kept connection while it is open, else a new one. A connection that was closed while idle carried no request:
    /// any client opens another.
    async fn sender(&mut self) -> Result<Sender, Reason> {
        if let Some(mut sender) = self.connection.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let (sender, connection) = handshake(TokioIo::new(self.connect().await?))
            .await
            .map_err(|error| reason(&error, Reason::Reset))?;
        tokio::spawn(async move {
            // What goes wrong here is told to the request.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn connect(&self) -> Result<TcpStream, Reason> {
        let stream =
            TcpStream::connect(self.address).await.map_err(|error| io_reason(&error, Reason::Refused))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn websocket(&mut self) -> Result<Answer, Reason> {
        let stream = self.connect().await?;
        let url = format!("ws://{}/ws", self.host);
        let (mut socket, response) = client_async(url, stream).await.map_err(|error| match error {
            WsError::Http(response) => Reason::Status(response.status().as_u16()),
            other => websocket_reason(&other),
        })?;
        let answer = answered_by(response.headers())?;
        let ends = Instant::now() + WEBSOCKET_LIFE;
        let mut number = 0u64;
        while Instant::now() < ends {
            let sent = Message::text(number.to_string());
            socket.send(sent.clone()).await.map_err(|error| websocket_reason(&error))?;
            match socket.next().await {
                Some(Ok(echo)) if echo == sent => {}
                Some(Ok(_)) => return Err(Reason::WrongBody),
                Some(Err(error)) => return Err(websocket_reason(&error)),
                None => return Err(Reason::Websocket("closed by the other side".to_owned())),
            }
            number += 1;
            tokio::time::sleep(WEBSOCKET_PAUSE).await;
        }
        socket.close(None).await.map_err(|error| websocket_reason(&error))?;
        while let Some(message) = socket.next().await {
            message.map_err(|error| websocket_reason(&error))?;
        }
        Ok(answer)
    }
}

fn answered_by(headers: &HeaderMap) -> Result<Answer, Reason> {
    let value = |name| {
        headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned).ok_or(Reason::Unsigned)
    };
    Ok(Answer { host: value(app::HOST)?, vhost: value(app::VHOST)?, version: value(app::VERSION)? })
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(SET_COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    values
        .filter_map(|value| value.split(';').next()?.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
        .map(str::to_owned)
        .next()
}

/// The socket's own reason where there is one.
fn reason(error: &hyper::Error, closed: Reason) -> Reason {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return closed;
    }
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match source {
        Some(source) => io_reason(source, closed),
        None => Reason::Other(error.to_string()),
    }
}

fn io_reason(error: &std::io::Error, otherwise: Reason) -> Reason {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof};
    match error.kind() {
        ConnectionRefused => Reason::Refused,
        ConnectionReset | BrokenPipe => Reason::Reset,
        TimedOut => Reason::Timeout,
        UnexpectedEof => otherwise,
        _ => Reason::Other(error.to_string()),
    }
}

fn websocket_reason(error: &WsError) -> Reason {
    match error {
        WsError::Io(error) => io_reason(error, Reason::Websocket("closed".to_owned())),
        other => Reason::Websocket(other.to_string()),
    }
}
