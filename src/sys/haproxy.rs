//! `world::balancer` over HAProxy's stats socket (unix path or TCP) and over the CSV of its statistics page.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::model::balancer::{Access, BackendView, BalancerSpec, ServerView, Verdict};
use crate::world::balancer::{Balancer, BalancerError, Flush, Weighed};

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
    NoServer(String),
    Refused { status: u16 },
}

#[async_trait]
impl Balancer for Haproxy {
    fn spec(&self) -> &BalancerSpec {
        &self.spec
    }

    async fn read(&self) -> Result<Arc<BackendView>, BalancerError> {
        self.bounded(self.view()).await.map(Arc::new)
    }

    /// After it the server is `UP 1/3` until a check has passed: HAProxy counts anew from the lowest UP (measured on 2.6).
    async fn close_idle(&self, server: &str) -> Result<Flush, BalancerError> {
        self.bounded(self.flush(server)).await
    }

    async fn set_weight(&self, server: &str, weight: u32) -> Result<Weighed, BalancerError> {
        self.bounded(self.weigh(server, weight)).await
    }
}

impl Haproxy {
    async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, Unreadable>>,
    ) -> Result<T, BalancerError> {
        let address = self.access.to_string();
        let backend = || self.spec.backend.clone();
        let Ok(ended) = tokio::time::timeout(self.bound, work).await else {
            return Err(BalancerError::Silent { address, waited: self.bound });
        };
        ended.map_err(|why| match why {
            Unreadable::NoConnection(why) => BalancerError::Unreachable { address, why },
            Unreadable::Truncated { received } => BalancerError::Truncated { address, received },
            Unreadable::Garbled(why) => BalancerError::Garbled { address, why },
            Unreadable::NoBackend => BalancerError::NoBackend { address, backend: backend() },
            Unreadable::NoServer(server) => BalancerError::NoServer { address, backend: backend(), server },
            Unreadable::Refused { status } => BalancerError::Refused { address, status },
        })
    }

    /// The type `4` of `show stat` is servers.
    async fn view(&self) -> Result<BackendView, Unreadable> {
        let backend = self.spec.backend.as_str();
        if let Access::Http(url) = &self.access {
            return parse::page(&self.client.get(url, self.bound).await?, backend);
        }
        let command = |proxy: &str| format!("show servers state {backend}; show stat {proxy} 4 -1");
        let answer = self.say(&command(backend)).await?;
        // A frontend of the same name is what `show stat NAME` finds: then the backend is asked for by its number, which
        // `show servers state` gives.
        match parse::number_of_namesake(&answer)? {
            Some(number) => parse::socket(&self.say(&command(&number)).await?, backend),
            None => parse::socket(&answer, backend),
        }
    }

    /// One line on a stats socket.
    async fn say(&self, command: &str) -> Result<String, Unreadable> {
        match &self.access {
            Access::Unix(path) => ask(UnixStream::connect(path).await.map_err(no_connection)?, command).await,
            Access::Tcp { host, port } => ask(dial::connect(host, *port).await?, command).await,
            Access::Http(_) => Err(no_connection("a statistics page takes no commands")),
        }
    }

    async fn flush(&self, server: &str) -> Result<Flush, Unreadable> {
        if matches!(self.access, Access::Http(_)) {
            return Ok(Flush::NotAllowed);
        }
        if !self.is_free(server).await? {
            return Ok(Flush::Held);
        }
        let name = format!("{}/{server}", self.spec.backend);
        // In one line, which HAProxy takes in one go: no client finds the server in maintenance for long.
        let line = format!("set server {name} state maint; set server {name} state ready");
        let answer = self.say(&line).await?;
        match answer.trim() {
            "" => {}
            denied if denied.starts_with("Permission denied") => return Ok(Flush::NotAllowed),
            other => return Err(Unreadable::Garbled(other.chars().take(200).collect())),
        }
        // There is no other success than what is read back. Whoever holds it now came after us.
        Ok(if self.is_free(server).await? { Flush::Closed } else { Flush::Held })
    }

    async fn weigh(&self, server: &str, weight: u32) -> Result<Weighed, Unreadable> {
        if matches!(self.access, Access::Http(_)) {
            return Ok(Weighed::NotAllowed);
        }
        let answer = self.say(&format!("set server {}/{server} weight {weight}", self.spec.backend)).await?;
        match answer.trim() {
            "" => {}
            denied if denied.starts_with("Permission denied") => return Ok(Weighed::NotAllowed),
            other => return Err(Unreadable::Garbled(other.chars().take(200).collect())),
        }
        let view = self.view().await?;
        match view.server(server) {
            Some(found) if found.weight == weight => Ok(Weighed::Set),
            Some(found) => {
                Err(Unreadable::Garbled(format!("its weight is {} after {weight} was set", found.weight)))
            }
            None => Err(Unreadable::NoServer(server.to_owned())),
        }
    }

    async fn is_free(&self, server: &str) -> Result<bool, Unreadable> {
        let view = self.view().await?;
        view.server(server).map(is_free).ok_or_else(|| Unreadable::NoServer(server.to_owned()))
    }
}

/// Taking traffic, and by nobody's word in or out of it.
fn is_free(server: &ServerView) -> bool {
    let held = server.admin.is_none_or(|admin| admin.in_maintenance() || admin.in_drain());
    !held && matches!(server.verdict, Verdict::Up | Verdict::GoingDown | Verdict::NoCheck)
}

/// One line with all commands, answered in one piece after which HAProxy closes (management guide, 9.3).
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, command: &str) -> Result<String, Unreadable> {
    stream.write_all(format!("{command}\n").as_bytes()).await.map_err(no_connection)?;
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
mod flush_tests;
#[cfg(test)]
mod tests;
