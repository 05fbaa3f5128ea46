//! Two hosts on loopback addresses: a main and a backup vhost each, and the check port of main that can be closed. And a client.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const HOSTS: [(&str, &str); 2] = [("web1", "127.0.0.11"), ("web2", "127.0.0.12")];
pub const CHECK: u16 = 8888;
pub const MAIN: u16 = 8080;
pub const BACKUP: u16 = 80;

pub struct Vhosts {
    /// Answers to requests for `/slow?N` wait until this is N or more.
    released: watch::Sender<u64>,
    /// The check ports that are open, by host.
    checks: [Option<JoinHandle<()>>; 2],
    _others: Vec<JoinHandle<()>>,
}

impl Vhosts {
    pub async fn start() -> Self {
        let released = watch::Sender::new(0);
        let mut others = Vec::new();
        for (host, address) in HOSTS {
            for (role, port) in [("main", MAIN), ("backup", BACKUP)] {
                others.push(serve(format!("{role}-{host}"), address, port, &released).await);
            }
        }
        let mut vhosts = Self { released, checks: [None, None], _others: others };
        for host in 0..HOSTS.len() {
            vhosts.open_check(host).await;
        }
        vhosts
    }

    pub async fn open_check(&mut self, host: usize) {
        let (name, address) = HOSTS[host];
        self.checks[host] = Some(serve(format!("main-{name}"), address, CHECK, &self.released).await);
    }

    pub async fn close_check(&mut self, host: usize) {
        if let Some(check) = self.checks[host].take() {
            check.abort();
            let _ = check.await;
        }
    }

    pub fn release(&self, number: u64) {
        self.released.send_replace(number);
    }
}

async fn serve(name: String, address: &str, port: u16, released: &watch::Sender<u64>) -> JoinHandle<()> {
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let released = released.subscribe();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, name.clone(), released.clone()));
        }
    })
}

/// Answers one request. What is no HTTP request (TLS, the PROXY protocol) is answered with 400, as a web server does.
async fn answer(mut stream: TcpStream, name: String, mut released: watch::Receiver<u64>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 2048];
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => head.extend_from_slice(&part[..read]),
            _ => return,
        }
        if !head.starts_with(b"GET /"[..head.len().min(5)].as_ref()) {
            let _ =
                stream.write_all(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            return;
        }
    }
    let head = String::from_utf8_lossy(&head);
    let number = head.split_once("/slow?").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    if let Some(number) = number {
        let _ = released.wait_for(|released| *released >= number).await;
    }
    let text =
        format!("HTTP/1.1 200 OK\r\nX-Vhost: {name}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    let _ = stream.write_all(text.as_bytes()).await;
}

/// An answer as a browser has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub vhost: String,
    /// `NAME=VALUE` of the cookie that was set.
    pub cookie: Option<String>,
}

/// Sends one request on a connection of its own; status 0 where no whole answer came.
pub async fn send(port: u16, path: &str, cookie: Option<&str>) -> Answer {
    let limit = Duration::from_secs(40);
    tokio::time::timeout(limit, exchange(port, path, cookie)).await.ok().flatten().unwrap_or_default()
}

async fn exchange(port: u16, path: &str, cookie: Option<&str>) -> Option<Answer> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.ok()?;
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{cookie}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.ok()?;
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let header = |name: &str| {
        let found = head.lines().filter_map(|line| line.split_once(": "));
        found.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let cookie = header("set-cookie").map(|value| value.split(';').next().unwrap_or_default().to_owned());
    let is_whole = status != 200 || body.ends_with("ok");
    is_whole.then(|| Answer { status, vhost: header("x-vhost").unwrap_or_default(), cookie })
}
