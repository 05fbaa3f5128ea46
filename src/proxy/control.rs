//! What the agent says to the proxy: HTTP and JSON on the control socket.
//!
//! `PUT /config` (the whole of it; answered when it is in force, ports that cannot be had apart, which are tried again and again),
//! `GET /config`, `GET /stats`, `GET /health` (answered when every worker has answered: the ports it listens on for services, and
//! those that it cannot), `GET /compare/SERVICE/DEPLOYMENT` (null: nothing was
//! compared), `POST /stop`. A connection that is kept open ends when the process does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt::Display;
use std::net::TcpListener;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Mutex, Notify};

use super::collector::Collector;
use super::control_socket::Door;
use super::counters;
use super::limits::Room;
use super::listen::{Place, Reach, listeners};
use super::service::{Memory, Service};
use super::worker::{Applied, Handle, Order};
use crate::model::compare::Subject;
use crate::model::proxy::{ProxyConfig, ProxyHealth, ProxyStats};

/// A configuration is a few KiB; more is a mistake.
const LARGEST: usize = 8 << 20;
/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two tries to have the gateway's port.
const AGAIN: Duration = Duration::from_secs(2);
/// A worker that has not answered by then is stalled.
const PATIENCE: Duration = Duration::from_millis(500);

pub struct Control {
    workers: Vec<Handle>,
    room: Arc<Room>,
    collector: Arc<Collector>,
    now: Mutex<Now>,
    /// By the configuration in force; read while another one is put in force.
    listens: RwLock<ProxyHealth>,
    stop: Notify,
}

/// What is in force.
#[derive(Default)]
struct Now {
    config: Arc<ProxyConfig>,
    /// Where it listens.
    places: BTreeSet<Place>,
    /// And why not elsewhere.
    missing: BTreeMap<Place, String>,
}

/// What is refused, and how.
struct Refused(StatusCode, String);

fn bad(why: impl Display) -> Refused {
    Refused(StatusCode::BAD_REQUEST, format!("{why}"))
}

/// One after another, each on a task of its own; never returns.
pub async fn serve(door: &Door, control: &Arc<Control>) {
    loop {
        match door.listener.accept().await {
            Ok((stream, _)) => {
                let control = control.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(control.clone(), request));
                    let mut server = hyper::server::conn::http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(None).half_close(true);
                    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                        log::debug!("control socket: {error}");
                    }
                });
            }
            Err(error) => {
                log::warn!("control socket: cannot accept: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(
    control: Arc<Control>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let answered = match (request.method(), path.as_str()) {
        (&Method::PUT, "/config") => control.clone().told(request).await.map(|()| json(&json!({}))),
        (&Method::GET, "/config") => Ok(json(&*control.now.lock().await.config)),
        (&Method::GET, "/stats") => Ok(json(&control.stats().await)),
        (&Method::GET, "/health") => control.health().await.map(|health| json(&health)),
        (&Method::POST, "/stop") => {
            control.stop.notify_one();
            Ok(json(&json!({})))
        }
        (&Method::GET, path) => control.evidence(path),
        _ => Err(no_route()),
    };
    Ok(answered.unwrap_or_else(|Refused(status, message)| {
        let mut response = json(&json!({ "message": message }));
        *response.status_mut() = status;
        response
    }))
}

fn no_route() -> Refused {
    Refused(StatusCode::NOT_FOUND, "there is no such route".to_owned())
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Control {
    pub fn new(workers: Vec<Handle>, room: Arc<Room>, collector: Arc<Collector>) -> Self {
        Self {
            workers,
            room,
            collector,
            now: Mutex::default(),
            listens: RwLock::default(),
            stop: Notify::new(),
        }
    }

    /// Returns when somebody asked it to end.
    pub async fn stopped(&self) {
        self.stop.notified().await;
    }

    async fn told(self: Arc<Self>, request: Request<Incoming>) -> Result<(), Refused> {
        let body = Limited::new(request.into_body(), LARGEST).collect().await.map_err(bad)?.to_bytes();
        let config = serde_json::from_slice(&body);
        let config = config.map_err(|error| bad(format!("the configuration is not understood: {error}")))?;
        // Finished even when whoever asked is gone: no worker is left with another one than the rest.
        let applied = tokio::spawn(async move { self.apply(config).await }).await;
        applied.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
    }

    /// All of it or nothing, apart from ports that somebody else has: one service is not kept from its users because of another.
    /// What is bound anew is bound before any worker hears of it.
    async fn apply(&self, config: ProxyConfig) -> Result<(), Refused> {
        check(&config).map_err(bad)?;
        let mut now = self.now.lock().await;
        self.enforce(&mut now, config.into()).await
    }

    /// Takes each missing port as soon as whoever has it is gone; never returns.
    pub async fn wait_for_ports(&self) {
        loop {
            tokio::time::sleep(AGAIN).await;
            let mut now = self.now.lock().await;
            if now.missing.keys().any(|place| listeners(*place, 1).is_ok()) {
                let config = now.config.clone();
                if let Err(Refused(_, why)) = self.enforce(&mut now, config).await {
                    log::warn!("a port that is free is not taken: {why}");
                }
            }
        }
    }

    async fn enforce(&self, now: &mut Now, config: Arc<ProxyConfig>) -> Result<(), Refused> {
        let mut wanted = places(&config);
        let mut missing = BTreeMap::new();
        let mut shares: Vec<HashMap<Place, Vec<TcpListener>>> =
            self.workers.iter().map(|_| HashMap::new()).collect();
        for place in wanted.clone().difference(&now.places) {
            let bound = match listeners(*place, self.workers.len()) {
                Ok(bound) => bound,
                Err(error) => {
                    wanted.remove(place);
                    missing.insert(*place, error.to_string());
                    continue;
                }
            };
            for (share, listeners) in shares.iter_mut().zip(bound) {
                share.insert(*place, listeners);
            }
        }
        self.collector.bound(config.limits.compare_retained_bytes);
        self.collector.retain(|subject| still_said(subject, &now.config, &config));
        for (worker, listeners) in self.workers.iter().zip(shares) {
            let applied = Box::new(Applied { config: config.clone(), listeners });
            worker.ask(|done| Order::Apply(applied, done)).await.ok_or_else(gone)?;
        }
        self.room.allow(config.limits.resident_bytes);
        for why in
            missing.iter().filter(|(place, why)| now.missing.get(place) != Some(*why)).map(|(_, why)| why)
        {
            log::warn!("{why}: tried again until it can");
        }
        let of_services = |place: &Place| place.1 == Reach::Everywhere;
        *self.listens.write().unwrap_or_else(PoisonError::into_inner) = ProxyHealth {
            ports: wanted.iter().filter(|place| of_services(place)).map(|place| place.0).collect(),
            missing: missing
                .iter()
                .filter(|(place, _)| of_services(place))
                .map(|(place, why)| (place.0, why.clone()))
                .collect(),
        };
        *now = Now { config, places: wanted, missing };
        Ok(())
    }

    async fn stats(&self) -> ProxyStats {
        let mut services = Vec::new();
        for worker in &self.workers {
            counters::add(&mut services, worker.ask(Order::Count).await.unwrap_or_default());
        }
        services.sort_by(|one, other| one.service.cmp(&other.service));
        self.room.look();
        ProxyStats {
            services,
            pid: std::process::id(),
            resident_bytes: self.room.resident(),
            suspended: self.room.is_short(),
            gateway: self.no_gateway().await,
        }
    }

    async fn no_gateway(&self) -> Option<String> {
        let now = self.now.lock().await;
        now.missing.iter().find(|(place, _)| place.1 == Reach::Loopback).map(|(_, why)| why.clone())
    }

    async fn health(&self) -> Result<ProxyHealth, Refused> {
        for worker in &self.workers {
            let pong = tokio::time::timeout(PATIENCE, worker.ask(Order::Ping)).await;
            let stalled = |_| Refused(StatusCode::SERVICE_UNAVAILABLE, "a worker is stalled".to_owned());
            pong.map_err(stalled)?.ok_or_else(gone)?;
        }
        Ok(self.listens.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn evidence(&self, path: &str) -> Result<Response<Full<Bytes>>, Refused> {
        let subject = path.strip_prefix("/compare/").and_then(|path| path.split_once('/'));
        let (service, deployment) = subject.ok_or_else(no_route)?;
        let subject =
            Subject { service: service.parse().map_err(bad)?, deployment: deployment.parse().map_err(bad)? };
        Ok(json(&self.collector.snapshot(&subject)))
    }

    /// Nothing is accepted any more when this returns.
    pub async fn close(&self) {
        join_all(self.workers.iter().map(|worker| worker.ask(Order::Close))).await;
    }

    /// Returns when no connection is left.
    pub async fn drained(&self) {
        join_all(self.workers.iter().map(|worker| worker.ask(Order::Drain))).await;
    }
}

/// What was found out about a shadow is worth something as long as both sides are who they were.
fn still_said(subject: &Subject, before: &ProxyConfig, now: &ProxyConfig) -> bool {
    let sides = |config: &ProxyConfig| {
        let told = config.services.iter().find(|told| told.service == subject.service)?;
        let shadow = told.others.iter().find(|other| other.deployment == subject.deployment)?;
        Some((told.main.clone(), shadow.clone()))
    };
    sides(now).is_some_and(|now| sides(before) == Some(now))
}

fn gone() -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, "a worker is gone".to_owned())
}

fn places(config: &ProxyConfig) -> BTreeSet<Place> {
    let services = config.services.iter().map(|told| Place(told.port, Reach::Everywhere));
    services.chain(config.gateway.map(|port| Place(port, Reach::Loopback))).collect()
}

/// Everything a worker could refuse is refused here, before anything is changed.
fn check(config: &ProxyConfig) -> Result<(), String> {
    let (mut ports, mut names) = (BTreeSet::new(), BTreeSet::new());
    for told in &config.services {
        Service::new(told, &Memory::default().into(), None)
            .map_err(|error| format!("{}: {error}", told.service))?;
        if !names.insert(&told.service) {
            return Err(format!("{} is told twice", told.service));
        }
    }
    for told in &config.services {
        if !ports.insert(told.port) {
            return Err(format!("port {} is asked for twice", told.port));
        }
    }
    Ok(())
}
