//! Connections to upstreams.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::spawn_local;

use super::coalesced_write::UpstreamStream;
use super::tee::CopyBody;
use super::upload::Upload;

/// The protocol to the upstream, which is that of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug)]
pub enum SendError<B> {
    /// No connection could be made; the request is untouched.
    Connect { request: Box<Request<B>>, reason: io::Error },
    /// The request, or part of it, was written: whether it was served is unknown.
    Broken(hyper::Error),
    /// The client reset its connection while it waited: what main would have seen by itself.
    ClientReset,
}

/// Tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

enum Sender<B> {
    Http1(http1::SendRequest<B>),
    Http2(http2::SendRequest<B>),
}

impl<B: Body + 'static> Sender<B> {
    /// Waits until the request before is wholly written and answered; false: it is closed.
    async fn is_usable(&mut self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed() && sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

async fn connect(address: SocketAddr, connect_timeout: Duration) -> io::Result<TokioIo<UpstreamStream>> {
    let connecting = tokio::time::timeout(connect_timeout, TcpStream::connect(address));
    let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(UpstreamStream(stream)))
}

/// The address of an upstream, and the limit of a connection attempt.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamAddr {
    pub address: SocketAddr,
    /// Timeout of a connection attempt.
    pub connect_timeout: Duration,
}

/// Limit of header fields in an answer. Beyond 100 hyper allocates each time; that costs 50 ns an answer
/// (docs/design/measurements.md#m66), and an answer with
/// more fields than there is room for would be lost.
const MAX_HEADERS: usize = 4096;

/// As tolerant as a client may be: the service's answers are not ours to judge.
fn build_http1_client() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(MAX_HEADERS)
        .preserve_header_case(true)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true);
    builder
}

/// Connections that belong to one client connection: at most one to each address, made when it is first needed.
pub struct PinnedConnections {
    protocol: Protocol,
    idle: RefCell<Vec<(SocketAddr, Sender<Upload>)>>,
    /// Streams to one address that begin together share a connection, or that there is none: each of them would wait for it
    /// in vain behind the one before.
    connecting: RefCell<HashMap<SocketAddr, Rc<Mutex<Option<FailedConnect>>>>>,
}

/// A connection that could not be made.
struct FailedConnect {
    failed_at: Instant,
    reason: io::ErrorKind,
}

/// Limit of idle connections. One is normal, two with a canary; more only through the gateway.
const MAX_IDLE: usize = 4;
/// How often a request that was not written is tried on a fresh connection.
const MAX_FRESH_RETRIES: usize = 2;

impl PinnedConnections {
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, idle: RefCell::default(), connecting: RefCell::default() }
    }

    /// Tried again only while no byte of the request was written. Its connection is kept where it is still wanted by then, by `can_keep`.
    pub async fn send(
        &self,
        upstream: UpstreamAddr,
        mut request: Request<Upload>,
        can_keep: impl Fn(SocketAddr) -> bool,
    ) -> Result<Response<Incoming>, SendError<Upload>> {
        let address = upstream.address;
        let mut fresh = 0;
        loop {
            let mut sender = match self.take_usable(address).await {
                Some(sender) => sender,
                None => match self.connect(upstream, &can_keep).await {
                    Ok(sender) => sender,
                    Err(reason) => return Err(SendError::Connect { request: request.into(), reason }),
                },
            };
            match sender.send(request).await {
                Ok(response) => {
                    if can_keep(address) {
                        self.store_idle(address, sender);
                    }
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unwritten) if fresh < MAX_FRESH_RETRIES => {
                        fresh += 1;
                        request = unwritten;
                    }
                    _ => return Err(SendError::Broken(error.into_error())),
                },
            }
        }
    }

    async fn take_usable(&self, address: SocketAddr) -> Option<Sender<Upload>> {
        let mut sender = self.take(address)?;
        sender.is_usable().await.then_some(sender)
    }

    fn take(&self, address: SocketAddr) -> Option<Sender<Upload>> {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().position(|(known, _)| *known == address)?;
        match &idle[at].1 {
            // Shared by all streams, as long as it lives.
            Sender::Http2(sender) if !sender.is_closed() => Some(Sender::Http2(sender.clone())),
            _ => Some(idle.swap_remove(at).1),
        }
    }

    fn store_idle(&self, address: SocketAddr, sender: Sender<Upload>) {
        let mut idle = self.idle.borrow_mut();
        if idle.iter().any(|(known, _)| *known == address) {
            return;
        }
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push((address, sender));
    }

    async fn connect(
        &self,
        upstream: UpstreamAddr,
        can_keep: impl Fn(SocketAddr) -> bool,
    ) -> io::Result<Sender<Upload>> {
        let UpstreamAddr { address, connect_timeout } = upstream;
        match self.protocol {
            Protocol::Http1 => {
                let io = connect(address, connect_timeout).await?;
                let (sender, connection) =
                    build_http1_client().handshake(io).await.map_err(io::Error::other)?;
                // The reader that waits for an answer on it gets the reason of its end.
                spawn_local(connection.with_upgrades());
                Ok(Sender::Http1(sender))
            }
            Protocol::Http2 => {
                let started_at = Instant::now();
                let attempt = self.connecting.borrow_mut().entry(address).or_default().clone();
                let mut last_failure = attempt.lock().await;
                if let Some(sender) = self.take_usable(address).await {
                    return Ok(sender);
                }
                if let Some(failure) = last_failure.as_ref().filter(|failure| failure.failed_at > started_at)
                {
                    return Err(failure.reason.into());
                }
                let io = connect(address, connect_timeout).await.inspect_err(|error| {
                    *last_failure = Some(FailedConnect { failed_at: Instant::now(), reason: error.kind() });
                })?;
                let builder = http2::Builder::new(LocalExecutor);
                let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
                spawn_local(connection);
                if can_keep(address) {
                    self.store_idle(address, Sender::Http2(sender.clone()));
                }
                Ok(Sender::Http2(sender))
            }
        }
    }

    /// Closes those that nothing will be sent on; what is in flight on them is finished.
    pub fn keep_only(&self, can_keep: impl Fn(SocketAddr) -> bool) {
        self.idle.borrow_mut().retain(|(address, _)| can_keep(*address));
        self.connecting.borrow_mut().retain(|address, _| can_keep(*address));
    }
}

/// Node closes after 5 s (docs/design/proxy.md#connections-and-retries): sooner than the other side, no request meets a
/// closing connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Limit of a shadow's connection: what it has not read yet is held in its queue, which is bounded.
const SHADOW_BUFFER_BYTES: usize = 64 << 10;

/// Connections to a shadow, shared by all its copies.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<Vec<(SocketAddr, Instant, Sender<CopyBody>)>>,
    /// Connections that streams share, one to each address; since when the last one is on it.
    shared: RefCell<Vec<(SocketAddr, Instant, Sender<CopyBody>)>>,
}

/// A connection of a pool, with a request on it.
pub struct PooledConnection {
    address: SocketAddr,
    sender: Sender<CopyBody>,
}

impl Pool {
    /// Tried once more where a kept connection turned out to be closed before anything was written.
    pub async fn send(
        &self,
        address: SocketAddr,
        protocol: Protocol,
        connect_timeout: Duration,
        mut request: Request<CopyBody>,
    ) -> Result<(Response<Incoming>, PooledConnection), SendError<CopyBody>> {
        let mut kept = self.take(address, protocol);
        loop {
            let reused = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => match self.connect(address, protocol, connect_timeout).await {
                    Ok(sender) => sender,
                    Err(reason) => return Err(SendError::Connect { request: request.into(), reason }),
                },
            };
            match sender.send(request).await {
                Ok(response) => return Ok((response, PooledConnection { address, sender })),
                Err(mut error) => match error.take_message() {
                    Some(unwritten) if reused => request = unwritten,
                    _ => return Err(SendError::Broken(error.into_error())),
                },
            }
        }
    }

    fn take(&self, address: SocketAddr, protocol: Protocol) -> Option<Sender<CopyBody>> {
        if protocol == Protocol::Http2 {
            let mut shared = self.shared.borrow_mut();
            return shared.iter_mut().find_map(|(known, since, sender)| match sender {
                Sender::Http2(sender) if *known == address && !sender.is_closed() => {
                    *since = Instant::now();
                    Some(Sender::Http2(sender.clone()))
                }
                _ => None,
            });
        }
        let mut idle = self.idle.borrow_mut();
        while let Some(at) = idle.iter().rposition(|(known, ..)| *known == address) {
            let (_, since, sender) = idle.remove(at);
            let usable = matches!(&sender, Sender::Http1(sender) if sender.is_ready());
            if since.elapsed() < IDLE_TIMEOUT && usable {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(
        &self,
        address: SocketAddr,
        protocol: Protocol,
        connect_timeout: Duration,
    ) -> io::Result<Sender<CopyBody>> {
        let io = connect(address, connect_timeout).await?;
        match protocol {
            Protocol::Http1 => {
                let mut builder = build_http1_client();
                builder.max_buf_size(SHADOW_BUFFER_BYTES);
                let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
                spawn_local(connection);
                Ok(Sender::Http1(sender))
            }
            Protocol::Http2 => {
                let builder = http2::Builder::new(LocalExecutor);
                let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
                spawn_local(connection);
                let mut shared = self.shared.borrow_mut();
                shared.retain(|(known, ..)| *known != address);
                shared.push((address, Instant::now(), Sender::Http2(sender.clone())));
                drop(shared);
                Ok(Sender::Http2(sender))
            }
        }
    }

    /// Puts a connection back after an answer that was read to its end.
    pub async fn put_back(&self, connection: PooledConnection, max_idle: usize) {
        let PooledConnection { address, mut sender } = connection;
        if matches!(sender, Sender::Http2(_)) || !sender.is_usable().await {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < max_idle {
            idle.push((address, Instant::now(), sender));
        }
    }

    /// Closes what was idle for too long; streams that go on are finished.
    pub fn sweep(&self) {
        self.retain(|_, since| since.elapsed() < IDLE_TIMEOUT);
    }

    /// Closes those to any other address; what is in flight on them is finished.
    pub fn keep_only(&self, can_keep: impl Fn(SocketAddr) -> bool) {
        self.retain(|known, _| can_keep(known));
    }

    fn retain(&self, can_keep: impl Fn(SocketAddr, Instant) -> bool) {
        self.idle.borrow_mut().retain(|(address, since, _)| can_keep(*address, *since));
        self.shared.borrow_mut().retain(|(address, since, _)| can_keep(*address, *since));
    }
}

#[cfg(test)]
mod tests;
