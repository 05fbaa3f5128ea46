//! The ports on which the proxy listens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;

use crate::model::ports::Port;

/// Connections that wait to be accepted; the kernel's own bound (`net.core.somaxconn`) is usually this.
const ACCEPT_BACKLOG: u32 = 4096;

/// The address that a listener is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenScope {
    /// Any address of the host.
    AllAddresses,
    /// The host itself alone.
    Loopback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenEndpoint(pub Port, pub ListenScope);

/// The proxy cannot listen on a port.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on port {port}: {reason}")]
pub struct ListenError {
    pub port: Port,
    pub reason: io::Error,
}

/// Binds for each worker its own listeners on a port, IPv4 and IPv6; the kernel spreads connections over them. Refused
/// where another process has the port, even another proxy.
pub fn open_listeners(
    endpoint: ListenEndpoint,
    workers: usize,
) -> Result<Vec<Vec<TcpListener>>, ListenError> {
    let ListenEndpoint(port, scope) = endpoint;
    let [v4, v6]: [IpAddr; 2] = match scope {
        ListenScope::AllAddresses => [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        ListenScope::Loopback => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    };
    let mut all: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for address in [v4, v6] {
        let address = SocketAddr::new(address, port.get());
        // Sharing a port is for workers of one process alone: another process's listener would take half of the connections.
        match bind(address, false) {
            Err(reason) if address.is_ipv6() && has_no_ipv6(&reason) => continue,
            Err(reason) => return Err(ListenError { port, reason }),
            Ok(_) => {}
        }
        for listeners in &mut all {
            let listener = bind(address, true).and_then(listen);
            listeners.push(listener.map_err(|reason| ListenError { port, reason })?);
        }
    }
    Ok(all)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket.bind(address)?;
    Ok(socket)
}

fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(ACCEPT_BACKLOG)?.into_std()
}

/// A kernel without IPv6, or with it switched off.
fn has_no_ipv6(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
    matches!(error.raw_os_error(), Some(EADDRNOTAVAIL | EAFNOSUPPORT))
}
