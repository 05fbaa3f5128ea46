use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::lab::app::{self, AppOptions};
use crate::model::ports::Port;
use crate::model::socket::Socket;
use crate::sys::sock_diag::SockDiag;
use crate::world::sockets::SocketTable;
use crate::world::stop;

fn target(address: SocketAddr) -> LoadTarget {
    LoadTarget { addresses: vec![address], host: "shop.example".into(), cookies: vec![] }
}

async fn until(load: &Load, what: &str, holds: impl Fn(&Snapshot) -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !holds(&load.take_snapshot()) {
        assert!(std::time::Instant::now() < deadline, "{what}: {:?}", load.take_snapshot());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The application as one host's main vhost, on a free port.
async fn application(stop: stop::StopToken) -> (SocketAddr, tokio::task::JoinHandle<std::io::Result<()>>) {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = AppOptions {
        listen: free,
        host: "web1".into(),
        vhost: "main".into(),
        version: "1".into(),
        fault: None,
    };
    let served = tokio::spawn(app::serve(options, stop));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(free).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the application does not listen");
    }
    (free, served)
}

#[tokio::test]
async fn load_counts_every_client_kind() {
    let (stopper, stop) = stop::create_channel();
    let (address, served) = application(stop).await;
    let load = Load::start(None, target(address), &ClientKind::ALL.map(|kind| (kind, 2)).to_vec()).unwrap();
    load.set_phase("one");
    until(&load, "an answer to every kind", |now| ClientKind::ALL.iter().all(|kind| now.kinds[kind] > 0))
        .await;
    let report = load.stop().await.unwrap();
    assert_eq!((report.total_failed(), report.failures.len()), (0, 0));
    assert_eq!(report.total_requests(), report.answers.iter().map(|(_, _, count)| count).sum::<u64>());
    assert!(report.answers.iter().all(|(_, answer, _)| answer.host == "web1" && answer.version == "1"));
    stopper.stop();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn app_finishes_slow_answer_on_stop() {
    let (stopper, stop) = stop::create_channel();
    let (address, served) = application(stop).await;
    let load = Load::start(None, target(address), &vec![(ClientKind::Slow, 1)]).unwrap();
    // The application has read the request and not answered it.
    let port = Port::new(address.port()).unwrap();
    let in_flight = |socket: &Socket| socket.info.bytes_received > 0 && socket.receive_queue == 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !SockDiag.list_established(port).await.unwrap().iter().any(in_flight) {
        assert!(std::time::Instant::now() < deadline, "no request in flight");
        tokio::task::yield_now().await;
    }
    let ended = load.stop();
    stopper.stop();
    let report = ended.await.unwrap();
    assert_eq!((report.total_requests(), report.total_failed()), (1, 0), "{:?}", report.failures);
    served.await.unwrap().unwrap();
}

/// A server that treats every connection the same way after it has read the head of a request.
async fn server(behave: impl AsyncFn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let std_listener = listener.into_std().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(std_listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                behave(stream).await;
            }
        });
    });
    address
}

async fn reason_of(kind: ClientKind, address: SocketAddr) -> FailureReason {
    let load = Load::start(None, target(address), &vec![(kind, 1)]).unwrap();
    until(&load, "a failure", |now| now.failed > 0).await;
    let report = load.stop().await.unwrap();
    assert_eq!(report.total_requests(), report.total_failed(), "nothing succeeds here");
    report.failures[0].0.reason.clone()
}

const SIGNED: &str = "x-swm-host: web2\r\nx-swm-vhost: main\r\nx-swm-version: 1\r\n";

#[tokio::test]
async fn load_classifies_each_failure() {
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(reason_of(ClientKind::PerRequest, refused).await, FailureReason::Refused);
    let closed = server(async |stream| drop(stream)).await;
    assert_eq!(reason_of(ClientKind::PerRequest, closed).await, FailureReason::ClosedBeforeAnswer);
    let reset = server(async |stream| {
        // Closing with unread bytes resets; SO_LINGER would too, but tokio deprecates it.
        let _ = stream.set_zero_linger();
    })
    .await;
    assert_eq!(reason_of(ClientKind::KeepAlive, reset).await, FailureReason::Reset);
    let unavailable = server(async |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    assert_eq!(reason_of(ClientKind::KeepAlive, unavailable).await, FailureReason::Status(503));
    assert_eq!(reason_of(ClientKind::Websocket, unavailable).await, FailureReason::Status(503));
    let cut = server(async |mut stream| {
        let _ = stream
            .write_all(format!("HTTP/1.1 200 x\r\n{SIGNED}Content-Length: 9\r\n\r\nhalf").as_bytes())
            .await;
    })
    .await;
    assert_eq!(reason_of(ClientKind::KeepAliveCookie, cut).await, FailureReason::ClosedMidBody);
    let anonymous = server(async |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    assert_eq!(reason_of(ClientKind::PerRequest, anonymous).await, FailureReason::Unsigned);
    let lying = server(async |mut stream| {
        let mut buffer = vec![0; 1 << 20];
        let mut received = 0;
        // All but what may have come with the head.
        while received < (4 << 20) - 2048 {
            received += stream.read(&mut buffer).await.unwrap_or(usize::MAX / 2);
        }
        let _ = stream
            .write_all(format!("HTTP/1.1 200 x\r\n{SIGNED}Content-Length: 1\r\n\r\n0").as_bytes())
            .await;
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    assert_eq!(reason_of(ClientKind::Upload, lying).await, FailureReason::WrongBody);
}

#[tokio::test]
async fn load_counts_answers_of_wrong_host_as_strays() {
    let straying = server(async |mut stream| {
        let answer = format!("HTTP/1.1 200 x\r\n{SIGNED}Set-Cookie: SERVER_ID=web1; path=/\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let load = Load::start(None, target(straying), &vec![(ClientKind::KeepAliveCookie, 1)]).unwrap();
    until(&load, "three answers", |now| now.succeeded > 2).await;
    let report = load.stop().await.unwrap();
    assert_eq!(report.strays, report.total_requests() - 1, "all but the first, which had no cookie");
    let known = LoadTarget { cookies: vec!["web1".into()], ..target(straying) };
    let load = Load::start(None, known, &vec![(ClientKind::KeepAliveCookie, 1), (ClientKind::PerRequest, 1)])
        .unwrap();
    until(&load, "three answers each", |now| {
        now.kinds[&ClientKind::KeepAliveCookie] > 2 && now.kinds[&ClientKind::PerRequest] > 2
    })
    .await;
    let report = load.stop().await.unwrap();
    assert_eq!(
        report.strays, report.kinds[0].requests,
        "every one of the client that has been on web1 before"
    );
}
