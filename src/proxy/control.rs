//! The agent's requests to the proxy: HTTP and JSON on the control socket.
//!
//! `PUT /config` (the whole of it; answered when it is in force. Ports that are in use are tried again until they are free),
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
use super::control_socket::ControlSocket;
use super::counters;
use super::limits::ResourceLimits;
use super::listen::{ListenEndpoint, ListenScope, open_listeners};
use super::service::{CarriedState, Service};
use super::worker_loop::{NewConfig, WorkerCommand, WorkerHandle};
use crate::model::compare::ComparedShadow;
use crate::model::proxy::{ProxyConfig, ProxyHealth, ProxyStats};

/// A configuration is a few KiB; more is a mistake.
const MAX_CONFIG_BYTES: usize = 8 << 20;
/// After an accept that failed.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Interval between two attempts to bind the gateway's port.
const PORT_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// A worker that has not answered by then is stalled.
const WORKER_TIMEOUT: Duration = Duration::from_millis(500);

pub struct Control {
    workers: Vec<WorkerHandle>,
    resource_limits: Arc<ResourceLimits>,
    collector: Arc<Collector>,
    current: Mutex<CurrentConfig>,
    /// Health under the configuration in force; read while another one is put in force.
    health: RwLock<ProxyHealth>,
    stop: Notify,
}

/// The configuration in force.
#[derive(Default)]
struct CurrentConfig {
    config: Arc<ProxyConfig>,
    /// Ports on which the proxy listens.
    endpoints: BTreeSet<ListenEndpoint>,
    /// Ports on which it cannot listen, with the reason.
    unavailable: BTreeMap<ListenEndpoint, String>,
}

/// A refusal: its status and its message.
struct Rejection(StatusCode, String);

fn bad_request(reason: impl Display) -> Rejection {
    Rejection(StatusCode::BAD_REQUEST, reason.to_string())
}

/// Serves connections one after another, each on a task of its own; never returns.
pub async fn serve(socket: &ControlSocket, control: &Arc<Control>) {
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let control = control.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| handle_request(control.clone(), request));
                    let mut server = hyper::server::conn::http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(None).half_close(true);
                    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                        log::debug!("control socket: {error}");
                    }
                });
            }
            Err(error) => {
                log::warn!("control socket: cannot accept: {error}");
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
}

async fn handle_request(
    control: Arc<Control>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let result = match (request.method(), path.as_str()) {
        (&Method::PUT, "/config") => {
            control.clone().receive_config(request).await.map(|()| respond_json(&json!({})))
        }
        (&Method::GET, "/config") => Ok(respond_json(&*control.current.lock().await.config)),
        (&Method::GET, "/stats") => Ok(respond_json(&control.collect_stats().await)),
        (&Method::GET, "/health") => control.check_health().await.map(|health| respond_json(&health)),
        (&Method::POST, "/stop") => {
            control.stop.notify_one();
            Ok(respond_json(&json!({})))
        }
        (&Method::GET, path) => control.get_evidence(path),
        _ => Err(route_not_found()),
    };
    Ok(result.unwrap_or_else(|Rejection(status, message)| {
        let mut response = respond_json(&json!({ "message": message }));
        *response.status_mut() = status;
        response
    }))
}

fn route_not_found() -> Rejection {
    Rejection(StatusCode::NOT_FOUND, "there is no such route".to_owned())
}

fn respond_json(value: &impl Serialize) -> Response<Full<Bytes>> {
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
    pub fn new(
        workers: Vec<WorkerHandle>,
        resource_limits: Arc<ResourceLimits>,
        collector: Arc<Collector>,
    ) -> Self {
        Self {
            workers,
            resource_limits,
            collector,
            current: Mutex::default(),
            health: RwLock::default(),
            stop: Notify::new(),
        }
    }

    /// Returns when a client has requested the stop.
    pub async fn wait_for_stop(&self) {
        self.stop.notified().await;
    }

    async fn receive_config(self: Arc<Self>, request: Request<Incoming>) -> Result<(), Rejection> {
        let body = Limited::new(request.into_body(), MAX_CONFIG_BYTES)
            .collect()
            .await
            .map_err(bad_request)?
            .to_bytes();
        let config = serde_json::from_slice(&body);
        let config =
            config.map_err(|error| bad_request(format!("the configuration is not understood: {error}")))?;
        // Finished even when the caller has disconnected: no worker is left with another configuration than the rest.
        let applied = tokio::spawn(async move { self.apply(config).await }).await;
        applied.map_err(|error| Rejection(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
    }

    /// Applies all of it or nothing, apart from ports that another process has: one service is not kept from its users because
    /// of another.
    /// New ports are bound before any worker receives the configuration.
    async fn apply(&self, config: ProxyConfig) -> Result<(), Rejection> {
        validate_config(&config).map_err(bad_request)?;
        let mut current = self.current.lock().await;
        self.enforce(&mut current, config.into()).await
    }

    /// Binds each missing port as soon as its holder has released it; never returns.
    pub async fn wait_for_ports(&self) {
        loop {
            tokio::time::sleep(PORT_RETRY_INTERVAL).await;
            let mut current = self.current.lock().await;
            if current.unavailable.keys().any(|endpoint| open_listeners(*endpoint, 1).is_ok()) {
                let config = current.config.clone();
                if let Err(Rejection(_, reason)) = self.enforce(&mut current, config).await {
                    log::warn!("cannot listen on a free port: {reason}");
                }
            }
        }
    }

    async fn enforce(&self, current: &mut CurrentConfig, config: Arc<ProxyConfig>) -> Result<(), Rejection> {
        let mut endpoints = list_endpoints(&config);
        let mut unavailable = BTreeMap::new();
        let mut shares: Vec<HashMap<ListenEndpoint, Vec<TcpListener>>> =
            self.workers.iter().map(|_| HashMap::new()).collect();
        for endpoint in endpoints.clone().difference(&current.endpoints) {
            let bound = match open_listeners(*endpoint, self.workers.len()) {
                Ok(bound) => bound,
                Err(error) => {
                    endpoints.remove(endpoint);
                    unavailable.insert(*endpoint, error.to_string());
                    continue;
                }
            };
            for (share, listeners) in shares.iter_mut().zip(bound) {
                share.insert(*endpoint, listeners);
            }
        }
        self.collector.set_limit(config.proxy_limits.compare_retained_bytes);
        self.collector.retain(|subject| is_evidence_valid(subject, &current.config, &config));
        for (worker, listeners) in self.workers.iter().zip(shares) {
            let new = Box::new(NewConfig { config: config.clone(), listeners });
            worker.request(|done| WorkerCommand::Apply(new, done)).await.ok_or_else(reject_stopped_worker)?;
        }
        self.resource_limits.set_max_resident(config.proxy_limits.resident_bytes);
        let is_new = |(endpoint, reason): &(&ListenEndpoint, &String)| {
            current.unavailable.get(endpoint) != Some(*reason)
        };
        for (_, reason) in unavailable.iter().filter(is_new) {
            log::warn!("{reason}: retrying until it is free");
        }
        let is_of_service = |endpoint: &ListenEndpoint| endpoint.1 == ListenScope::AllAddresses;
        *self.health.write().unwrap_or_else(PoisonError::into_inner) = ProxyHealth {
            ports: endpoints
                .iter()
                .filter(|endpoint| is_of_service(endpoint))
                .map(|endpoint| endpoint.0)
                .collect(),
            missing: unavailable
                .iter()
                .filter(|(endpoint, _)| is_of_service(endpoint))
                .map(|(endpoint, reason)| (endpoint.0, reason.clone()))
                .collect(),
        };
        *current = CurrentConfig { config, endpoints, unavailable };
        Ok(())
    }

    async fn collect_stats(&self) -> ProxyStats {
        let mut services = Vec::new();
        for worker in &self.workers {
            counters::merge_stats(
                &mut services,
                worker.request(WorkerCommand::Count).await.unwrap_or_default(),
            );
        }
        services.sort_by(|one, other| one.service.cmp(&other.service));
        self.resource_limits.refresh();
        ProxyStats {
            services,
            pid: std::process::id(),
            resident_bytes: self.resource_limits.resident_bytes(),
            is_suspended: self.resource_limits.is_exhausted(),
            gateway: self.find_gateway_error().await,
        }
    }

    async fn find_gateway_error(&self) -> Option<String> {
        let current = self.current.lock().await;
        current
            .unavailable
            .iter()
            .find(|(endpoint, _)| endpoint.1 == ListenScope::Loopback)
            .map(|(_, reason)| reason.clone())
    }

    async fn check_health(&self) -> Result<ProxyHealth, Rejection> {
        for worker in &self.workers {
            let pong = tokio::time::timeout(WORKER_TIMEOUT, worker.request(WorkerCommand::Ping)).await;
            let stalled = |_| Rejection(StatusCode::SERVICE_UNAVAILABLE, "a worker is stalled".to_owned());
            pong.map_err(stalled)?.ok_or_else(reject_stopped_worker)?;
        }
        Ok(self.health.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn get_evidence(&self, path: &str) -> Result<Response<Full<Bytes>>, Rejection> {
        let subject = path.strip_prefix("/compare/").and_then(|path| path.split_once('/'));
        let (service, deployment) = subject.ok_or_else(route_not_found)?;
        let subject = ComparedShadow {
            service: service.parse().map_err(bad_request)?,
            deployment: deployment.parse().map_err(bad_request)?,
        };
        Ok(respond_json(&self.collector.snapshot(&subject)))
    }

    /// Nothing is accepted any more when this returns.
    pub async fn close(&self) {
        join_all(self.workers.iter().map(|worker| worker.request(WorkerCommand::Close))).await;
    }

    /// Returns when no connection is left.
    pub async fn wait_until_drained(&self) {
        join_all(self.workers.iter().map(|worker| worker.request(WorkerCommand::Drain))).await;
    }
}

/// Evidence about a shadow is valid as long as main and the shadow stay the same deployments.
fn is_evidence_valid(subject: &ComparedShadow, before: &ProxyConfig, now: &ProxyConfig) -> bool {
    let sides = |config: &ProxyConfig| {
        let service = config.services.iter().find(|service| service.service == subject.service)?;
        let shadow = service.other_upstreams.iter().find(|other| other.deployment == subject.deployment)?;
        Some((service.main.clone(), shadow.clone()))
    };
    sides(now).is_some_and(|now| sides(before) == Some(now))
}

fn reject_stopped_worker() -> Rejection {
    Rejection(StatusCode::SERVICE_UNAVAILABLE, "a worker has ended".to_owned())
}

fn list_endpoints(config: &ProxyConfig) -> BTreeSet<ListenEndpoint> {
    let services =
        config.services.iter().map(|service| ListenEndpoint(service.port, ListenScope::AllAddresses));
    services.chain(config.gateway.map(|port| ListenEndpoint(port, ListenScope::Loopback))).collect()
}

/// Everything a worker could refuse is refused here, before anything is changed.
fn validate_config(config: &ProxyConfig) -> Result<(), String> {
    let (mut ports, mut names) = (BTreeSet::new(), BTreeSet::new());
    for service in &config.services {
        Service::new(service, &CarriedState::default().into(), None)
            .map_err(|error| format!("{}: {error}", service.service))?;
        if !names.insert(&service.service) {
            return Err(format!("{} is configured twice", service.service));
        }
    }
    for service in &config.services {
        if !ports.insert(service.port) {
            return Err(format!("port {} is configured twice", service.port));
        }
    }
    Ok(())
}
