//! Through a real HAProxy: idle pooled connections, requests in flight, slow uploads and websockets are distinguished.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use switchman::model::balancer::{BalancerSpec, CheckTiming, ServerNames, StatsEndpoint};
use switchman::model::ports::Port;
use switchman::model::socket::{Socket, SocketActivity, SocketCount};
use switchman::plan::drain::{DrainState, DrainTracker, NotDrainedReason, count_activities};
use switchman::sys::exec::Program;
use switchman::sys::haproxy::connect;
use switchman::sys::sock_diag::SockDiag;
use switchman::world::balancer::Balancer;
use switchman::world::sockets::SocketTable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::testing::run_in_namespace;

/// Answers `/` at once, `/hold` when released, uploads when their last byte (an `!`) is there, and switches protocols
/// for `/ws`.
async fn application() -> watch::Sender<bool> {
    let listener = TcpListener::bind("127.0.0.1:8080").await.unwrap();
    let (release, released) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, released.clone()));
        }
    });
    release
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn connection(mut stream: TcpStream, mut released: watch::Receiver<bool>) {
    let mut head = vec![0; 4096];
    while let Ok(length) = stream.read(&mut head).await {
        let text = String::from_utf8_lossy(&head[..length]).into_owned();
        let answer: &[u8] = match text.split(' ').nth(1) {
            Some("/") => OK,
            Some("/hold") => {
                released.wait_for(|released| *released).await.unwrap();
                OK
            }
            _ if text.ends_with('!') => OK,
            Some("/ws") => b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
            None if length == 0 => return,
            // The beginning of an upload, what comes through a websocket: read, not answered.
            _ => continue,
        };
        stream.write_all(answer).await.unwrap();
    }
}

async fn client(request: &str) -> TcpStream {
    let mut stream = TcpStream::connect("127.0.0.1:8000").await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn answered(stream: &mut TcpStream, ends: &str) {
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).ends_with(ends) {
        let mut buffer = [0; 1024];
        let length = stream.read(&mut buffer).await.unwrap();
        assert!(length > 0, "closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..length]);
    }
}

async fn sockets() -> Vec<Socket> {
    SockDiag.list_established(Port::new(8080).unwrap()).await.unwrap()
}

/// Looks, each after the other, until two in a row give this count of busy sockets; all looks are bounded in time.
async fn until_busy(wanted: u64, what: &str) -> SocketCount {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut before = sockets().await;
    loop {
        tokio::task::yield_now().await;
        let now = sockets().await;
        let (counted, by) = count_activities(&now, &before);
        if counted.busy == wanted {
            return counted;
        }
        assert!(Instant::now() < deadline, "{what}: {by:?} {now:?}");
        before = now;
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

#[test]
fn drain_distinguishes_work_from_idle_connections_behind_haproxy() {
    run_in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (socket, config) = (dir.path().join("s.sock"), dir.path().join("haproxy.cfg"));
        let text = format!(
            "global\n stats socket {} level user\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
             timeout server 60s\n timeout tunnel 60s\nfrontend f\n bind 127.0.0.1:8000\n default_backend servers\n\
             backend servers\n server main-web1 127.0.0.1:8080\n",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let release = application().await;
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut haproxy = Program::new("haproxy").arg("-db").arg("-f").arg(&config).start(log).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect("127.0.0.1:8000").await.is_err() {
            assert!(Instant::now() < deadline, "HAProxy does not listen");
            tokio::task::yield_now().await;
        }
        let told = AssertUnwindSafe(story(socket, release)).catch_unwind().await;
        haproxy.start_kill().unwrap();
        haproxy.wait().await.unwrap();
        if let Err(panic) = told {
            resume_unwind(panic);
        }
    });
}

async fn story(socket: std::path::PathBuf, release: watch::Sender<bool>) {
    let spec = BalancerSpec {
        name: "lb1".parse().unwrap(),
        stats_endpoint: Some(StatsEndpoint::Unix(socket)),
        backend: "servers".into(),
        servers: ServerNames::default(),
        check: CheckTiming::default(),
        is_on_host: false,
    };
    let balancer = connect(&spec, Duration::from_secs(5)).unwrap();

    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = client(&get("/")).await;
        answered(&mut stream, "ok").await;
        idle.push(stream);
    }
    let counted = until_busy(0, "answered keep-alive connections are not busy").await;
    assert!(counted.idle + counted.ambiguous > 0, "they are there, pooled");
    until_drained(balancer.as_ref()).await;

    let mut holding = [client(&get("/hold")).await, client(&get("/hold")).await, client(&get("/hold")).await];
    until_busy(3, "exactly the requests in flight are busy").await;
    assert_eq!(why(balancer.as_ref()).await, Some(NotDrainedReason::Sessions));
    release.send(true).unwrap();
    for stream in &mut holding {
        answered(stream, "ok").await;
    }
    until_drained(balancer.as_ref()).await;

    let mut upload = client("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 5101\r\n\r\n").await;
    upload.write_all(&[0; 100]).await.unwrap();
    until_busy(1, "a slow upload is busy").await;
    let before = sockets().await;
    upload.write_all(&[0; 5000]).await.unwrap();
    until_activity(SocketActivity::Upload, &before).await;
    upload.write_all(b"!").await.unwrap();
    answered(&mut upload, "ok").await;
    until_drained(balancer.as_ref()).await;

    let mut websocket = client(
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    answered(&mut websocket, "\r\n\r\n").await;
    until_busy(0, "a quiet websocket is not busy to the kernel").await;
    assert_eq!(why(balancer.as_ref()).await, Some(NotDrainedReason::Sessions), "HAProxy knows better");
    let before = sockets().await;
    websocket.write_all(b"hello").await.unwrap();
    until_activity(SocketActivity::Upload, &before).await;
    drop(websocket);
    until_drained(balancer.as_ref()).await;
}

/// Compared with the reading before the bytes came, the kernel's data distinguish an upload from a request that waits for
/// its answer.
async fn until_activity(wanted: SocketActivity, before: &[Socket]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = sockets().await;
        if count_activities(&now, before).1.contains_key(&wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{:?}", count_activities(&now, before));
        tokio::task::yield_now().await;
    }
}

async fn look(drain: &mut DrainTracker, balancer: &dyn Balancer, before: &mut Vec<Socket>) -> DrainState {
    let view = balancer.read().await.unwrap();
    let now = sockets().await;
    let counted = count_activities(&now, before).0;
    *before = now;
    drain.observe(&[Some(view.servers()[0].work)], Some(counted), 0)
}

/// Reads as a drain does, until the result is drained, with a deadline.
async fn until_drained(balancer: &dyn Balancer) {
    let (mut drain, mut before) = (DrainTracker::new(false), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(10);
    while look(&mut drain, balancer, &mut before).await != DrainState::Drained {
        assert!(Instant::now() < deadline, "not drained: {before:?}");
        tokio::task::yield_now().await;
    }
}

async fn why(balancer: &dyn Balancer) -> Option<NotDrainedReason> {
    match look(&mut DrainTracker::new(false), balancer, &mut Vec::new()).await {
        DrainState::Draining { reason, .. } => Some(reason),
        DrainState::Drained => None,
    }
}
