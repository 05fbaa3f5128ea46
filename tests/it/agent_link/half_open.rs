//! Listeners of the agent under load: hundreds of connections without a credential, against an operator who works.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::tls::TLS;
use super::*;

/// Half-open connections at once.
const CLIENTS: u16 = 300;
/// Pause of a client that was closed before it connects again: 37 connections a second and more.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(6);

/// Clients that send nothing or half a record, and connect again when they are closed.
struct HalfOpenClients(tokio::task::JoinSet<()>);

async fn connect_from(local: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((local, 0).into())?;
    socket.connect(to).await
}

impl HalfOpenClients {
    /// Returns when each of them has been connected once.
    async fn start(to: &str, source: impl Fn(u16) -> Ipv4Addr) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            let local = source(number);
            let mut stream = connect_from(local, to).await.unwrap();
            clients.spawn(async move {
                loop {
                    // The head of a handshake record of 512 bytes, for every second one.
                    let start: &[u8] = if number % 2 == 0 { b"" } else { &[22, 3, 1, 2, 0] };
                    let _ = stream.write_all(start).await;
                    let _ = stream.read(&mut [0; 64]).await;
                    tokio::time::sleep(RECONNECT_INTERVAL).await;
                    if let Ok(again) = connect_from(local, to).await {
                        stream = again;
                    }
                }
            });
        }
        Self(clients)
    }
}

/// Sends each kind of request several times, with a connection for each; every one is answered.
async fn work(connect: impl Fn() -> Arc<dyn HostLink>) -> Duration {
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let start = Instant::now();
        let greeting = connect().greet().await;
        assert!(greeting.is_ok(), "{round}: {greeting:?}");
        slowest = slowest.max(start.elapsed());
        let history = connect().load_history(None, 10).await;
        assert!(history.is_ok(), "{round}: {history:?}");
        let (sink, lines) = listener();
        let ended = connect().run(&sh("echo done"), sink).await;
        assert_eq!(ended, Ok(RunOutcome { status: 0, timed_out: false }), "{round}");
        assert_eq!(*lines.lock().unwrap(), ["done"]);
    }
    slowest
}

const fn one_address(_: u16) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1)
}

fn many_addresses(number: u16) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, 1 + u8::try_from(number % 150).unwrap())
}

/// The operator's own address: a network with address translation.
const fn own_address(_: u16) -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

/// The address of a client, by its number.
type Source = fn(u16) -> Ipv4Addr;

const SOURCES: [(&str, Source); 3] =
    [("one address", one_address), ("many addresses", many_addresses), ("the operator's", own_address)];

#[test]
fn half_open_connections_keep_no_certificate_out() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let ca = place.text("ca.pem");
        place.tls_agent(&["--client-ca", &ca]).await;
        place.certificate("operator", "ca", "127.0.0.1", "2");
        let kept = place.over_tls(place.as_one("operator"));
        assert!(kept.greet().await.is_ok());
        for (name, source) in SOURCES {
            let clients = HalfOpenClients::start(TLS, source).await;
            let slowest = work(|| place.over_tls(place.as_one("operator"))).await;
            #[allow(clippy::disallowed_macros, reason = "a measurement, which no test asserts")]
            {
                println!("{CLIENTS} half-open connections, {name}: slowest greeting {slowest:?}");
            }
            assert!(kept.greet().await.is_ok(), "{name}: a connection that was admitted before");
            assert!(place.over_socket().greet().await.is_ok(), "{name}: the unix socket");
            drop(clients.0);
        }
        let log = std::fs::read_to_string(place.path("agent.log")).unwrap();
        let lines = log.lines().filter(|line| line.contains("closed")).count();
        assert!((1..100).contains(&lines), "{lines} lines:\n{log}");
    });
}

/// Guessing clients share the operator's address: a fresh connection of the operator is never the oldest.
#[test]
fn half_open_connections_and_wrong_tokens_keep_no_token_out() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let token = place.write("token", "b7Qm2zX9pL4vK8sT1wR6\n").display().to_string();
        place.write("wrong", "b7Qm2zX9pL4vK8sT1wR7\n");
        place.tls_agent(&["--token-file", &token]).await;
        let with =
            |name: &str| ConnectConfig { token_file: Some(place.path(name)), ..ConnectConfig::default() };
        let mut guesses = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let link = place.over_tls(with("wrong"));
            guesses.spawn(async move {
                loop {
                    assert!(link.greet().await.is_err());
                }
            });
        }
        for (name, source) in SOURCES {
            let clients = HalfOpenClients::start(TLS, source).await;
            work(|| place.over_tls(with("token"))).await;
            assert!(place.over_socket().greet().await.is_ok(), "{name}: the unix socket");
            drop(clients.0);
        }
        assert!(guesses.try_join_next().is_none(), "a wrong token was admitted");
        let log = std::fs::read_to_string(place.path("agent.log")).unwrap();
        let lines = log.lines().filter(|line| line.contains("a wrong bearer token")).count();
        assert!((1..100).contains(&lines), "{lines} lines:\n{log}");
    });
}

/// Sends a request to a port of the agent that closes after its answer.
async fn fetch(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn half_open_connections_keep_no_scraper_and_no_agent_check_out() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let yaml = place
            .write("switchman.yaml", "service: shop\nhosts: {web1: {address: 127.0.0.1}}\n")
            .display()
            .to_string();
        let (metrics, check) = ("127.0.0.9:9109", "127.0.0.9:8891");
        let socket = place.text("agent.sock");
        let agent = ["--config", &yaml, "--state-dir", &place.text("state"), "agent", "--socket", &socket];
        let ports = ["--metrics", metrics, "--agent-check", check];
        place.start("agent", SWITCHMAN, &[&agent[..], &ports].concat());
        until(async || TcpStream::connect(metrics).await.is_ok() && TcpStream::connect(check).await.is_ok())
            .await;
        for (name, source) in SOURCES {
            let scrapers = HalfOpenClients::start(metrics, source).await;
            let checks = HalfOpenClients::start(check, source).await;
            for round in 0..20 {
                let page = fetch(metrics, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
                assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{name}, {round}: {page}");
                assert_eq!(fetch(check, "").await, "\n", "{name}, {round}");
                assert!(place.over_socket().greet().await.is_ok(), "{name}, {round}");
            }
            drop((scrapers.0, checks.0));
        }
    });
}
