use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use super::*;
use crate::model::example;
use crate::model::port_forward::Switch;
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::{self, FakeWorld};
use crate::world::store::StoreError;

const OFF: &str = "stopped # switchman: forward off\n";

struct Scene {
    fake: FakeWorld,
    address: SocketAddr,
    served: JoinHandle<()>,
}

/// A host that answers for `shop`, of which nothing is recorded yet.
async fn scene() -> Scene {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[])));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = "shop".parse().unwrap();
    let served = tokio::spawn(serve(fake.world.clone(), service, AgentCheckConfig::default(), listener));
    Scene { fake, address, served }
}

impl Scene {
    fn record(&self, switch: Switch) {
        *self.fake.store.records.lock().unwrap() = vec![example::make_record("shop", switch)];
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self) -> String {
        to_end(&mut self.connect().await).await
    }
}

async fn to_end(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn agent_check_answers_current_state() {
    let scene = scene().await;
    assert_eq!(scene.ask().await, "\n");
    scene.record(Switch::On);
    assert_eq!(scene.ask().await, "up\n");
    scene.record(Switch::Off);
    assert_eq!(scene.ask().await, OFF);
}

#[tokio::test]
async fn agent_check_answers_neutral_line_on_unreadable_record() {
    let scene = scene().await;
    scene.record(Switch::Off);
    let damaged = StoreError::Damaged { path: PathBuf::from("/state/state.db"), why: "torn".into() };
    *scene.fake.store.read_error.lock().unwrap() = Some(damaged);
    assert_eq!(scene.ask().await, "\n");
    *scene.fake.store.read_error.lock().unwrap() = None;
    assert_eq!(scene.ask().await, OFF);
}

/// An `agent-send` text does not cost the client its line, whichever comes first.
#[tokio::test]
async fn agent_check_ignores_client_input() {
    let scene = scene().await;
    scene.record(Switch::On);
    let mut early = scene.connect().await;
    early.write_all(b"shop\n").await.unwrap();
    assert_eq!(to_end(&mut early).await, "up\n");
    let mut late = scene.connect().await;
    assert_eq!(scene.ask().await, "up\n", "the one before has been answered too");
    late.write_all(b"shop\n").await.unwrap();
    assert_eq!(to_end(&mut late).await, "up\n");
}

#[tokio::test]
async fn agent_check_is_not_blocked_by_idle_clients() {
    let scene = scene().await;
    scene.record(Switch::On);
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(scene.connect().await);
    }
    assert_eq!(scene.ask().await, "up\n");
    for mut stream in idle {
        assert_eq!(to_end(&mut stream).await, "up\n");
    }
}

/// Nothing of it is read: the side of the host is closed with the line.
#[tokio::test]
async fn agent_check_closes_endless_sender() {
    let scene = scene().await;
    let mut flood = scene.connect().await;
    while flood.write_all(&[b'x'; 4096]).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.ask().await, "\n");
}

#[tokio::test]
async fn agent_check_survives_immediate_disconnect() {
    let scene = scene().await;
    for _ in 0..50 {
        drop(scene.connect().await);
    }
    assert_eq!(scene.ask().await, "\n");
}

#[tokio::test]
async fn agent_check_server_stops_on_request() {
    let scene = scene().await;
    assert_eq!(scene.ask().await, "\n");
    scene.fake.stopper.stop();
    scene.served.await.unwrap();
    assert!(TcpStream::connect(scene.address).await.is_err(), "the port is closed");
}
