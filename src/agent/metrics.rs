//! `GET /metrics`: this host in numbers, on the API and, for scrapers, on a door of its own with nothing else behind it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ops::host::metrics;
use crate::plan::metrics::CONTENT_TYPE;
use crate::world::HostWorld;

/// However many ask, the host is looked at no more often.
const FRESH: Duration = Duration::from_secs(1);
/// Scrapers at once; a site has two or three.
const CLIENTS: usize = 16;
/// From a connection to the end of its request's head.
const HEAD: Duration = Duration::from_secs(5);
/// A whole connection: one request and its answer.
const LIFE: Duration = Duration::from_secs(30);
/// After an accept that failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// The numbers of a host, for all who ask.
pub struct Metrics {
    world: HostWorld,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    page: Option<(Instant, String)>,
    /// What could not be read, so that it is said once.
    trouble: Vec<String>,
}

impl Metrics {
    pub fn new(world: HostWorld) -> Self {
        Self { world, last: Mutex::default() }
    }

    /// One look at a time, and none while the last one is fresh.
    pub async fn page(&self) -> String {
        let mut last = self.last.lock().await;
        if let Some((at, page)) = &last.page
            && at.elapsed() < FRESH
        {
            return page.clone();
        }
        let numbers = metrics::numbers(&self.world).await;
        let trouble: Vec<String> = numbers.trouble().into_iter().map(str::to_owned).collect();
        for why in trouble.iter().filter(|why| !last.trouble.contains(why)) {
            log::warn!("the metrics are not whole: {why}");
        }
        let page = numbers.page();
        *last = Last { page: Some((Instant::now(), page.clone())), trouble };
        page
    }
}

pub(super) async fn answer(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.page().await).into_response()
}

/// Serves scrapers until a stop is requested.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, world: &HostWorld) {
    let routes = Router::new().route("/metrics", get(async move || answer(&metrics).await));
    let room = Arc::new(Semaphore::new(CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let Ok(place) = room.clone().try_acquire_owned() else {
                        log::debug!("{CLIENTS} scrapers are connected: {peer} is turned away");
                        continue;
                    };
                    let routes = routes.clone();
                    clients.spawn(async move {
                        let _ = tokio::time::timeout(LIFE, one_request(stream, routes)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    log::warn!("cannot accept a scraper: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
            // Nothing is lost with a scrape.
            () = world.stop.requested() => return,
        }
    }
}

async fn one_request(stream: TcpStream, routes: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
    // What went wrong was told to the client, or it is gone.
    let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
}

#[cfg(test)]
mod tests;
