//! One thread of the data path: its listeners, its connections, its counts.

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
use super::connection::{Connection, Door};
use super::counters::Gauge;
use super::limits::Room;
use super::listen::{Place, Reach};
use super::service::{Memory, Service};
use super::tee::Budget;
use crate::model::name::ServiceName;
use crate::model::proxy::{Limits, ProxiedService, ProxyConfig, ServiceStats, Splits};
use crate::plan::proxy::matching::PatternError;

/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(10);
/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// What a worker is told from outside its thread.
pub enum Order {
    /// The whole configuration, with listeners of the ports that are new.
    Apply(Box<Applied>, oneshot::Sender<()>),
    Count(oneshot::Sender<Vec<ServiceStats>>),
    Ping(oneshot::Sender<()>),
    /// Accept nothing more, end every connection with its next answer.
    Close(oneshot::Sender<()>),
    /// Answered when no connection is left.
    Drain(oneshot::Sender<()>),
}

pub struct Applied {
    pub config: Arc<ProxyConfig>,
    pub listeners: HashMap<Place, Vec<TcpListener>>,
}

/// The other threads' end of a worker.
pub struct Handle {
    orders: mpsc::UnboundedSender<Order>,
}

impl Handle {
    /// `None`: the worker is gone.
    pub async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).ok()?;
        answered.await.ok()
    }
}

pub fn start(number: usize, room: Arc<Room>, collector: Arc<Collector>) -> io::Result<Handle> {
    let (orders, heard) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let local = LocalSet::new();
        local.block_on(&runtime, serve(Rc::new(Worker::new(number, room, collector)), heard));
    })?;
    Ok(Handle { orders })
}

/// Shared by everything on one thread.
pub struct Worker {
    number: usize,
    table: RefCell<Table>,
    memories: RefCell<HashMap<ServiceName, Rc<Memory>>>,
    connections: RefCell<HashMap<u64, Weak<Connection>>>,
    next: Cell<u64>,
    budget: Arc<Budget>,
    room: Arc<Room>,
    collector: Arc<Collector>,
    ending: Cell<bool>,
    /// Listeners.
    accepting: Gauge,
}

#[derive(Default)]
struct Table {
    limits: Rc<Limits>,
    services: HashMap<ServiceName, Rc<Slot>>,
    places: HashMap<Place, Accepting>,
}

/// Who is reached at a place, for as long as somebody accepts there.
struct Accepting {
    door: Door,
    open: CancellationToken,
}

/// Where connections find their service as it is told now.
pub struct Slot(RefCell<Rc<Service>>);

impl Slot {
    pub fn service(&self) -> Rc<Service> {
        self.0.borrow().clone()
    }
}

async fn serve(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => worker.obey(order),
                None => return,
            },
            _ = sweep.tick() => worker.sweep(),
        }
    }
}

impl Worker {
    fn new(number: usize, room: Arc<Room>, collector: Arc<Collector>) -> Self {
        Self {
            number,
            table: RefCell::default(),
            memories: RefCell::default(),
            connections: RefCell::default(),
            next: Cell::default(),
            budget: Arc::default(),
            room,
            collector,
            ending: Cell::new(false),
            accepting: Gauge::default(),
        }
    }

    // Whoever asked and is gone needs no answer.
    fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Apply(applied, done) => {
                if let Err(error) = self.apply(*applied) {
                    log::error!("a configuration that was checked is refused: {error}");
                }
                let _ = done.send(());
            }
            Order::Count(told) => {
                let memories = self.memories.borrow();
                let _ = told.send(memories.iter().map(|(name, memory)| memory.counts().told(name)).collect());
            }
            Order::Ping(pong) => {
                let _ = pong.send(());
            }
            Order::Close(done) => {
                self.ending.set(true);
                let places = std::mem::take(&mut self.table.borrow_mut().places);
                for place in places.into_values() {
                    place.open.cancel();
                }
                self.tell_connections();
                spawn_local(self.clone().closed(done));
            }
            Order::Drain(done) => {
                spawn_local(self.clone().drain(done));
            }
        }
    }

    fn apply(self: &Rc<Self>, applied: Applied) -> Result<(), PatternError> {
        let Applied { config, listeners } = applied;
        let mut slots = HashMap::new();
        for told in &config.services {
            let memory = self.memories.borrow_mut().entry(told.service.clone()).or_default().clone();
            let service = Rc::new(Service::new(told, &memory, Some(&self.collector))?);
            memory.forget(told);
            let known = self.table.borrow().services.get(&told.service).cloned();
            let slot = match known {
                // Its connections find the new one at their next request.
                Some(slot) => {
                    *slot.0.borrow_mut() = service;
                    slot
                }
                None => Rc::new(Slot(RefCell::new(service))),
            };
            slots.insert(told.service.clone(), slot);
        }
        self.dismiss(&slots)?;
        self.accept_on(&config, &slots, listeners);
        let mut table = self.table.borrow_mut();
        table.services = slots;
        table.limits = Rc::new(config.limits.clone());
        drop(table);
        self.tell_connections();
        Ok(())
    }

    /// What is connected still to a service that is told no more ends with its next answer.
    fn dismiss(&self, kept: &HashMap<ServiceName, Rc<Slot>>) -> Result<(), PatternError> {
        for (name, slot) in &self.table.borrow().services {
            let memory = self.memories.borrow().get(name).cloned();
            if let (false, Some(memory)) = (kept.contains_key(name), memory) {
                let told = slot.service().told.clone();
                let told = ProxiedService { draining: true, splits: Splits::default(), ..told };
                *slot.0.borrow_mut() = Rc::new(Service::new(&told, &memory, None)?);
            }
        }
        Ok(())
    }

    fn accept_on(
        self: &Rc<Self>,
        config: &ProxyConfig,
        slots: &HashMap<ServiceName, Rc<Slot>>,
        mut listeners: HashMap<Place, Vec<TcpListener>>,
    ) {
        let services = config.services.iter().filter_map(|told| {
            let slot = slots.get(&told.service)?.clone();
            Some((Place(told.port, Reach::Everywhere), Door::Service(slot)))
        });
        let gateway = config.gateway.map(|port| (Place(port, Reach::Loopback), Door::Gateway));
        let mut before = std::mem::take(&mut self.table.borrow_mut().places);
        let mut places = HashMap::new();
        for (place, door) in services.chain(gateway) {
            let open = before.remove(&place).map(|accepting| accepting.open).unwrap_or_default();
            for listener in listeners.remove(&place).into_iter().flatten() {
                spawn_local(accept(self.clone(), listener, door.clone(), place, open.clone()));
            }
            places.insert(place, Accepting { door, open });
        }
        for place in before.into_values() {
            place.open.cancel();
        }
        self.table.borrow_mut().places = places;
    }

    /// Upstream connections that nothing is sent on any more would keep an old main from being drained.
    fn tell_connections(&self) {
        for connection in self.connections.borrow().values().filter_map(Weak::upgrade) {
            connection.hear();
        }
    }

    fn sweep(&self) {
        self.memories.borrow().values().for_each(|memory| memory.sweep());
    }

    async fn closed(self: Rc<Self>, done: oneshot::Sender<()>) {
        while self.accepting.get() > 0 {
            sleep(PAUSE).await;
        }
        let _ = done.send(());
    }

    async fn drain(self: Rc<Self>, done: oneshot::Sender<()>) {
        while !self.connections.borrow().is_empty() {
            sleep(PAUSE).await;
        }
        let _ = done.send(());
    }

    pub fn is_ending(&self) -> bool {
        self.ending.get()
    }

    pub fn limits(&self) -> Rc<Limits> {
        self.table.borrow().limits.clone()
    }

    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub fn is_suspended(&self) -> bool {
        self.room.is_short()
    }

    fn door(&self, place: Place) -> Option<Door> {
        self.table.borrow().places.get(&place).map(|accepting| accepting.door.clone())
    }

    pub fn slot(&self, service: &ServiceName) -> Option<Rc<Slot>> {
        self.table.borrow().services.get(service).cloned()
    }

    /// Whether a service has somebody there.
    pub fn knows(&self, address: SocketAddr) -> bool {
        let table = self.table.borrow();
        table.services.values().any(|slot| slot.service().has(address))
    }

    /// Never twice in a process, hardly ever twice at all.
    pub fn request_id(&self) -> HeaderValue {
        self.next.set(self.next.get() + 1);
        let text = format!("{:016x}{:02x}{:014x}", self.room.salt(), self.number, self.next.get());
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }

    /// Known until the registration is dropped.
    pub fn register(self: &Rc<Self>, connection: &Rc<Connection>) -> Registered {
        self.next.set(self.next.get() + 1);
        let number = self.next.get();
        self.connections.borrow_mut().insert(number, Rc::downgrade(connection));
        Registered { worker: self.clone(), number }
    }
}

pub struct Registered {
    worker: Rc<Worker>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.number);
    }
}

/// Until its place is closed. Whoever waits to be accepted then is accepted first: closing a listener resets them.
async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    mut door: Door,
    place: Place,
    open: CancellationToken,
) {
    let _counted = worker.accepting.hold();
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
                door = worker.door(place).unwrap_or(door);
                spawn_local(Connection::serve(worker.clone(), stream, peer, door.clone()));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    log::warn!("cannot accept: {error}");
                }
                worker.room.ran_out();
                sleep(PAUSE).await;
            }
        }
    }
    // The kernel knows who waits; the runtime may not have heard yet.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            spawn_local(Connection::serve(worker.clone(), stream, peer, door.clone()));
        }
    }
}
