//! The state of one thread of the data path: its services, its connections, its counters.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use hyper::header::HeaderValue;
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::counters::{Gauge, GaugeGuard};
use super::limits::ResourceLimits;
use super::listen::{ListenEndpoint, ListenScope};
use super::service::{CarriedState, Service};
use super::slot::{Ingress, ServiceSlot};
use super::tee::MirrorBudget;
use crate::admission::ConnectionPermit;
use crate::model::name::ServiceName;
use crate::model::proxy::{ProxiedService, ProxyConfig, ProxyLimits, ServiceStats, TrafficSplit};
use crate::plan::proxy::request_filter::PatternError;

/// A connection, as far as a change of the configuration concerns it.
pub trait ConfigListener {
    fn notify_config_changed(&self);
}

/// Shared by everything on one thread.
pub struct Worker {
    number: usize,
    table: RefCell<ServiceTable>,
    carried_states: RefCell<HashMap<ServiceName, Rc<CarriedState>>>,
    connections: RefCell<HashMap<u64, Weak<dyn ConfigListener>>>,
    next_number: Cell<u64>,
    /// The turns of the next connection of a user and of the next health check.
    next_turns: [Cell<usize>; 2],
    budget: Arc<MirrorBudget>,
    resource_limits: Arc<ResourceLimits>,
    collector: Arc<Collector>,
    is_ending: Cell<bool>,
    open_listeners: Gauge,
}

#[derive(Default)]
struct ServiceTable {
    limits: Rc<ProxyLimits>,
    services: HashMap<ServiceName, Rc<ServiceSlot>>,
    endpoints: HashMap<ListenEndpoint, EndpointState>,
}

/// The target of a listener, for as long as connections are accepted there.
struct EndpointState {
    ingress: Ingress,
    cancellation: CancellationToken,
}

/// A listener that the worker has to accept connections on, until it is cancelled.
pub struct NewListener {
    pub listener: TcpListener,
    pub endpoint: ListenEndpoint,
    pub ingress: Ingress,
    pub cancellation: CancellationToken,
}

impl Worker {
    pub fn new(number: usize, resource_limits: Arc<ResourceLimits>, collector: Arc<Collector>) -> Self {
        Self {
            number,
            table: RefCell::default(),
            carried_states: RefCell::default(),
            connections: RefCell::default(),
            next_number: Cell::default(),
            // Workers begin with different instances.
            next_turns: [Cell::new(number), Cell::new(number)],
            budget: Arc::default(),
            resource_limits,
            collector,
            is_ending: Cell::new(false),
            open_listeners: Gauge::default(),
        }
    }

    /// Puts a configuration in force, and returns the listeners that are new.
    pub fn apply(
        &self,
        config: &ProxyConfig,
        listeners: HashMap<ListenEndpoint, Vec<TcpListener>>,
    ) -> Result<Vec<NewListener>, PatternError> {
        let mut slots = HashMap::new();
        for service_config in &config.services {
            let name = &service_config.service;
            let state = self.carried_states.borrow_mut().entry(name.clone()).or_default().clone();
            let service = Rc::new(Service::new(service_config, &state, Some(&self.collector))?);
            state.forget(service_config);
            let slot = match self.find_slot(name) {
                Some(slot) => {
                    slot.replace(service);
                    slot
                }
                None => Rc::new(ServiceSlot::new(service)),
            };
            slots.insert(name.clone(), slot);
        }
        self.drain_removed_services(&slots)?;
        let new = self.update_endpoints(config, &slots, listeners);
        let mut table = self.table.borrow_mut();
        table.services = slots;
        table.limits = Rc::new(config.proxy_limits.clone());
        drop(table);
        self.notify_connections();
        Ok(new)
    }

    /// Ends, with its next answer, each connection to a service that the configuration names no more.
    fn drain_removed_services(
        &self,
        kept: &HashMap<ServiceName, Rc<ServiceSlot>>,
    ) -> Result<(), PatternError> {
        for (name, slot) in &self.table.borrow().services {
            let state = self.carried_states.borrow().get(name).cloned();
            if let (false, Some(state)) = (kept.contains_key(name), state) {
                let config = slot.service().config.clone();
                let config =
                    ProxiedService { draining: true, traffic_split: TrafficSplit::default(), ..config };
                slot.replace(Rc::new(Service::new(&config, &state, None)?));
            }
        }
        Ok(())
    }

    fn update_endpoints(
        &self,
        config: &ProxyConfig,
        slots: &HashMap<ServiceName, Rc<ServiceSlot>>,
        mut listeners: HashMap<ListenEndpoint, Vec<TcpListener>>,
    ) -> Vec<NewListener> {
        let services = config.services.iter().filter_map(|service| {
            let slot = slots.get(&service.service)?.clone();
            Some((ListenEndpoint(service.port, ListenScope::AllAddresses), Ingress::Service(slot)))
        });
        let gateway =
            config.gateway.map(|port| (ListenEndpoint(port, ListenScope::Loopback), Ingress::Gateway));
        let mut before = std::mem::take(&mut self.table.borrow_mut().endpoints);
        let (mut endpoints, mut new) = (HashMap::new(), Vec::new());
        for (endpoint, ingress) in services.chain(gateway) {
            let cancellation = before.remove(&endpoint).map(|state| state.cancellation).unwrap_or_default();
            let opened = listeners.remove(&endpoint).into_iter().flatten();
            new.extend(opened.map(|listener| NewListener {
                listener,
                endpoint,
                ingress: ingress.clone(),
                cancellation: cancellation.clone(),
            }));
            endpoints.insert(endpoint, EndpointState { ingress, cancellation });
        }
        for state in before.into_values() {
            state.cancellation.cancel();
        }
        self.table.borrow_mut().endpoints = endpoints;
        new
    }

    /// Accepts no more connections, and ends each one with its next answer.
    pub fn close(&self) {
        self.is_ending.set(true);
        let endpoints = std::mem::take(&mut self.table.borrow_mut().endpoints);
        for state in endpoints.into_values() {
            state.cancellation.cancel();
        }
        self.notify_connections();
    }

    /// Upstream connections that nothing is sent on any more would keep an old main from being drained.
    fn notify_connections(&self) {
        for connection in self.connections.borrow().values().filter_map(Weak::upgrade) {
            connection.notify_config_changed();
        }
    }

    /// Closes upstream connections that were idle for too long.
    pub fn sweep(&self) {
        self.carried_states.borrow().values().for_each(|state| state.sweep());
    }

    pub fn collect_stats(&self) -> Vec<ServiceStats> {
        let states = self.carried_states.borrow();
        states.iter().map(|(name, state)| state.counts().to_stats(name)).collect()
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending.get()
    }

    pub fn limits(&self) -> Rc<ProxyLimits> {
        self.table.borrow().limits.clone()
    }

    pub const fn budget(&self) -> &Arc<MirrorBudget> {
        &self.budget
    }

    pub fn is_suspended(&self) -> bool {
        self.resource_limits.is_exhausted()
    }

    /// Records a client of a listener among those that have not sent a request yet.
    pub fn enter(&self, ingress: &Ingress, peer: SocketAddr) -> ConnectionPermit {
        self.resource_limits.admission(ingress).enter(peer)
    }

    /// Stops copies for a while: the process is at a limit.
    pub fn record_accept_failure(&self) {
        self.resource_limits.record_accept_failure();
    }

    /// Returns the current target of an endpoint: another service may have got the port.
    pub fn find_ingress(&self, endpoint: ListenEndpoint) -> Option<Ingress> {
        self.table.borrow().endpoints.get(&endpoint).map(|state| state.ingress.clone())
    }

    pub fn find_slot(&self, service: &ServiceName) -> Option<Rc<ServiceSlot>> {
        self.table.borrow().services.get(service).cloned()
    }

    /// Whether a service has an upstream at this address.
    pub fn has_upstream(&self, address: SocketAddr) -> bool {
        let table = self.table.borrow();
        table.services.values().any(|slot| slot.service().has_upstream(address))
    }

    /// Never twice in a process, hardly ever twice at all.
    /// Returns the instance that a new connection begins with. Health checks have turns of their own: where they alternate with
    /// users, each kind would reach one instance of two alone.
    pub fn take_turn(&self, is_check: bool) -> usize {
        let next = &self.next_turns[usize::from(is_check)];
        next.replace(next.get().wrapping_add(1))
    }

    pub fn next_request_id(&self) -> HeaderValue {
        self.next_number.set(self.next_number.get() + 1);
        let text =
            format!("{:016x}{:02x}{:014x}", self.resource_limits.salt(), self.number, self.next_number.get());
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }

    /// Counts a listener as open until the guard is dropped.
    pub fn hold_listener(&self) -> GaugeGuard {
        self.open_listeners.acquire()
    }

    pub fn has_listeners(&self) -> bool {
        self.open_listeners.get() > 0
    }

    /// Notifies a connection of changes until the registration is dropped.
    pub fn register(self: &Rc<Self>, connection: Weak<dyn ConfigListener>) -> Registration {
        self.next_number.set(self.next_number.get() + 1);
        let number = self.next_number.get();
        self.connections.borrow_mut().insert(number, connection);
        Registration { worker: self.clone(), number }
    }

    pub fn has_connections(&self) -> bool {
        !self.connections.borrow().is_empty()
    }
}

pub struct Registration {
    worker: Rc<Worker>,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.number);
    }
}
