//! One client connection, from its first byte to its last.

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

use super::client::{Client, Heads};
use super::counters::Held;
use super::exchange;

use super::upstream::{Here, Legs, Protocol};
use super::worker::{Registered, Slot, Worker};

/// Where a client came in.
#[derive(Clone)]
pub enum Door {
    Service(Rc<Slot>),
    Gateway,
}

pub struct Connection {
    pub worker: Rc<Worker>,
    pub door: Door,
    pub peer: SocketAddr,
    /// HAProxy's health check: main's alone to answer.
    pub is_check: bool,
    pub protocol: Cell<Protocol>,
    pub legs: RefCell<Rc<Legs>>,
    pub heads: Arc<Heads>,
    /// Something was told that may make this connection's next answer its last.
    told: Notify,
    pub stream: Arc<TcpStream>,
}

/// Held for as long as anything of a connection goes on.
pub struct Presence {
    _registered: Registered,
    _counted: Option<Held>,
}

/// Read at once; a longer head passes through. A shadow gets a body in pieces of at most that.
const READ: usize = 64 << 10;
const H2: &[u8] = b"PRI * HTTP/2.0\r\n";

impl Connection {
    pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, door: Door) {
        // A connection that is gone already is noticed when it is read.
        let _ = stream.set_nodelay(true);
        let is_check = match &door {
            Door::Service(slot) => original_port(&stream) == Some(slot.service().told.check.get()),
            Door::Gateway => false,
        };
        let connection = Rc::new(Self {
            worker: worker.clone(),
            door,
            peer,
            is_check,
            protocol: Cell::new(Protocol::Http1),
            legs: RefCell::new(Rc::new(Legs::new(Protocol::Http1))),
            heads: Arc::default(),
            told: Notify::new(),
            stream: Arc::new(stream),
        });
        let counted = match &connection.door {
            Door::Service(slot) if !is_check => Some(slot.service().counts.connections.hold()),
            _ => None,
        };
        let presence = Rc::new(Presence { _registered: worker.register(&connection), _counted: counted });
        connection.run(presence).await;
    }

    async fn run(self: Rc<Self>, presence: Rc<Presence>) {
        let client = Client::new(self.stream.clone(), self.heads.clone());
        let client = if matches!(self.door, Door::Gateway) { client.forgetful() } else { client };
        let service = service_fn(|request| exchange::answer(self.clone(), presence.clone(), request));
        let mut serving = http1_server().serve_connection(TokioIo::new(client), service).with_upgrades();
        let ended = std::future::poll_fn(|cx| Pin::new(&mut serving).poll(cx)).await;
        let Err(error) = ended else { return };
        let Some(parts) = serving.into_parts() else { return };
        let client = parts.io.into_inner();
        if client.head().starts_with(H2) {
            self.http2(client.again(), presence).await;
        } else if client.refused() {
            self.pass_through(&client).await;
        } else {
            log::debug!("{}: {error}", self.peer);
        }
    }

    async fn http2(self: Rc<Self>, client: Client, presence: Rc<Presence>) {
        self.protocol.set(Protocol::Http2);
        *self.legs.borrow_mut() = Rc::new(Legs::new(Protocol::Http2));
        let service = service_fn(|request| exchange::answer(self.clone(), presence.clone(), request));
        let mut server = http2::Builder::new(Here);
        server.auto_date_header(false).timer(TokioTimer::new());
        let serving = server.serve_connection(TokioIo::new(client), service);
        tokio::pin!(serving);
        // An idle one is told too, which by HTTP/2 costs nobody a request.
        let ended = async {
            tokio::select! {
                biased;
                ended = serving.as_mut() => return ended,
                () = self.last() => serving.as_mut().graceful_shutdown(),
            }
            serving.await
        };
        if let Err(error) = ended.await {
            log::debug!("{}: {error}", self.peer);
        }
    }

    /// A head that hyper does not understand, main may: it gets the connection as it is, and so does the client what main
    /// says to it.
    async fn pass_through(&self, client: &Client) {
        let Door::Service(slot) = &self.door else { return };
        let service = slot.service();
        if !self.is_check {
            service.counts.rejected.add("passed_through");
        }
        let limit = Duration::from_millis(self.worker.limits().connect_ms);
        let connecting = tokio::time::timeout(limit, TcpStream::connect(service.main.address));
        let Ok(Ok(mut main)) = connecting.await else { return };
        let mut rest = Client::new(self.stream.clone(), self.heads.clone()).forgetful();
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
        self.worker.is_ending() || matches!(&self.door, Door::Service(slot) if slot.service().told.draining)
    }

    /// Returns when the next answer is to be the last.
    async fn last(&self) {
        loop {
            let told = self.told.notified();
            if self.is_last() {
                return;
            }
            told.await;
        }
    }

    /// After anything was told.
    pub fn hear(&self) {
        self.told.notify_waiters();
        self.let_go();
    }

    /// Whether a connection to it may be kept for the next request, as things are told now.
    pub fn leads_to(&self, address: SocketAddr) -> bool {
        match &self.door {
            Door::Service(slot) => slot.service().leads_to(address),
            Door::Gateway => self.worker.knows(address),
        }
    }

    /// Closes upstream connections that no request will use any more.
    fn let_go(&self) {
        self.legs.borrow().keep_only(|address| self.leads_to(address));
    }
}

/// What passes through unchanged, as far as hyper can. No timeouts: the service's are the ones that count, and whoever closes
/// an idle connection first meets somebody's next request.
fn http1_server() -> http1::Builder {
    let mut server = http1::Builder::new();
    server
        .preserve_header_case(true)
        .half_close(true)
        .max_buf_size(READ)
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(None);
    server
}

/// The port that the client connected to, where the kernel led it elsewhere.
fn original_port(stream: &TcpStream) -> Option<u16> {
    let port = match stream.local_addr().ok()? {
        SocketAddr::V4(_) => getsockopt(stream, sockopt::OriginalDst).ok()?.sin_port,
        SocketAddr::V6(_) => getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?.sin6_port,
    };
    Some(u16::from_be(port))
}
