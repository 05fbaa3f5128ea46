//! The proxy on the wire: the real program, raw clients, raw upstreams. Each test has a network namespace of its own, so
//! each may use every port.

use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchman::model::percent::Percent;
use switchman::model::ports::Port;
use switchman::model::proxy::{
    Canary, Mirror, ProxiedService, ProxyConfig, ProxyStats, ShadowStats, TrafficSplit, Upstream,
    UpstreamStats,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::testing::run_in_namespace;

mod basics;
mod canary;
mod comparison;
mod early_answers;
mod floods;
mod ingress;
mod isolation;
mod limits;
mod mirror;
mod upgrades;
mod upstream_connections;
mod wire;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");
/// The port on which the proxy listens for `shop`, and those of the servers.
const SHOP: u16 = 8000;
const MAIN: u16 = 9000;
const OTHER: u16 = 9001;
/// Only ends a test that would hang.
const BOUND: Duration = Duration::from_mins(1);

fn deployment_id(number: u16) -> switchman::model::deployment::DeploymentId {
    format!("dp_{number:010}").parse().unwrap()
}

fn build_upstream(port: u16) -> Upstream {
    Upstream {
        deployment: deployment_id(port),
        version: format!("1.0.{}", port - MAIN).parse().unwrap(),
        address: ([127, 0, 0, 1], port).into(),
        more_addresses: vec![],
    }
}

/// `shop` with main at [`MAIN`], and another at [`OTHER`].
fn build_shop() -> ProxiedService {
    ProxiedService {
        service: "shop".parse().unwrap(),
        port: Port::new(SHOP).unwrap(),
        check: Port::new(8888).unwrap(),
        access: switchman::model::deployment::Access::Public,
        main: build_upstream(MAIN),
        other_upstreams: vec![build_upstream(OTHER)],
        traffic_split: TrafficSplit::default(),
        draining: false,
    }
}

fn build_mirror(port: u16) -> Mirror {
    Mirror {
        deployment: deployment_id(port),
        percent: Percent::FULL,
        methods: Vec::new(),
        paths: Vec::new(),
        without_headers: Vec::new(),
        compare: false,
        control: Percent::ZERO,
    }
}

fn build_mirrored_shop() -> ProxiedService {
    ProxiedService {
        traffic_split: TrafficSplit { mirrors: vec![build_mirror(OTHER)], canary: None, forwarded: false },
        ..build_shop()
    }
}

fn build_canary(percent: &str) -> Canary {
    Canary {
        deployment: deployment_id(OTHER),
        percent: Some(percent.parse().unwrap()),
        sticky: None,
        header: None,
        cookie: None,
    }
}

fn build_shop_with_canary(canary: Canary) -> ProxiedService {
    ProxiedService {
        traffic_split: TrafficSplit { mirrors: Vec::new(), canary: Some(canary), forwarded: false },
        ..build_shop()
    }
}

fn build_config(service: ProxiedService) -> ProxyConfig {
    ProxyConfig { services: vec![service], ..ProxyConfig::default() }
}

/// Waits for a condition, never for a time.
async fn wait_until(condition: &str, is_met: impl AsyncFn() -> bool) {
    let waited = async {
        while !is_met().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, waited).await.is_ok(), "never: {condition}");
}

async fn fail_if_stuck<T>(condition: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.unwrap_or_else(|_| panic!("it hangs: {condition}"))
}

/// The real program, ended with the test.
struct Proxy {
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    async fn start() -> Self {
        Self::start_with_flags(&[]).await
    }

    async fn start_with_flags(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = spawn_proxy(&dir.path().join("proxy.sock"), flags);
        let proxy = Self { dir, child };
        wait_until("its socket answers", async || UnixStream::connect(proxy.socket()).await.is_ok()).await;
        proxy
    }

    /// Starts the proxy with a configuration.
    async fn start_with_service(service: ProxiedService) -> Self {
        let proxy = Self::start().await;
        proxy.configure(&build_config(service)).await;
        proxy
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("proxy.sock")
    }

    /// Waits for the exit status while the servers of the test go on.
    async fn wait_for_exit(&mut self) -> Option<i32> {
        let child = std::cell::RefCell::new(&mut self.child);
        wait_until("it ends", async || child.borrow_mut().try_wait().unwrap().is_some()).await;
        child.into_inner().wait().unwrap().code()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> Message {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let mut wire = Wire::new(stream);
        let length = body.len();
        wire.send(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"))
            .await;
        wire.receive().await
    }

    async fn put(&self, config: &ProxyConfig) -> Message {
        self.request("PUT", "/config", &serde_json::to_string(config).unwrap()).await
    }

    async fn configure(&self, config: &ProxyConfig) {
        let answer = self.put(config).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }

    async fn stats(&self) -> ProxyStats {
        serde_json::from_slice(&self.request("GET", "/stats", "").await.body).unwrap()
    }

    async fn shadow(&self) -> ShadowStats {
        self.stats().await.services[0].shadows[0].clone()
    }

    async fn upstream_stats(&self, port: u16) -> UpstreamStats {
        let upstreams = self.stats().await.services[0].upstreams.clone();
        upstreams.into_iter().find(|upstream| upstream.deployment == deployment_id(port)).unwrap()
    }

    /// Waits until no copy is in flight; then every copy that was started has one result.
    async fn wait_until_settled(&self) -> ShadowStats {
        wait_until("no copy is in flight", async || self.shadow().await.in_flight == 0).await;
        let shadow = self.shadow().await;
        let (failed, aborted): (u64, u64) = (shadow.failed.values().sum(), shadow.aborted.values().sum());
        assert_eq!(shadow.selected, shadow.answered + failed + aborted, "{shadow:?}");
        shadow
    }
}

fn spawn_proxy(socket: &std::path::Path, flags: &[&str]) -> Child {
    #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
    let mut command = Command::new(SWITCHMAN);
    command.args(["proxy", "--control"]).arg(socket).args(flags).stdin(Stdio::null()).spawn().unwrap()
}

/// A request or an answer, as it was on the wire.
#[derive(Debug, Clone)]
struct Message {
    head: String,
    body: Vec<u8>,
    /// Fields after the last chunk.
    trailers: String,
}

impl Message {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first value of a field, in any case.
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// An end of a connection, written by hand.
struct Wire<S> {
    stream: S,
    rest: Vec<u8>,
}

impl Wire<TcpStream> {
    async fn connect(port: u16) -> Self {
        Self::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }
}

impl<S: AsyncRead + tokio::io::AsyncWrite + Unpin> Wire<S> {
    const fn new(stream: S) -> Self {
        Self { stream, rest: Vec::new() }
    }

    async fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// False: the other end has closed.
    async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    async fn get(&mut self, path: &str) -> Message {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")).await;
        self.receive().await
    }

    async fn post(&mut self, path: &str, body: &[u8]) -> Message {
        let head = format!("POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(&head).await;
        self.send_bytes(body).await;
        self.receive().await
    }

    /// Receives the next message whole.
    async fn receive(&mut self) -> Message {
        fail_if_stuck("a message", self.try_receive()).await.expect("a message, not the end")
    }

    /// `None`: the other end closed, or reset, before a whole message.
    async fn try_receive(&mut self) -> Option<Message> {
        let head = self.receive_head().await?;
        let mut message = Message { head, body: Vec::new(), trailers: String::new() };
        let length = message.field("content-length").and_then(|length| length.parse::<usize>().ok());
        let is_answer = message.head.starts_with("HTTP/");
        if message.field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = self.read_line().await?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                message.body.extend(self.read_bytes(size).await?);
                assert_eq!(self.read_line().await?, "\r\n");
            }
            loop {
                let line = self.read_line().await?;
                if line == "\r\n" {
                    break;
                }
                message.trailers.push_str(&line);
            }
        } else if let Some(length) = length {
            message.body = self.read_bytes(length).await?;
        } else if is_answer && ![101, 204, 304].contains(&message.status()) {
            while self.read_more().await? {}
            message.body = std::mem::take(&mut self.rest);
        }
        Some(message)
    }

    async fn receive_head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.rest.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.read_more().await? {
                return None;
            }
        }
    }

    async fn read_line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            if !self.read_more().await? {
                return None;
            }
        }
    }

    async fn read_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.rest.len() < count {
            if !self.read_more().await? {
                return None;
            }
        }
        Some(self.rest.drain(..count).collect())
    }

    /// False: the end; `None`: a reset.
    async fn read_more(&mut self) -> Option<bool> {
        let mut buffer = vec![0; 64 << 10];
        let read = self.stream.read(&mut buffer).await.ok()?;
        self.rest.extend_from_slice(&buffer[..read]);
        Some(read > 0)
    }

    /// Whether the other end closes without further bytes.
    async fn is_closed(&mut self) -> bool {
        let more = fail_if_stuck("the end of a connection", self.read_more()).await;
        self.rest.is_empty() && !matches!(more, Some(true))
    }
}

/// Serves each connection on a port with a task of its own.
async fn serve_connections<F, Fut>(port: u16, serve: F)
where
    F: Fn(Wire<TcpStream>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(Wire::new(stream)));
        }
    });
}

/// All requests that a server received.
#[derive(Debug, Clone, Default)]
struct ReceivedRequests {
    requests: Arc<Mutex<Vec<Message>>>,
    connections: Arc<Mutex<usize>>,
}

impl ReceivedRequests {
    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    fn last(&self) -> Message {
        self.requests.lock().unwrap().last().unwrap().clone()
    }
}

/// A server that reads each request whole and answers with its name and the length of the body it got.
async fn start_server(port: u16, name: &'static str) -> ReceivedRequests {
    start_server_with(port, move |request| {
        let text = format!("{name} {}", request.body.len());
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
    })
    .await
}

/// A server that answers with the result of `answer`.
async fn start_server_with(
    port: u16,
    answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
) -> ReceivedRequests {
    let received = ReceivedRequests::default();
    let (recorder, answer) = (received.clone(), Arc::new(answer));
    serve_connections(port, move |mut wire| {
        let (recorder, answer) = (recorder.clone(), answer.clone());
        async move {
            *recorder.connections.lock().unwrap() += 1;
            while let Some(request) = wire.try_receive().await {
                recorder.requests.lock().unwrap().push(request.clone());
                if !wire.try_send(&answer(&request)).await {
                    return;
                }
                if request.field("connection").is_some_and(|value| value == "close") {
                    return;
                }
            }
        }
    })
    .await;
    received
}
