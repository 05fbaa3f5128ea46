//! Connections that are open while a host is switched survive, on the real kernel with no other user of
//! connection tracking than our own rules: the usual state of a plain web server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use switchman::model::ports::Port;
use switchman::model::rules::{DesiredRules, Family, Redirect, RedirectKind, Tables, Variant};
use switchman::plan::firewall::plan_transactions;
use switchman::sys::iptables::Iptables;
use switchman::world::firewall::Firewall;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::testing::run_in_namespace;

const CHECK: u16 = 8888;
const MAIN: u16 = 8080;
/// Lost packets are sent again for minutes: what is not answered by now was translated wrongly.
const BOUND: Duration = Duration::from_secs(3);

async fn switch(family: Family, variant: Variant, on: bool) {
    let port = |number| Port::new(number).unwrap();
    let service = "shop".parse().unwrap();
    let forward =
        Redirect { service, kind: RedirectKind::Forward, one_in: 1, port: port(CHECK), target: port(MAIN) };
    let redirects = on.then_some(forward).into_iter().collect();
    // Both ends are on this host, so the jump from OUTPUT is the one that is used.
    let desired = DesiredRules { redirects, balancer_is_local: true };
    let tables = Tables { default: variant, ..Iptables.nat(family).await.unwrap() };
    let steps = plan_transactions(&desired, &tables, family);
    assert!(!steps.is_empty());
    for transaction in steps {
        Iptables.commit(&transaction).await.unwrap();
    }
}

/// A main vhost that sends back every byte.
async fn echo(address: IpAddr) {
    let listener = TcpListener::bind((address, MAIN)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
}

/// A connection from a source port of our choice.
async fn connect(from: SocketAddr, port: u16) -> TcpStream {
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(from).unwrap();
    let connected = tokio::time::timeout(BOUND, socket.connect((from.ip(), port).into())).await;
    connected.unwrap_or_else(|_| panic!("port {port} does not answer")).unwrap()
}

async fn exchange(stream: &mut TcpStream, what: &str) {
    let echoed = async {
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0]).await
    };
    let echoed = tokio::time::timeout(BOUND, echoed).await.unwrap_or_else(|_| panic!("{what}: no answer"));
    echoed.unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// HAProxy takes the source port of each connection from one range, so a check by the check port and a request to the
/// data port meet with the same one. Both arrive at the data port: the kernel then translates the second's source port,
/// and must go on doing so when the forward is off.
/// Rows: D35.
#[test]
fn open_check_and_request_survive_every_switch() {
    let families = [(Family::V4, "127.0.0.1"), (Family::V6, "::1")];
    for variant in [Variant::NfTables, Variant::Legacy] {
        for (family, address) in families {
            run_in_namespace(move || async move {
                let address: IpAddr = address.parse().unwrap();
                echo(address).await;
                switch(family, variant, true).await;
                let mut check = connect((address, 0).into(), CHECK).await;
                let mut request = connect(check.local_addr().unwrap(), MAIN).await;
                for (on, state) in [(false, "off"), (true, "on"), (false, "off again")] {
                    switch(family, variant, on).await;
                    let when = format!("forward {state} ({family}, {variant})");
                    exchange(&mut request, &format!("a request, {when}")).await;
                    exchange(&mut check, &format!("a check, {when}")).await;
                }
            });
        }
    }
}
