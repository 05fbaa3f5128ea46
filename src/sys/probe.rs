//! `world::probe`: one HTTP/1.1 GET on a connection of its own.

use std::net::SocketAddr;

use async_trait::async_trait;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::model::health::Health;
use crate::world::probe::{Probe, ProbeError};

#[derive(Debug)]
pub struct HttpProbe;

#[async_trait]
impl Probe for HttpProbe {
    async fn check(&self, address: SocketAddr, health: &Health) -> Result<(), ProbeError> {
        let status = tokio::time::timeout(health.timeout, fetch_status(address, health));
        let Ok(answered) = status.await else {
            return Err(ProbeError::TimedOut { address, waited: health.timeout });
        };
        let found = answered?;
        if found == health.status {
            return Ok(());
        }
        Err(ProbeError::Status { address, path: health.path.clone(), found, expected: health.status })
    }
}

async fn fetch_status(address: SocketAddr, health: &Health) -> Result<u16, ProbeError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| ProbeError::NoConnection { address, reason: error.to_string() })?;
    let garbled = |error: String| ProbeError::Malformed { address, reason: error };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| garbled(error.to_string()))?;
    let host = health.host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::get(&health.path)
        .header(HOST, host)
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("switchman/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| garbled(error.to_string()))?;
    // The connection is driven only until the head is there: the body is not wanted. When it ends first, the answer (or
    // the reason why there is none) has been handed over.
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        _ = &mut connection => answer.await,
    };
    answered.map(|answer| answer.status().as_u16()).map_err(|error| garbled(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Probes a server that reads the request's head, passes it on, and answers with these bytes.
    async fn run_probe(answer: &'static str) -> (Result<(), ProbeError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let asked = HttpProbe.check(address, &build_health()).await;
        (asked, server.await.unwrap())
    }

    fn build_health() -> Health {
        Health {
            path: "/health?full=1".into(),
            status: 200,
            host: Some("shop.example".into()),
            timeout: Duration::from_secs(5),
            interval: Duration::from_secs(1),
            rise: 1,
        }
    }

    #[tokio::test]
    async fn probe_accepts_only_expected_status() {
        let (asked, head) = run_probe("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\npartial").await;
        assert_eq!(asked, Ok(()));
        assert!(head.starts_with("GET /health?full=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: shop.example\r\n") && head.contains("connection: close\r\n"), "{head}");
        for (answer, code) in [
            ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", 302),
            ("HTTP/1.1 500 Oops\r\n\r\n", 500),
            ("HTTP/1.1 503 Down\r\n\r\n", 503),
            ("HTTP/1.1 204 None\r\n\r\n", 204),
        ] {
            let (asked, _) = run_probe(answer).await;
            assert!(matches!(asked, Err(ProbeError::Status { found, .. }) if found == code), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn probe_refuses_non_http_answer() {
        for answer in ["SSH-2.0-OpenSSH_9.2\r\n", "", "HTTP/1.1 2"] {
            let (asked, _) = run_probe(answer).await;
            assert!(matches!(asked, Err(ProbeError::Malformed { .. })), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn probe_timeout_covers_endless_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await.unwrap();
            let mut written = 0u32;
            // Ends when the probe has closed its connection.
            while stream.write_all(b"x").await.is_ok() {
                written += 1;
                // The pace of the trickle: without one the head would be too large first.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            written
        });
        let quick = Health { timeout: Duration::from_millis(50), ..build_health() };
        let asked = HttpProbe.check(address, &quick).await;
        assert_eq!(asked, Err(ProbeError::TimedOut { address, waited: quick.timeout }));
        assert!(server.await.unwrap() > 1, "bytes came all the time");
    }

    #[tokio::test]
    async fn probe_sends_address_as_host_by_default() {
        for (address, host) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]")] {
            let listener = TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let unnamed = Health { host: None, ..build_health() };
            let (asked, head) = tokio::join!(HttpProbe.check(address, &unnamed), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                String::from_utf8_lossy(&head[..length]).into_owned()
            });
            assert_eq!(asked, Ok(()));
            assert!(head.contains(&format!("host: {host}:{}\r\n", address.port())), "{head}");
            assert!(head.contains(concat!("user-agent: switchman/", env!("CARGO_PKG_VERSION"))), "{head}");
        }
    }

    #[tokio::test]
    async fn probe_distinguishes_closed_from_silent_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let quick = Health { timeout: Duration::from_millis(50), ..build_health() };
        assert!(matches!(HttpProbe.check(address, &quick).await, Err(ProbeError::TimedOut { .. })));
        drop(listener);
        assert!(matches!(
            HttpProbe.check(address, &build_health()).await,
            Err(ProbeError::NoConnection { .. })
        ));
    }
}
