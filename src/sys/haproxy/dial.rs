//! Connects to a host name: every address is tried, and a name server that does not answer delays no other address.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::TcpStream;

use super::error::{ReadError, to_connection_error};

/// How long an address that is silent is alone before the next one is tried beside it (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, ReadError> {
    connect_first(resolve(host, port).await.map_err(to_connection_error)?).await
}

/// Returns the first connection that is established. One dead address of a name must not use up the time of the others.
async fn connect_first(addresses: Vec<SocketAddr>) -> Result<TcpStream, ReadError> {
    let several = addresses.len() > 1;
    let mut waiting = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut failed = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            tries.push(async move { TcpStream::connect(address).await.map_err(|error| (address, error)) });
        } else if tries.is_empty() {
            return Err(to_connection_error(failed.join(", ")));
        }
        let next = async {
            match waiting.len() {
                0 => std::future::pending().await,
                _ => tokio::time::sleep(ATTEMPT_DELAY).await,
            }
        };
        tokio::select! {
            Some(tried) = tries.next() => match tried {
                Ok(stream) => return Ok(stream),
                Err((address, error)) if several => failed.push(format!("{address}: {error}")),
                Err((_, error)) => failed.push(error.to_string()),
            },
            () = next => {}
        }
    }
}

/// On a thread of its own and not on tokio's blocking pool: the end of a runtime waits for the pool, and with name
/// servers that are silent the command took 10 s to end after its 2 s (docs/design/measurements.md#m47).
async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let host = host.to_owned();
    let (found, when_found) = tokio::sync::oneshot::channel();
    let lookup = std::thread::Builder::new().name("swm-resolve".to_owned());
    lookup.spawn(move || {
        // The receiver is dropped when the read's timeout has passed.
        let _ = found.send((host.as_str(), port).to_socket_addrs().map(Vec::from_iter));
    })?;
    when_found.await.map_err(io::Error::other)?
}

/// Resolves names in this manner for the client of the statistics page.
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Addrs = Box::new(resolve(name.as_str(), 0).await?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::sys::exec::Program;
    use crate::sys::testing::run_in_namespace;

    #[test]
    fn connect_first_skips_refused_and_silent_addresses() {
        run_in_namespace(|| async {
            let listener = TcpListener::bind("127.0.0.4:0").await.unwrap();
            let alive = listener.local_addr().unwrap();
            let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), alive.port());
            // Dropped, not refused: such a connect ends only by its own time, minutes later.
            let drop = ["-A", "INPUT", "-d", "127.0.0.3", "-j", "DROP"];
            let done = Program::new("iptables").args(drop).run(b"", Duration::from_secs(10)).await.unwrap();
            assert_eq!(done.status, 0, "{}", done.stderr);
            let stream = connect_first(vec![at("127.0.0.2"), at("127.0.0.3"), alive]).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), alive);
            let none = connect_first(vec![at("127.0.0.2"), at("127.0.0.5")]).await.unwrap_err();
            let refused = |ip: &str| format!("{}: Connection refused (os error 111)", at(ip));
            let why = format!("{}, {}", refused("127.0.0.2"), refused("127.0.0.5"));
            assert_eq!(none, ReadError::NoConnection(why));
        });
    }

    #[tokio::test]
    async fn resolve_accepts_names_and_addresses() {
        let all = resolve("localhost", 99).await.unwrap();
        assert!(!all.is_empty() && all.iter().all(|a| a.ip().is_loopback() && a.port() == 99), "{all:?}");
        assert_eq!(resolve("::1", 7).await.unwrap(), ["[::1]:7".parse().unwrap()]);
        assert!(resolve("no such name", 7).await.is_err());
    }
}
