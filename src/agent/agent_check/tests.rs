use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use super::*;
use crate::model::example::port;
use crate::model::forward::{Forward, Recorded, Switch};
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
    let served = tokio::spawn(serve(fake.world.clone(), service, Terms::default(), listener));
    Scene { fake, address, served }
}

impl Scene {
    fn record(&self, switch: Switch) {
        let forward = Forward { service: "shop".parse().unwrap(), check: port(8888), target: port(8080) };
        let record = Recorded {
            forward,
            switch,
            from_self: false,
            generation: 1,
            changed_at: jiff::Timestamp::UNIX_EPOCH,
            routes: None,
            access: crate::model::deployment::Access::Public,
            trial: None,
            layer7: crate::model::proxy::Layer7::default(),
        };
        *self.fake.store.recorded.lock().unwrap() = vec![record];
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
async fn every_answer_is_of_the_moment() {
    let scene = scene().await;
    assert_eq!(scene.ask().await, "\n");
    scene.record(Switch::On);
    assert_eq!(scene.ask().await, "up\n");
    scene.record(Switch::Off);
    assert_eq!(scene.ask().await, OFF);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_changes_nothing_in_haproxy() {
    let scene = scene().await;
    scene.record(Switch::Off);
    let damaged = StoreError::Damaged { path: PathBuf::from("/state/state.db"), why: "torn".into() };
    *scene.fake.store.unreadable.lock().unwrap() = Some(damaged);
    assert_eq!(scene.ask().await, "\n");
    *scene.fake.store.unreadable.lock().unwrap() = None;
    assert_eq!(scene.ask().await, OFF);
}

/// An `agent-send` text does not cost the client its line, whichever comes first.
#[tokio::test]
async fn what_the_client_sends_is_no_obstacle() {
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
async fn clients_that_stay_without_reading_keep_nobody_waiting() {
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
async fn a_client_that_sends_without_end_is_closed() {
    let scene = scene().await;
    let mut flood = scene.connect().await;
    while flood.write_all(&[b'x'; 4096]).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.ask().await, "\n");
}

#[tokio::test]
async fn a_client_that_is_gone_at_once_is_no_obstacle() {
    let scene = scene().await;
    for _ in 0..50 {
        drop(scene.connect().await);
    }
    assert_eq!(scene.ask().await, "\n");
}

#[tokio::test]
async fn a_stop_ends_it() {
    let scene = scene().await;
    assert_eq!(scene.ask().await, "\n");
    scene.fake.stopper.stop();
    scene.served.await.unwrap();
    assert!(TcpStream::connect(scene.address).await.is_err(), "nobody listens");
}
