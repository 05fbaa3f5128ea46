//! `GET /metrics`: the metrics of this host, on the API and, for scrapers, on a port that serves nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admission::Admission;
use crate::ops::host::metrics;
use crate::plan::admission::AdmissionLimits;
use crate::world::HostWorld;

/// Minimum age before the host is read again, for any number of scrapers.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// Memory that scrapers may take together, and the share of each: the buffers of HTTP and a page. A site has two or three scrapers.
const LIMITS: AdmissionLimits = AdmissionLimits::without_credentials(8 << 20, 64 << 10);
/// Timeout from a connection to the end of its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole connection: one request and its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// After an accept that failed, such as for want of file descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The metrics of a host, shared by all scrapers.
pub struct Metrics {
    world: HostWorld,
    cache: Mutex<CachedPage>,
}

#[derive(Default)]
struct CachedPage {
    page: Option<(Instant, String)>,
    /// The last read error, so that it is logged once.
    warnings: Vec<String>,
}

impl Metrics {
    pub fn new(world: HostWorld) -> Self {
        Self { world, cache: Mutex::default() }
    }

    /// Reads the host once at a time, and not while the last read is fresh.
    pub async fn render_page(&self) -> String {
        let mut last = self.cache.lock().await;
        if let Some((at, page)) = &last.page
            && at.elapsed() < CACHE_TTL
        {
            return page.clone();
        }
        let numbers = metrics::collect_numbers(&self.world).await;
        let warnings: Vec<String> = numbers.collect_errors().into_iter().map(str::to_owned).collect();
        for warning in warnings.iter().filter(|warning| !last.warnings.contains(warning)) {
            log::warn!("the metrics are incomplete: {warning}");
        }
        let page = numbers.render();
        *last = CachedPage { page: Some((Instant::now(), page.clone())), warnings };
        page
    }
}

pub(super) async fn respond(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.render_page().await).into_response()
}

/// Serves scrapers until a stop is requested.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, world: &HostWorld) {
    let routes = Router::new().route("/metrics", get(async move || respond(&metrics).await));
    let admission = Admission::new("--metrics", LIMITS);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (permit, routes) = (admission.enter(peer), routes.clone());
                    clients.spawn(async move {
                        tokio::select! {
                            () = serve_one_request(stream, routes) => {}
                            end = permit.wait_for_end(CONNECTION_TIMEOUT) => permit.warn_of_end(end),
                        }
                    });
                }
                Err(error) => {
                    admission.displace_oldest();
                    admission.warn(format_args!("cannot accept: {error}"));
                    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            },
            Some(_) = clients.join_next() => {}
            // Nothing is lost with a scrape.
            () = world.stop.wait() => return,
        }
    }
}

async fn serve_one_request(stream: TcpStream, routes: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
    // The client has received the error, or has disconnected.
    let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
}

#[cfg(test)]
mod tests;
