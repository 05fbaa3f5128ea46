//! A client connection, from its first byte to its last.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;

use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::client_stream::{Client, HeadState};
use super::counters::GaugeGuard;
use super::exchange;

use super::upstream::{LocalExecutor, PinnedConnections, Protocol};
use super::worker::{Registration, ServiceSlot, Worker};

/// The listener that a client connected to.
#[derive(Clone)]
pub enum Ingress {
    Service(Rc<ServiceSlot>),
    Gateway,
}

pub struct Connection {
    pub worker: Rc<Worker>,
    pub ingress: Ingress,
    pub peer: SocketAddr,
    /// HAProxy's health check: main's alone to answer.
    pub is_check: bool,
    pub protocol: Cell<Protocol>,
    pub pinned_connections: RefCell<Rc<PinnedConnections>>,
    pub head_state: Arc<HeadState>,
    /// The configuration changed in a way that may make this connection's next answer its last.
    config_changed: Notify,
    pub stream: Arc<TcpStream>,
}

/// Held for as long as anything of a connection goes on.
pub struct ConnectionGuard {
    _registration: Registration,
    _gauge_guard: Option<GaugeGuard>,
}

/// Read at once; a longer head passes through. A shadow gets a body in pieces of at most that.
const READ_BUFFER_BYTES: usize = 64 << 10;
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

impl Connection {
    pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, door: Ingress) {
        // A connection that is closed already is noticed when it is read.
        let _ = stream.set_nodelay(true);
        let is_check = match &door {
            Ingress::Service(slot) => read_original_port(&stream) == Some(slot.service().told.check.get()),
            Ingress::Gateway => false,
        };
        let connection = Rc::new(Self {
            worker: worker.clone(),
            ingress: door,
            peer,
            is_check,
            protocol: Cell::new(Protocol::Http1),
            pinned_connections: RefCell::new(Rc::new(PinnedConnections::new(Protocol::Http1))),
            head_state: Arc::default(),
            config_changed: Notify::new(),
            stream: Arc::new(stream),
        });
        let counted = match &connection.ingress {
            Ingress::Service(slot) if !is_check => Some(slot.service().counts.connections.acquire()),
            _ => None,
        };
        let presence =
            Rc::new(ConnectionGuard { _registration: worker.register(&connection), _gauge_guard: counted });
        connection.run(presence).await;
    }

    async fn run(self: Rc<Self>, presence: Rc<ConnectionGuard>) {
        let client = Client::new(self.stream.clone(), self.head_state.clone());
        let client =
            if matches!(self.ingress, Ingress::Gateway) { client.without_recording() } else { client };
        let service = service_fn(|request| exchange::answer(self.clone(), presence.clone(), request));
        let mut serving =
            build_http1_server().serve_connection(TokioIo::new(client), service).with_upgrades();
        let ended = std::future::poll_fn(|cx| Pin::new(&mut serving).poll(cx)).await;
        let Err(error) = ended else { return };
        let Some(parts) = serving.into_parts() else { return };
        let client = parts.io.into_inner();
        if client.head().starts_with(HTTP2_PREFACE) {
            self.serve_http2(client.into_replay(), presence).await;
        } else if client.is_refused() {
            self.pass_through(&client).await;
        } else {
            log::debug!("{}: {error}", self.peer);
        }
    }

    async fn serve_http2(self: Rc<Self>, client: Client, presence: Rc<ConnectionGuard>) {
        self.protocol.set(Protocol::Http2);
        *self.pinned_connections.borrow_mut() = Rc::new(PinnedConnections::new(Protocol::Http2));
        let service = service_fn(|request| exchange::answer(self.clone(), presence.clone(), request));
        let mut server = http2::Builder::new(LocalExecutor);
        server.auto_date_header(false).timer(TokioTimer::new());
        let serving = server.serve_connection(TokioIo::new(client), service);
        tokio::pin!(serving);
        // An idle one is notified too, which by HTTP/2 costs no client a request.
        let ended = async {
            tokio::select! {
                biased;
                ended = serving.as_mut() => return ended,
                () = self.wait_until_last() => serving.as_mut().graceful_shutdown(),
            }
            serving.await
        };
        if let Err(error) = ended.await {
            log::debug!("{}: {error}", self.peer);
        }
    }

    /// A head that hyper does not understand, main may: it gets the connection as it is, and so does the client what main
    /// answers.
    async fn pass_through(&self, client: &Client) {
        let Ingress::Service(slot) = &self.ingress else { return };
        let service = slot.service();
        if !self.is_check {
            service.counts.rejected.add("passed_through");
        }
        let limit = Duration::from_millis(self.worker.limits().connect_timeout_ms);
        let connecting = tokio::time::timeout(limit, TcpStream::connect(service.main.address));
        let Ok(Ok(mut main)) = connecting.await else { return };
        let mut rest = Client::new(self.stream.clone(), self.head_state.clone()).without_recording();
        let copied = async {
            main.set_nodelay(true)?;
            main.write_all(client.head()).await?;
            copy_bidirectional(&mut rest, &mut main).await
        };
        if let Err(error) = copied.await {
            log::debug!("{}: {error}", self.peer);
        }
    }

    /// Whether the next answer is to be the last.
    pub fn is_last(&self) -> bool {
        self.worker.is_ending()
            || matches!(&self.ingress, Ingress::Service(slot) if slot.service().told.draining)
    }

    /// Returns when the next answer is to be the last.
    async fn wait_until_last(&self) {
        loop {
            let told = self.config_changed.notified();
            if self.is_last() {
                return;
            }
            told.await;
        }
    }

    /// Reacts to a change of the configuration.
    pub fn notify_config_changed(&self) {
        self.config_changed.notify_waiters();
        self.close_unused_upstreams();
    }

    /// Whether a connection to it may be kept for the next request, under the current configuration.
    pub fn can_keep_upstream(&self, address: SocketAddr) -> bool {
        match &self.ingress {
            Ingress::Service(slot) => slot.service().routes_to(address),
            Ingress::Gateway => self.worker.has_upstream(address),
        }
    }

    /// Closes upstream connections that no request will use any more.
    fn close_unused_upstreams(&self) {
        self.pinned_connections.borrow().keep_only(|address| self.can_keep_upstream(address));
    }
}

/// Forwards bytes unchanged, as far as hyper can. No timeouts: the service's are the ones that count, and the side that
/// closes
/// an idle connection first meets a client's next request.
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
