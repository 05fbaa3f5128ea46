//! Serves a client connection, from its first byte to its last: HTTP/1, HTTP/2, or bytes that pass through unchanged.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::client_stream::ClientStream;
use super::connection::{Connection, ConnectionGuard};
use super::exchange::answer_request;
use super::slot::Ingress;
use super::upstream::LocalExecutor;
use super::worker::Worker;
use crate::admission::ConnectionPermit;
use crate::plan::proxy::control_frames::ControlFrameFlood;

/// Read at once; a longer head passes through. A shadow gets a body in pieces of at most that.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Timeout from a connection to its first whole request. HAProxy connects when it has one.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

pub async fn serve_connection(
    worker: Rc<Worker>,
    stream: TcpStream,
    permit: ConnectionPermit,
    ingress: Ingress,
) {
    // A connection that is closed already is noticed when it is read.
    let _ = stream.set_nodelay(true);
    let is_check = match &ingress {
        Ingress::Service(slot) => read_original_port(&stream) == Some(slot.service().config.check.get()),
        Ingress::Gateway => false,
    };
    let connection = Rc::new(Connection::new(worker, ingress, stream, permit, is_check));
    let guard = Rc::new(connection.register());
    tokio::select! {
        biased;
        () = serve_http1(connection.clone(), guard) => {}
        end = connection.permit.wait_for_end(FIRST_HEAD_TIMEOUT) => connection.permit.warn_of_end(end),
    }
}

async fn serve_http1(connection: Rc<Connection>, guard: Rc<ConnectionGuard>) {
    let client = ClientStream::new(connection.stream.clone(), connection.head_state.clone());
    let client =
        if matches!(connection.ingress, Ingress::Gateway) { client.without_recording() } else { client };
    let service = service_fn(|request| answer_request(connection.clone(), guard.clone(), request));
    let mut serving = build_http1_server().serve_connection(TokioIo::new(client), service).with_upgrades();
    let ended = std::future::poll_fn(|cx| Pin::new(&mut serving).poll(cx)).await;
    let Err(error) = ended else { return };
    let Some(parts) = serving.into_parts() else { return };
    let client = parts.io.into_inner();
    if client.head().starts_with(HTTP2_PREFACE) {
        serve_http2(connection, client.into_http2(), guard).await;
    } else if client.is_refused() {
        pass_through(&connection, &client).await;
    } else {
        log::debug!("{}: {error}", connection.peer);
    }
}

async fn serve_http2(connection: Rc<Connection>, client: ClientStream, guard: Rc<ConnectionGuard>) {
    connection.switch_to_http2();
    let service = service_fn(|request| answer_request(connection.clone(), guard.clone(), request));
    let mut server = http2::Builder::new(LocalExecutor);
    server.auto_date_header(false).timer(TokioTimer::new());
    let serving = server.serve_connection(TokioIo::new(client), service);
    tokio::pin!(serving);
    // An idle one is notified too, which by HTTP/2 costs no client a request.
    let ended = async {
        tokio::select! {
            biased;
            ended = serving.as_mut() => return ended,
            () = connection.wait_until_last() => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    };
    let ended = ended.await;
    if connection.head_state.is_flooded() {
        connection.permit.warn(format_args!("closed: {ControlFrameFlood}"));
    } else if let Err(error) = ended {
        log::debug!("{}: {error}", connection.peer);
    }
}

/// Passes bytes to main and back unchanged: main may understand a head that hyper does not.
async fn pass_through(connection: &Connection, client: &ClientStream) {
    let Ingress::Service(slot) = &connection.ingress else { return };
    let service = slot.service();
    if !connection.is_check {
        service.counts.rejected.add("passed_through");
    }
    connection.permit.admit();
    let timeout = Duration::from_millis(connection.worker.limits().connect_timeout_ms);
    let mut connected = None;
    for address in service.main.addresses.list_from(connection.turn) {
        if let Ok(Ok(stream)) = tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            connected = Some(stream);
            break;
        }
    }
    let Some(mut main) = connected else { return };
    let rest = ClientStream::new(connection.stream.clone(), connection.head_state.clone());
    let mut rest = rest.without_recording();
    let copied = async {
        main.set_nodelay(true)?;
        main.write_all(client.head()).await?;
        copy_bidirectional(&mut rest, &mut main).await
    };
    if let Err(error) = copied.await {
        log::debug!("{}: {error}", connection.peer);
    }
}

/// Builds a server that forwards bytes unchanged, as far as hyper can. It has no timeouts: the service's are the ones that
/// count, and the side that closes an idle connection first meets a client's next request.
fn build_http1_server() -> http1::Builder {
    let mut server = http1::Builder::new();
    server
        .preserve_header_case(true)
        .half_close(true)
        .max_buf_size(READ_BUFFER_BYTES)
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(None);
    server
}

/// Returns the port that the client connected to, where the kernel redirected it.
fn read_original_port(stream: &TcpStream) -> Option<u16> {
    let port = match stream.local_addr().ok()? {
        SocketAddr::V4(_) => getsockopt(stream, sockopt::OriginalDst).ok()?.sin_port,
        SocketAddr::V6(_) => getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?.sin6_port,
    };
    Some(u16::from_be(port))
}
