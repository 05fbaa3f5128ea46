//! Sends light load through HAProxy. Every request is counted, and none is retried.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, COOKIE, HOST, SET_COOKIE};
use hyper_util::rt::TokioIo;

use super::*;

/// The time between two requests of one user.
const PAUSE: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(20);

/// The users: whether each keeps its connection, and whether it keeps HAProxy's cookie.
const KINDS: [(bool, bool); 6] =
    [(true, true), (true, true), (true, false), (true, false), (false, true), (false, false)];

#[derive(Default)]
struct Counters {
    phase: Mutex<String>,
    requests: AtomicU64,
    /// (phase, reason) -> requests.
    failures: Mutex<BTreeMap<(String, String), u64>>,
    stop: AtomicBool,
}

pub struct Users {
    counters: Arc<Counters>,
    thread: std::thread::JoinHandle<()>,
}

pub struct Account {
    pub requests: u64,
    pub failures: BTreeMap<(String, String), u64>,
}

impl Users {
    /// Starts the users inside a network namespace.
    pub fn start(namespace: PathBuf) -> Self {
        let counters = Arc::new(Counters::default());
        let theirs = counters.clone();
        let thread = std::thread::spawn(move || {
            let users = move || async move {
                let users = KINDS.map(|(keeps, cookie)| run_user(&theirs, keeps, cookie));
                futures_util::future::join_all(users).await;
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_in_namespace(namespace, users)).unwrap();
        });
        Self { counters, thread }
    }

    /// Sets the name under which failures are counted from now on.
    pub fn phase(&self, name: &str) {
        name.clone_into(&mut self.counters.phase.lock().unwrap());
    }

    /// Lets open requests end and returns the account of all requests.
    pub fn end(self) -> Account {
        self.counters.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let failures = std::mem::take(&mut *self.counters.failures.lock().unwrap());
        Account { requests: self.counters.requests.load(Ordering::Relaxed), failures }
    }
}

type Sender = SendRequest<Empty<Bytes>>;

async fn run_user(counters: &Counters, keeps: bool, with_cookie: bool) {
    let (mut sender, mut cookie) = (None, None);
    while !counters.stop.load(Ordering::Relaxed) {
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let result = send(&mut sender, &mut cookie, keeps);
        let result = tokio::time::timeout(DEADLINE, result).await.unwrap_or_else(|_| Err("timeout".into()));
        if let Err(why) = result {
            sender = None;
            let phase = counters.phase.lock().unwrap().clone();
            *counters.failures.lock().unwrap().entry((phase, why)).or_default() += 1;
        }
        cookie = cookie.filter(|_| with_cookie);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn send(kept: &mut Option<Sender>, cookie: &mut Option<String>, keeps: bool) -> Result<(), String> {
    // A connection that was closed while idle carried no request: every client opens another one.
    if let Some(sender) = kept
        && sender.ready().await.is_err()
    {
        *kept = None;
    }
    let mut sender = match kept.take() {
        Some(sender) => sender,
        None => connect().await?,
    };
    let mut request = Request::builder().uri("/").header(HOST, "shop.example");
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie.as_str());
    }
    if !keeps {
        request = request.header(CONNECTION, "close");
    }
    let response = sender
        .send_request(request.body(Empty::new()).unwrap())
        .await
        .map_err(|error| describe_error(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.into_body().collect().await.map_err(|error| describe_error(&error))?.to_bytes();
    if status != 200 || body.is_empty() {
        return Err(format!("status {status}, {} bytes", body.len()));
    }
    let set = headers.get(SET_COOKIE).and_then(|value| value.to_str().ok()?.split(';').next());
    if let Some(set) = set {
        *cookie = Some(set.to_owned());
    }
    *kept = keeps.then_some(sender);
    Ok(())
}

async fn connect() -> Result<Sender, String> {
    let address: SocketAddr = BALANCER.parse().unwrap();
    let stream =
        tokio::net::TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| describe_error(&error))?;
    // The request reports the errors of its connection.
    tokio::spawn(connection);
    Ok(sender)
}

fn describe_error(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}
