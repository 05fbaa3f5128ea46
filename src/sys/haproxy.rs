//! `world::balancer` over HAProxy's stats socket (unix path or TCP) and over the CSV of its statistics page.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::model::balancer::{Access, BackendView, BalancerSpec};
use crate::world::balancer::{Balancer, BalancerError};

mod dial;
mod http;
mod parse;

/// Far above what a thousand servers print.
const LARGEST: u64 = 8 * 1024 * 1024;

/// A balancer that can be read, with a bound on each read; `None` where the configuration gives no access.
pub fn connect(spec: &BalancerSpec, bound: Duration) -> Option<Arc<dyn Balancer>> {
    let access = spec.access.clone()?;
    Some(Arc::new(Haproxy { spec: spec.clone(), access, bound, client: http::Client::default() }))
}

struct Haproxy {
    spec: BalancerSpec,
    access: Access,
    bound: Duration,
    client: http::Client,
}

/// Why an answer is not a view; the address is added by the caller, who knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unreadable {
    NoConnection(String),
    Truncated { received: usize },
    Garbled(String),
    NoBackend,
    Refused { status: u16 },
}

#[async_trait]
impl Balancer for Haproxy {
    fn spec(&self) -> &BalancerSpec {
        &self.spec
    }

    async fn read(&self) -> Result<Arc<BackendView>, BalancerError> {
        let address = self.access.to_string();
        let Ok(read) = tokio::time::timeout(self.bound, self.read_unbounded()).await else {
            return Err(BalancerError::Silent { address, waited: self.bound });
        };
        read.map(Arc::new).map_err(|why| match why {
            Unreadable::NoConnection(why) => BalancerError::Unreachable { address, why },
            Unreadable::Truncated { received } => BalancerError::Truncated { address, received },
            Unreadable::Garbled(why) => BalancerError::Garbled { address, why },
            Unreadable::NoBackend => BalancerError::NoBackend { address, backend: self.spec.backend.clone() },
            Unreadable::Refused { status } => BalancerError::Refused { address, status },
        })
    }
}

impl Haproxy {
    async fn read_unbounded(&self) -> Result<BackendView, Unreadable> {
        let backend = self.spec.backend.as_str();
        match &self.access {
            Access::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(no_connection)?;
                parse::socket(&ask(stream, backend).await?, backend)
            }
            Access::Tcp { host, port } => {
                let stream = dial::connect(host, *port).await?;
                parse::socket(&ask(stream, backend).await?, backend)
            }
            Access::Http(url) => parse::page(&self.client.get(url, self.bound).await?, backend),
        }
    }
}

/// One line with both commands, answered in one piece after which HAProxy closes (management guide, 9.3). The type
/// `4` of `show stat` is servers.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, backend: &str) -> Result<String, Unreadable> {
    let command = format!("show servers state {backend}; show stat {backend} 4 -1\n");
    stream.write_all(command.as_bytes()).await.map_err(no_connection)?;
    let mut answer = Vec::new();
    let read = stream.take(LARGEST + 1).read_to_end(&mut answer).await;
    match read {
        Ok(read) if read as u64 > LARGEST => Err(too_large()),
        Ok(_) => Ok(String::from_utf8_lossy(&answer).into_owned()),
        Err(_) if !answer.is_empty() => Err(Unreadable::Truncated { received: answer.len() }),
        Err(error) => Err(no_connection(error)),
    }
}

fn too_large() -> Unreadable {
    Unreadable::Garbled(format!("it is longer than {} MiB", LARGEST / 1024 / 1024))
}

fn no_connection(error: impl std::fmt::Display) -> Unreadable {
    Unreadable::NoConnection(error.to_string())
}

#[cfg(test)]
mod tests;
