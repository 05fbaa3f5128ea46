use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::model::example;
use crate::model::port_forward::Switch;
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::{self, FakeWorld};
use crate::world::store::StoreError;

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

struct Scene {
    fake: FakeWorld,
    address: SocketAddr,
    served: JoinHandle<()>,
}

/// A host with `shop` in maintenance.
async fn start_scene() -> Scene {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[])));
    fake.store.records.lock().unwrap().push(example::make_record("shop", Switch::Off));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (world, metrics) = (fake.world.clone(), Arc::new(Metrics::new(fake.world.clone())));
    let served = tokio::spawn(async move { serve(listener, metrics, &world).await });
    Scene { fake, address, served }
}

impl Scene {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn scrape_returns_metrics_and_closes_connection() {
    let answer = start_scene().await.send(GET).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(answer.contains("\nswitchman_forward_on{service=\"shop\"} 0\n"), "{answer}");
}

#[tokio::test]
async fn metrics_port_serves_only_metrics() {
    let scene = start_scene().await;
    let status = async |request: &str| scene.send(request).await.split(' ').nth(1).unwrap().to_owned();
    for path in ["/", "/v1", "/v1/services", "/metrics/", "/v1/openapi.json"] {
        assert_eq!(status(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await, "404", "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(status(&request).await, "405", "{method}");
    }
    assert_eq!(status("nonsense\r\n\r\n").await, "400");
}

#[tokio::test]
async fn unreadable_record_is_reported_as_metric() {
    let scene = start_scene().await;
    let damaged = StoreError::Damaged { path: PathBuf::from("/state/state.db"), reason: "torn".into() };
    *scene.fake.store.read_error.lock().unwrap() = Some(damaged);
    let answer = scene.send(GET).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("switchman_collector_success{collector=\"record\"} 0\n"), "{answer}");
    assert!(!answer.contains("switchman_forward_on"), "{answer}");
}

/// Silent clients keep no scraper out, neither those of its own address nor those of many.
#[tokio::test]
async fn silent_scrapers_are_limited_and_time_out() {
    let scene = start_scene().await;
    let mut silent = Vec::new();
    for number in 0..300_u16 {
        let local = if number < 150 { 1 } else { 2 + u8::try_from(number % 50).unwrap() };
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 1, local], 0).into()).unwrap();
        silent.push(socket.connect(scene.address).await.unwrap());
        assert!(scene.send(GET).await.starts_with("HTTP/1.1 200 OK\r\n"), "after {number}");
    }
    assert_eq!(read_to_end(&mut silent[0]).await, "", "the oldest is closed for a newer one");
    for stream in &mut silent {
        assert_eq!(read_to_end(stream).await, "");
    }
    assert!(scene.send(GET).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test(start_paused = true)]
async fn metrics_are_cached_for_one_second() {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[])));
    let metrics = Metrics::new(fake.world.clone());
    let readable = |page: &str| page.contains("switchman_collector_success{collector=\"record\"} 1\n");
    assert!(readable(&metrics.render_page().await));
    *fake.store.read_error.lock().unwrap() = Some(StoreError::Full { path: PathBuf::from("/state") });
    assert!(readable(&metrics.render_page().await), "the last look is fresh");
    tokio::time::advance(CACHE_TTL).await;
    assert!(!readable(&metrics.render_page().await));
}

#[tokio::test]
async fn metrics_server_stops_with_open_connections() {
    let scene = start_scene().await;
    let _silent = scene.connect().await;
    scene.fake.stopper.stop();
    scene.served.await.unwrap();
    assert!(TcpStream::connect(scene.address).await.is_err(), "the port is closed");
}
