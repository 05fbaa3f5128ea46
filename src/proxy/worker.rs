//! A thread of the data path: its listeners, its connections, its counts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::connection::{Connection, Ingress};
use super::counters::Gauge;
use super::limits::ResourceLimits;
use super::listen::{ListenEndpoint, ListenScope};
use super::service::{CarriedState, Service};
use super::tee::MirrorBudget;
use crate::model::name::ServiceName;
use crate::model::proxy::{ProxiedService, ProxyConfig, ProxyLimits, ServiceStats, TrafficSplit};
use crate::plan::proxy::request_filter::PatternError;

/// Pause after a connection could not be accepted.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How often idle connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A command to a worker from outside its thread.
pub enum WorkerCommand {
    /// The whole configuration, with listeners of the ports that are new.
    Apply(Box<NewConfig>, oneshot::Sender<()>),
    Count(oneshot::Sender<Vec<ServiceStats>>),
    Ping(oneshot::Sender<()>),
    /// Accept nothing more, end every connection with its next answer.
    Close(oneshot::Sender<()>),
    /// Answered when no connection is left.
    Drain(oneshot::Sender<()>),
}

pub struct NewConfig {
    pub config: Arc<ProxyConfig>,
    pub listeners: HashMap<ListenEndpoint, Vec<TcpListener>>,
}

/// The other threads' end of a worker.
pub struct WorkerHandle {
    commands: mpsc::UnboundedSender<WorkerCommand>,
}

impl WorkerHandle {
    /// Returns `None` where the worker has ended.
    pub async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> WorkerCommand) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(order(answer)).ok()?;
        answered.await.ok()
    }
}

pub fn start(
    number: usize,
    room: Arc<ResourceLimits>,
    collector: Arc<Collector>,
) -> io::Result<WorkerHandle> {
    let (orders, heard) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let local = LocalSet::new();
        local.block_on(&runtime, serve(Rc::new(Worker::new(number, room, collector)), heard));
    })?;
    Ok(WorkerHandle { commands: orders })
}

/// Shared by everything on one thread.
pub struct Worker {
    number: usize,
    table: RefCell<ServiceTable>,
    carried_states: RefCell<HashMap<ServiceName, Rc<CarriedState>>>,
    connections: RefCell<HashMap<u64, Weak<Connection>>>,
    next_number: Cell<u64>,
    budget: Arc<MirrorBudget>,
    resource_limits: Arc<ResourceLimits>,
    collector: Arc<Collector>,
    is_ending: Cell<bool>,
    /// Listeners.
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

/// The slot in which connections find their service under the current configuration.
pub struct ServiceSlot(RefCell<Rc<Service>>);

impl ServiceSlot {
    pub fn service(&self) -> Rc<Service> {
        self.0.borrow().clone()
    }
}

async fn serve(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<WorkerCommand>) {
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => worker.execute(order),
                None => return,
            },
            _ = sweep.tick() => worker.sweep(),
        }
    }
}

impl Worker {
    fn new(number: usize, resource_limits: Arc<ResourceLimits>, collector: Arc<Collector>) -> Self {
        Self {
            number,
            table: RefCell::default(),
            carried_states: RefCell::default(),
            connections: RefCell::default(),
            next_number: Cell::default(),
            budget: Arc::default(),
            resource_limits,
            collector,
            is_ending: Cell::new(false),
            open_listeners: Gauge::default(),
        }
    }

    // A caller that has disconnected needs no answer.
    fn execute(self: &Rc<Self>, order: WorkerCommand) {
        match order {
            WorkerCommand::Apply(applied, done) => {
                if let Err(error) = self.apply(*applied) {
                    log::error!("a configuration that was checked is refused: {error}");
                }
                let _ = done.send(());
            }
            WorkerCommand::Count(told) => {
                let memories = self.carried_states.borrow();
                let _ = told.send(memories.iter().map(|(name, memory)| memory.counts().told(name)).collect());
            }
            WorkerCommand::Ping(pong) => {
                let _ = pong.send(());
            }
            WorkerCommand::Close(done) => {
                self.is_ending.set(true);
                let places = std::mem::take(&mut self.table.borrow_mut().endpoints);
                for place in places.into_values() {
                    place.cancellation.cancel();
                }
                self.notify_connections();
                spawn_local(self.clone().wait_until_closed(done));
            }
            WorkerCommand::Drain(done) => {
                spawn_local(self.clone().wait_until_drained(done));
            }
        }
    }

    fn apply(self: &Rc<Self>, applied: NewConfig) -> Result<(), PatternError> {
        let NewConfig { config, listeners } = applied;
        let mut slots = HashMap::new();
        for told in &config.services {
            let memory = self.carried_states.borrow_mut().entry(told.service.clone()).or_default().clone();
            let service = Rc::new(Service::new(told, &memory, Some(&self.collector))?);
            memory.forget(told);
            let known = self.table.borrow().services.get(&told.service).cloned();
            let slot = match known {
                // Its connections find the new one at their next request.
                Some(slot) => {
                    *slot.0.borrow_mut() = service;
                    slot
                }
                None => Rc::new(ServiceSlot(RefCell::new(service))),
            };
            slots.insert(told.service.clone(), slot);
        }
        self.drain_removed_services(&slots)?;
        self.update_listeners(&config, &slots, listeners);
        let mut table = self.table.borrow_mut();
        table.services = slots;
        table.limits = Rc::new(config.proxy_limits.clone());
        drop(table);
        self.notify_connections();
        Ok(())
    }

    /// Ends, with its next answer, each connection to a service that the configuration names no more.
    fn drain_removed_services(
        &self,
        kept: &HashMap<ServiceName, Rc<ServiceSlot>>,
    ) -> Result<(), PatternError> {
        for (name, slot) in &self.table.borrow().services {
            let memory = self.carried_states.borrow().get(name).cloned();
            if let (false, Some(memory)) = (kept.contains_key(name), memory) {
                let told = slot.service().told.clone();
                let told = ProxiedService { draining: true, traffic_split: TrafficSplit::default(), ..told };
                *slot.0.borrow_mut() = Rc::new(Service::new(&told, &memory, None)?);
            }
        }
        Ok(())
    }

    fn update_listeners(
        self: &Rc<Self>,
        config: &ProxyConfig,
        slots: &HashMap<ServiceName, Rc<ServiceSlot>>,
        mut listeners: HashMap<ListenEndpoint, Vec<TcpListener>>,
    ) {
        let services = config.services.iter().filter_map(|told| {
            let slot = slots.get(&told.service)?.clone();
            Some((ListenEndpoint(told.port, ListenScope::AllAddresses), Ingress::Service(slot)))
        });
        let gateway =
            config.gateway.map(|port| (ListenEndpoint(port, ListenScope::Loopback), Ingress::Gateway));
        let mut before = std::mem::take(&mut self.table.borrow_mut().endpoints);
        let mut places = HashMap::new();
        for (place, door) in services.chain(gateway) {
            let open = before.remove(&place).map(|accepting| accepting.cancellation).unwrap_or_default();
            for listener in listeners.remove(&place).into_iter().flatten() {
                spawn_local(accept_connections(self.clone(), listener, door.clone(), place, open.clone()));
            }
            places.insert(place, EndpointState { ingress: door, cancellation: open });
        }
        for place in before.into_values() {
            place.cancellation.cancel();
        }
        self.table.borrow_mut().endpoints = places;
    }

    /// Upstream connections that nothing is sent on any more would keep an old main from being drained.
    fn notify_connections(&self) {
        for connection in self.connections.borrow().values().filter_map(Weak::upgrade) {
            connection.notify_config_changed();
        }
    }

    fn sweep(&self) {
        self.carried_states.borrow().values().for_each(|memory| memory.sweep());
    }

    async fn wait_until_closed(self: Rc<Self>, done: oneshot::Sender<()>) {
        while self.open_listeners.get() > 0 {
            sleep(POLL_INTERVAL).await;
        }
        let _ = done.send(());
    }

    async fn wait_until_drained(self: Rc<Self>, done: oneshot::Sender<()>) {
        while !self.connections.borrow().is_empty() {
            sleep(POLL_INTERVAL).await;
        }
        let _ = done.send(());
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending.get()
    }

    pub fn limits(&self) -> Rc<ProxyLimits> {
        self.table.borrow().limits.clone()
    }

    pub fn budget(&self) -> &Arc<MirrorBudget> {
        &self.budget
    }

    pub fn is_suspended(&self) -> bool {
        self.resource_limits.is_exhausted()
    }

    fn find_ingress(&self, place: ListenEndpoint) -> Option<Ingress> {
        self.table.borrow().endpoints.get(&place).map(|accepting| accepting.ingress.clone())
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
    pub fn next_request_id(&self) -> HeaderValue {
        self.next_number.set(self.next_number.get() + 1);
        let text =
            format!("{:016x}{:02x}{:014x}", self.resource_limits.salt(), self.number, self.next_number.get());
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }

    /// Known until the registration is dropped.
    pub fn register(self: &Rc<Self>, connection: &Rc<Connection>) -> Registration {
        self.next_number.set(self.next_number.get() + 1);
        let number = self.next_number.get();
        self.connections.borrow_mut().insert(number, Rc::downgrade(connection));
        Registration { worker: self.clone(), number }
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

/// Accepts until the listener is closed. Connections that wait then are accepted first: closing a listener resets them.
async fn accept_connections(
    worker: Rc<Worker>,
    listener: TcpListener,
    mut door: Ingress,
    place: ListenEndpoint,
    open: CancellationToken,
) {
    let _counted = worker.open_listeners.acquire();
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return log::error!("a listener is of no use: {error}"),
    };
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = open.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                // Another service may have got the port.
                door = worker.find_ingress(place).unwrap_or(door);
                spawn_local(Connection::serve(worker.clone(), stream, peer, door.clone()));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    log::warn!("cannot accept: {error}");
                }
                worker.resource_limits.record_accept_failure();
                sleep(POLL_INTERVAL).await;
            }
        }
    }
    // The kernel knows which connections wait; the runtime may not have been notified yet.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            spawn_local(Connection::serve(worker.clone(), stream, peer, door.clone()));
        }
    }
}
