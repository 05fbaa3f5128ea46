//! The proxy on the wire: the real program, raw clients, raw upstreams. Each test has a network namespace of its own, so
//! every port is its to choose.

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
mod canaries;
mod comparing;
mod doors;
mod early;
mod harm;
mod limits;
mod mirrors;
mod pinned;
mod upgrades;
mod wire;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");
/// The port on which the proxy listens for `shop`, and those of the servers.
const SHOP: u16 = 8000;
const MAIN: u16 = 9000;
const OTHER: u16 = 9001;
/// Only ends a test that would hang.
const BOUND: Duration = Duration::from_mins(1);

fn id(number: u16) -> switchman::model::deployment::DeploymentId {
    format!("dp_{number:010}").parse().unwrap()
}

fn upstream(port: u16) -> Upstream {
    Upstream {
        deployment: id(port),
        version: format!("1.0.{}", port - MAIN).parse().unwrap(),
        address: ([127, 0, 0, 1], port).into(),
    }
}

/// `shop` with main at [`MAIN`], and another at [`OTHER`].
fn shop() -> ProxiedService {
    ProxiedService {
        service: "shop".parse().unwrap(),
        port: Port::new(SHOP).unwrap(),
        check: Port::new(8888).unwrap(),
        access: switchman::model::deployment::Access::Public,
        main: upstream(MAIN),
        other_upstreams: vec![upstream(OTHER)],
        traffic_split: TrafficSplit::default(),
        draining: false,
    }
}

fn mirror(port: u16) -> Mirror {
    Mirror {
        deployment: id(port),
        percent: Percent::FULL,
        methods: Vec::new(),
        paths: Vec::new(),
        without_headers: Vec::new(),
        compare: false,
        control: Percent::ZERO,
    }
}

fn mirrored() -> ProxiedService {
    ProxiedService {
        traffic_split: TrafficSplit { mirrors: vec![mirror(OTHER)], canary: None, forwarded: false },
        ..shop()
    }
}

fn canary(percent: &str) -> Canary {
    Canary {
        deployment: id(OTHER),
        percent: Some(percent.parse().unwrap()),
        sticky: None,
        header: None,
        cookie: None,
    }
}

fn with_canary(canary: Canary) -> ProxiedService {
    ProxiedService {
        traffic_split: TrafficSplit { mirrors: Vec::new(), canary: Some(canary), forwarded: false },
        ..shop()
    }
}

fn config(service: ProxiedService) -> ProxyConfig {
    ProxyConfig { services: vec![service], ..ProxyConfig::default() }
}

/// Waits for a condition, never for a time.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, waited).await.is_ok(), "never: {what}");
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.unwrap_or_else(|_| panic!("it hangs: {what}"))
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
        Self::with(&[]).await
    }

    async fn with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(&dir.path().join("proxy.sock"), flags);
        let proxy = Self { dir, child };
        until("its socket answers", async || UnixStream::connect(proxy.socket()).await.is_ok()).await;
        proxy
    }

    /// Starts the proxy with a configuration.
    async fn serving(service: ProxiedService) -> Self {
        let proxy = Self::start().await;
        proxy.tell(&config(service)).await;
        proxy
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("proxy.sock")
    }

    /// Waits for the exit status while the servers of the test go on.
    async fn ended(&mut self) -> Option<i32> {
        let child = std::cell::RefCell::new(&mut self.child);
        until("it ends", async || child.borrow_mut().try_wait().unwrap().is_some()).await;
        child.into_inner().wait().unwrap().code()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Message {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let mut wire = Wire::new(stream);
        let length = body.len();
        wire.say(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"))
            .await;
        wire.hear().await
    }

    async fn put(&self, config: &ProxyConfig) -> Message {
        self.ask("PUT", "/config", &serde_json::to_string(config).unwrap()).await
    }

    async fn tell(&self, config: &ProxyConfig) {
        let answer = self.put(config).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }

    async fn stats(&self) -> ProxyStats {
        serde_json::from_slice(&self.ask("GET", "/stats", "").await.body).unwrap()
    }

    async fn shadow(&self) -> ShadowStats {
        self.stats().await.services[0].shadows[0].clone()
    }

    async fn leg(&self, port: u16) -> UpstreamStats {
        let legs = self.stats().await.services[0].upstreams.clone();
        legs.into_iter().find(|leg| leg.deployment == id(port)).unwrap()
    }

    /// Once no copy is in flight: every one that was begun has ended in one way.
    async fn settled(&self) -> ShadowStats {
        until("no copy is in flight", async || self.shadow().await.in_flight == 0).await;
        let shadow = self.shadow().await;
        let (failed, aborted): (u64, u64) = (shadow.failed.values().sum(), shadow.aborted.values().sum());
        assert_eq!(shadow.selected, shadow.answered + failed + aborted, "{shadow:?}");
        shadow
    }
}

fn spawn(socket: &std::path::Path, flags: &[&str]) -> Child {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    let mut command = Command::new(SWITCHMAN);
    command.args(["proxy", "--control"]).arg(socket).args(flags).stdin(Stdio::null()).spawn().unwrap()
}

/// A request or an answer, as it was on the wire.
#[derive(Debug, Clone)]
struct Message {
    head: String,
    body: Vec<u8>,
    /// Behind the last chunk.
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
    async fn to(port: u16) -> Self {
        Self::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }
}

impl<S: AsyncRead + tokio::io::AsyncWrite + Unpin> Wire<S> {
    const fn new(stream: S) -> Self {
        Self { stream, rest: Vec::new() }
    }

    async fn say(&mut self, text: &str) {
        self.say_bytes(text.as_bytes()).await;
    }

    async fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// False: the other end has closed.
    async fn try_say(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    async fn get(&mut self, path: &str) -> Message {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")).await;
        self.hear().await
    }

    async fn post(&mut self, path: &str, body: &[u8]) -> Message {
        let head = format!("POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n", body.len());
        self.say(&head).await;
        self.say_bytes(body).await;
        self.hear().await
    }

    /// The next message whole.
    async fn hear(&mut self) -> Message {
        within("a message", self.try_hear()).await.expect("a message, not the end")
    }

    /// `None`: the other end closed, or reset, before a whole message.
    async fn try_hear(&mut self) -> Option<Message> {
        let head = self.hear_head().await?;
        let mut message = Message { head, body: Vec::new(), trailers: String::new() };
        let length = message.field("content-length").and_then(|length| length.parse::<usize>().ok());
        let is_answer = message.head.starts_with("HTTP/");
        if message.field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = self.line().await?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                message.body.extend(self.bytes(size).await?);
                assert_eq!(self.line().await?, "\r\n");
            }
            loop {
                let line = self.line().await?;
                if line == "\r\n" {
                    break;
                }
                message.trailers.push_str(&line);
            }
        } else if let Some(length) = length {
            message.body = self.bytes(length).await?;
        } else if is_answer && ![101, 204, 304].contains(&message.status()) {
            while self.more().await? {}
            message.body = std::mem::take(&mut self.rest);
        }
        Some(message)
    }

    async fn hear_head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.rest.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.more().await? {
                return None;
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            if !self.more().await? {
                return None;
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.rest.len() < count {
            if !self.more().await? {
                return None;
            }
        }
        Some(self.rest.drain(..count).collect())
    }

    /// False: the end; `None`: a reset.
    async fn more(&mut self) -> Option<bool> {
        let mut buffer = vec![0; 64 << 10];
        let read = self.stream.read(&mut buffer).await.ok()?;
        self.rest.extend_from_slice(&buffer[..read]);
        Some(read > 0)
    }

    /// The other end closed, without further bytes.
    async fn ends(&mut self) -> bool {
        let more = within("the end of a connection", self.more()).await;
        self.rest.is_empty() && !matches!(more, Some(true))
    }
}

/// Serves each connection on a port with a task of its own.
async fn listen<F, Fut>(port: u16, serve: F)
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
async fn server(port: u16, name: &'static str) -> ReceivedRequests {
    answering(port, move |request| {
        let text = format!("{name} {}", request.body.len());
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
    })
    .await
}

/// A server that answers with the result of `answer`.
async fn answering(
    port: u16,
    answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
) -> ReceivedRequests {
    let seen = ReceivedRequests::default();
    let (noted, answer) = (seen.clone(), Arc::new(answer));
    listen(port, move |mut wire| {
        let (noted, answer) = (noted.clone(), answer.clone());
        async move {
            *noted.connections.lock().unwrap() += 1;
            while let Some(request) = wire.try_hear().await {
                noted.requests.lock().unwrap().push(request.clone());
                if !wire.try_say(&answer(&request)).await {
                    return;
                }
                if request.field("connection").is_some_and(|value| value == "close") {
                    return;
                }
            }
        }
    })
    .await;
    seen
}
