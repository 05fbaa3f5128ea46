//! The loop of a worker's thread: it executes commands of other threads, and accepts connections.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::collector::Collector;
use super::limits::ResourceLimits;
use super::listen::ListenEndpoint;
use super::serve::serve_connection;
use super::worker::{NewListener, Worker};
use crate::model::proxy::{ProxyConfig, ServiceStats};

/// Interval between two looks at what a command waits for, and after a connection could not be accepted.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How often idle connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A command to a worker from outside its thread, with the sender for its result.
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
    pub async fn request<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> WorkerCommand) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(command(sender)).ok()?;
        receiver.await.ok()
    }
}

/// Starts a worker on a thread of its own.
pub fn start(
    number: usize,
    resource_limits: Arc<ResourceLimits>,
    collector: Arc<Collector>,
) -> io::Result<WorkerHandle> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let worker = Rc::new(Worker::new(number, resource_limits, collector));
        LocalSet::new().block_on(&runtime, run(worker, receiver));
    })?;
    Ok(WorkerHandle { commands: sender })
}

async fn run(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<WorkerCommand>) {
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => execute(&worker, command),
                None => return,
            },
            _ = sweep.tick() => worker.sweep(),
        }
    }
}

// A caller that has disconnected needs no result.
fn execute(worker: &Rc<Worker>, command: WorkerCommand) {
    match command {
        WorkerCommand::Apply(new, done) => {
            match worker.apply(&new.config, new.listeners) {
                Ok(listeners) => {
                    for listener in listeners {
                        spawn_local(accept_connections(worker.clone(), listener));
                    }
                }
                Err(error) => log::error!("a configuration that was checked is refused: {error}"),
            }
            let _ = done.send(());
        }
        WorkerCommand::Count(stats) => {
            let _ = stats.send(worker.collect_stats());
        }
        WorkerCommand::Ping(pong) => {
            let _ = pong.send(());
        }
        WorkerCommand::Close(done) => {
            worker.close();
            spawn_local(wait_until_closed(worker.clone(), done));
        }
        WorkerCommand::Drain(done) => {
            spawn_local(wait_until_drained(worker.clone(), done));
        }
    }
}

async fn wait_until_closed(worker: Rc<Worker>, done: oneshot::Sender<()>) {
    while worker.has_listeners() {
        sleep(POLL_INTERVAL).await;
    }
    let _ = done.send(());
}

async fn wait_until_drained(worker: Rc<Worker>, done: oneshot::Sender<()>) {
    while worker.has_connections() {
        sleep(POLL_INTERVAL).await;
    }
    let _ = done.send(());
}

/// Accepts until the listener is closed. Connections that wait then are accepted first: closing a listener resets them.
async fn accept_connections(worker: Rc<Worker>, new: NewListener) {
    let NewListener { listener, endpoint, mut ingress, cancellation } = new;
    let _guard = worker.hold_listener();
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return log::error!("cannot use a listener: {error}"),
    };
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = cancellation.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                is_failing = false;
                ingress = worker.find_ingress(endpoint).unwrap_or(ingress);
                // Clients that it displaces close their descriptors before it needs one to an upstream.
                let permit = worker.enter(&ingress, peer);
                spawn_local(serve_connection(worker.clone(), stream, permit, ingress.clone()));
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    log::warn!("cannot accept: {error}");
                }
                worker.record_accept_failure();
                sleep(POLL_INTERVAL).await;
            }
        }
    }
    // The kernel knows which connections wait; the runtime may not have been notified yet.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            let permit = worker.enter(&ingress, peer);
            spawn_local(serve_connection(worker.clone(), stream, permit, ingress.clone()));
        }
    }
}
