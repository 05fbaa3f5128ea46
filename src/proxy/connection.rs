//! The state of one client connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::client_stream::HeadState;
use super::counters::GaugeGuard;
use super::slot::Ingress;
use super::upstream::{PinnedConnections, Protocol};
use super::worker::{ConfigListener, Registration, Worker};
use crate::admission::ConnectionPermit;

pub struct Connection {
    pub worker: Rc<Worker>,
    pub ingress: Ingress,
    pub peer: SocketAddr,
    /// Until the first request, the connection may be closed for a newer one.
    pub permit: ConnectionPermit,
    /// HAProxy's health check: main's alone to answer.
    pub is_check: bool,
    /// Which instance of a version it begins with.
    pub turn: usize,
    pub protocol: Cell<Protocol>,
    pub pinned_connections: RefCell<Rc<PinnedConnections>>,
    pub head_state: Arc<HeadState>,
    /// The configuration changed in a way that may make this connection's next answer its last.
    config_changed: Notify,
    pub stream: Arc<TcpStream>,
}

/// Held for as long as any task of a connection runs.
pub struct ConnectionGuard {
    _registration: Registration,
    _gauge_guard: Option<GaugeGuard>,
}

impl Connection {
    pub fn new(
        worker: Rc<Worker>,
        ingress: Ingress,
        stream: TcpStream,
        permit: ConnectionPermit,
        is_check: bool,
    ) -> Self {
        Self {
            turn: worker.take_turn(is_check),
            worker,
            ingress,
            peer: permit.peer,
            permit,
            is_check,
            protocol: Cell::new(Protocol::Http1),
            pinned_connections: RefCell::new(Rc::new(PinnedConnections::new(Protocol::Http1))),
            head_state: Arc::default(),
            config_changed: Notify::new(),
            stream: Arc::new(stream),
        }
    }

    /// Registers the connection with its worker, and counts it where it is a user's.
    pub fn register(self: &Rc<Self>) -> ConnectionGuard {
        let gauge_guard = match &self.ingress {
            Ingress::Service(slot) if !self.is_check => Some(slot.service().counts.connections.acquire()),
            _ => None,
        };
        let listener = Rc::downgrade(self);
        ConnectionGuard { _registration: self.worker.register(listener), _gauge_guard: gauge_guard }
    }

    /// Goes on in HTTP/2.
    pub fn switch_to_http2(&self) {
        self.protocol.set(Protocol::Http2);
        *self.pinned_connections.borrow_mut() = Rc::new(PinnedConnections::new(Protocol::Http2));
    }

    /// Whether the next answer is to be the last.
    pub fn is_last(&self) -> bool {
        self.worker.is_ending()
            || matches!(&self.ingress, Ingress::Service(slot) if slot.service().config.draining)
    }

    /// Returns when the next answer is to be the last.
    pub async fn wait_until_last(&self) {
        loop {
            let config_changed = self.config_changed.notified();
            if self.is_last() {
                return;
            }
            config_changed.await;
        }
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

impl ConfigListener for Connection {
    fn notify_config_changed(&self) {
        self.config_changed.notify_waiters();
        self.close_unused_upstreams();
    }
}
