//! The application of the rehearsal: small answers, slow ones, uploads, websockets; every answer names its sender.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::world::stop::StopToken;

/// Header names of an answer.
pub const HOST_HEADER: &str = "x-swm-host";
pub const VHOST_HEADER: &str = "x-swm-vhost";
pub const VERSION_HEADER: &str = "x-swm-version";
/// How long `/slow` takes.
pub const SLOW_DELAY: Duration = Duration::from_secs(2);
/// How much later a slow version makes an offer.
const SLOW_EXTRA_DELAY: Duration = Duration::from_millis(200);
/// Number of offers after which a deaf version refuses connections.
const DEAF_AFTER_OFFERS: u64 = 40;
/// Time that requests in flight get when the application receives a stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// The identity that the application reports, and its listen address.
#[derive(Debug, Clone)]
pub struct AppOptions {
    pub listen: SocketAddr,
    pub host: String,
    pub vhost: String,
    pub version: String,
    pub fault: Option<Fault>,
}

/// The fault of a bad version; its health check does not show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// Every tenth answer has another price.
    Prices,
    /// Every twentieth answer is a 500.
    Errors,
    /// Answers take twice as long: `/slow` as much again, all others `LATE` more.
    Slow,
    /// The version accepts no new connection after its [`OFFERS`]; open connections go on.
    Deaf,
}

/// Offers made, and that they were too many for a deaf version.
static OFFERS_MADE: AtomicU64 = AtomicU64::new(0);
static DEAF_NOTIFY: Notify = Notify::const_new();

/// Serves until `stop` is set; then lets requests in flight end.
pub async fn serve(options: AppOptions, stop: StopToken) -> std::io::Result<()> {
    let mut listener = Some(TcpListener::bind(options.listen).await?);
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve_connection(stream, options.clone(), stop.clone()));
                }
            }
            () = DEAF_NOTIFY.notified() => listener = None,
            Some(_) = connections.join_next() => {}
            () = stop.wait() => break,
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Past the grace, what is left ends with the process.
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await;
    Ok(())
}

async fn serve_connection(stream: TcpStream, options: AppOptions, stop: StopToken) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let options = options.clone();
        async move { Ok::<_, Infallible>(sign_response(&options, answer(request, options.fault).await)) }
    });
    let http = hyper::server::conn::http1::Builder::new();
    let serving = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => {}
        () = stop.wait() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

fn sign_response(options: &AppOptions, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    for (name, value) in
        [(HOST_HEADER, &options.host), (VHOST_HEADER, &options.vhost), (VERSION_HEADER, &options.version)]
    {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

async fn answer(request: Request<Incoming>, fault: Option<Fault>) -> Response<Full<Bytes>> {
    if fault == Some(Fault::Slow) {
        let late = match request.uri().path() {
            "/health" => Duration::ZERO,
            "/slow" => SLOW_DELAY,
            _ => SLOW_EXTRA_DELAY,
        };
        tokio::time::sleep(late).await;
    }
    match (request.method(), request.uri().path()) {
        (_, "/") => make_offer(fault),
        (_, "/health") => respond_text(StatusCode::OK, "ok\n".to_owned()),
        (_, "/slow") => {
            tokio::time::sleep(SLOW_DELAY).await;
            respond_text(StatusCode::OK, "slow\n".to_owned())
        }
        (&Method::POST, "/upload") => match request.into_body().collect().await {
            Ok(body) => respond_text(StatusCode::OK, compute_digest(&body.to_bytes())),
            Err(error) => respond_text(StatusCode::BAD_REQUEST, error.to_string()),
        },
        (_, "/ws") => echo_websocket(request),
        _ => respond_text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
    }
}

/// A cup and its price.
fn make_offer(fault: Option<Fault>) -> Response<Full<Bytes>> {
    let turn = OFFERS_MADE.fetch_add(1, Ordering::Relaxed);
    if fault == Some(Fault::Deaf) && turn + 1 == DEAF_AFTER_OFFERS {
        DEAF_NOTIFY.notify_one();
    }
    if fault == Some(Fault::Errors) && turn % 20 == 19 {
        return respond_text(StatusCode::INTERNAL_SERVER_ERROR, "no\n".to_owned());
    }
    let price = match fault {
        Some(Fault::Prices) if turn % 10 == 9 => 1300,
        _ => 1200,
    };
    let mut response =
        respond_text(StatusCode::OK, format!("{{\"item\": \"cup\", \"price_cents\": {price}}}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Length and sum of a body: a lost, doubled or changed byte shows.
pub fn compute_digest(body: &[u8]) -> String {
    let sum = body.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} {sum:x}", body.len())
}

fn respond_text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// RFC 6455, 4.2.2: the handshake; then every message is sent back.
fn echo_websocket(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() else {
        return respond_text(StatusCode::BAD_REQUEST, "not a websocket handshake\n".to_owned());
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let stream = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            let (mut out, mut messages) = stream.split();
            while let Some(Ok(message)) = messages.next().await {
                let echo = message.is_text() || message.is_binary();
                if echo && out.send(message).await.is_err() {
                    break;
                }
            }
        }
    });
    let mut response = respond_text(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}
