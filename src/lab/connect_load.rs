//! Clients that open a connection for each request, and count what becomes of each: for the benchmark of the switch.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::error::LabError;
use super::hosts::run_in_namespace;

/// The outcomes of the connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectCounts {
    pub answered: u64,
    pub refused: u64,
    pub reset: u64,
    /// No answer within 5 s, or anything else.
    pub other: u64,
}

/// Runs `clients` at once from inside a namespace until stopped. The server closes first, so that no local port of a
/// client is kept waiting.
pub async fn run(
    namespace: PathBuf,
    address: SocketAddr,
    clients: usize,
    pause: Duration,
    stopped: watch::Receiver<bool>,
) -> Result<ConnectCounts, LabError> {
    run_in_namespace(namespace, move || async move {
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..clients {
            set.spawn(run_client(address, pause, stopped.clone()));
        }
        let mut total = ConnectCounts::default();
        while let Some(Ok(one)) = set.join_next().await {
            total.answered += one.answered;
            total.refused += one.refused;
            total.reset += one.reset;
            total.other += one.other;
        }
        total
    })
    .await
}

async fn run_client(address: SocketAddr, pause: Duration, stopped: watch::Receiver<bool>) -> ConnectCounts {
    let mut count = ConnectCounts::default();
    while !*stopped.borrow() {
        match tokio::time::timeout(Duration::from_secs(5), send_request(address)).await {
            Ok(Ok(true)) => count.answered += 1,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => count.refused += 1,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => count.reset += 1,
            _ => count.other += 1,
        }
        tokio::time::sleep(pause).await;
    }
    count
}

async fn send_request(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
