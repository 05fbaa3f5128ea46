//! Against the real kernel: what each kind of connection looks like from the server's side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::dump::collect;
use super::*;
use crate::sys::testing::run_in_namespace;

/// A server's listener; the test plays both sides.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

fn listen(address: &str) -> (TcpListener, Port) {
    let listener = TcpListener::bind(address).unwrap();
    let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
    (listener, port)
}

fn pair(listener: &TcpListener, address: IpText) -> Pair {
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(SocketAddr::new(address.parse().unwrap(), port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    Pair { client, server }
}

/// The port of a server with one connection.
fn connected() -> (Port, Pair) {
    let (listener, port) = listen("127.0.0.1:0");
    (port, pair(&listener, "127.0.0.1"))
}

type IpText = &'static str;

impl Pair {
    fn ask(&mut self) {
        self.client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut request = [0; 18];
        self.server.read_exact(&mut request).unwrap();
    }

    fn answer(&mut self) {
        self.server.write_all(b"HTTP/1.1 204 x\r\n\r\n").unwrap();
        let mut answer = [0; 18];
        self.client.read_exact(&mut answer).unwrap();
    }
}

async fn look(port: Port) -> Vec<Socket> {
    SockDiag.list_established(port).await.unwrap()
}

/// Looks until the sockets satisfy the condition; bounded.
async fn until(port: Port, what: &str, holds: impl Fn(&[Socket]) -> bool) -> Vec<Socket> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let sockets = look(port).await;
        if holds(&sockets) {
            return sockets;
        }
        assert!(Instant::now() < deadline, "{what}: {sockets:?}");
        tokio::task::yield_now().await;
    }
}

fn only(sockets: &[Socket]) -> &Socket {
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    &sockets[0]
}

/// `sys` may not import `plan`; the fields themselves are asserted here, the rule on them in `plan::drain`.
fn has_request_in_flight(socket: &Socket) -> bool {
    socket.info.last_data_received < socket.info.last_data_sent || socket.info.bytes_sent == 0
}

#[test]
fn in_flight_request_shows_receive_after_send() {
    run_in_namespace(|| async {
        let (port, mut pair) = connected();
        assert_eq!(only(&look(port).await).info.bytes_received, 0, "no request yet");
        pair.ask();
        let sockets = look(port).await;
        assert!(has_request_in_flight(only(&sockets)));
        assert_eq!((only(&sockets).info.bytes_received, only(&sockets).info.bytes_sent), (18, 0));
        pair.answer();
        until(port, "acknowledged", |sockets| only(sockets).info.unacked == 0).await;
        assert_eq!(only(&look(port).await).info.bytes_sent, 18);
        // A tick later the second request is later than the first answer.
        until(port, "a tick has passed", |sockets| {
            only(sockets).info.last_data_sent > Duration::from_millis(8)
        })
        .await;
        assert!(!has_request_in_flight(only(&look(port).await)), "answered and idle");
        pair.ask();
        assert!(has_request_in_flight(only(&look(port).await)));
    });
}

#[test]
fn sockets_report_unread_unsent_and_growing_bytes() {
    run_in_namespace(|| async {
        let (port, mut pair) = connected();
        pair.client.write_all(b"unread").unwrap();
        until(port, "unread bytes", |sockets| only(sockets).receive_queue == 6).await;
        pair.server.read_exact(&mut [0; 6]).unwrap();
        let before = look(port).await;
        pair.client.write_all(&[0; 1000]).unwrap();
        pair.server.read_exact(&mut [0; 1000]).unwrap();
        let now = look(port).await;
        assert_eq!(only(&now).cookie, only(&before).cookie);
        assert_eq!(
            only(&now).info.bytes_received,
            only(&before).info.bytes_received + 1000,
            "an upload grows"
        );
        assert_eq!(only(&now).info.bytes_sent, only(&before).info.bytes_sent);
        pair.server.set_nonblocking(true).unwrap();
        while pair.server.write(&[0; 8192]).is_ok() {}
        until(port, "an unread answer", |sockets| only(sockets).send_queue > 0).await;
    });
}

#[test]
fn sockets_lists_only_requested_local_port() {
    run_in_namespace(|| async {
        let (listener, port) = listen("127.0.0.1:0");
        let (other, other_port) = listen("127.0.0.1:0");
        let pairs: Vec<Pair> = (0..300).map(|_| pair(&listener, "127.0.0.1")).collect();
        let _one = pair(&other, "127.0.0.1");
        assert_eq!((look(port).await.len(), look(other_port).await.len()), (300, 1));
        let peers: std::collections::BTreeSet<_> =
            look(port).await.into_iter().map(|socket| socket.peer).collect();
        assert_eq!(peers, pairs.iter().map(|pair| pair.client.local_addr().unwrap()).collect());
        drop(pairs);
        until(port, "all closed", <[Socket]>::is_empty).await;
    });
}

#[test]
fn sockets_lists_ipv4_clients_of_dual_stack_listener() {
    run_in_namespace(|| async {
        let (listener, port) = listen("[::]:0");
        let _pairs = [pair(&listener, "127.0.0.1"), pair(&listener, "::1")];
        assert_eq!(look(port).await.len(), 2);
    });
}

#[test]
fn half_closed_client_is_listed_until_answer_arrives() {
    run_in_namespace(|| async {
        let (port, Pair { mut client, mut server }) = connected();
        client.write_all(b"GET").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        server.read_exact(&mut [0; 3]).unwrap();
        let asked = until(port, "the FIN is no byte", |sockets| only(sockets).info.bytes_received == 3).await;
        assert_eq!(only(&asked).receive_queue, 0, "nor is it unread");
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(length) = server.write(&[0; 8192]) {
            written += length;
        }
        drop(server);
        assert!(only(&look(port).await).send_queue > 0, "closed by the server, not yet arrived");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), written);
        until(port, "arrived in full", <[Socket]>::is_empty).await;
    });
}

#[test]
fn connection_closed_without_request_has_no_received_bytes() {
    run_in_namespace(|| async {
        let (port, Pair { client, server: _unread }) = connected();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        // The FIN has come when the client's side waits for ours.
        let client_port = Port::new(client.local_addr().unwrap().port()).unwrap();
        until(client_port, "the FIN was acknowledged", <[Socket]>::is_empty).await;
        let sockets = look(port).await;
        assert_eq!((only(&sockets).receive_queue, only(&sockets).info.bytes_received), (0, 0));
    });
}

/// Whether a client was reset; any other error fails.
fn is_reset(client: &mut TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let ended = client.read(&mut [0]).unwrap_err().kind();
    client.set_nonblocking(false).unwrap();
    assert!(matches!(ended, std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::WouldBlock), "{ended}");
    ended == std::io::ErrorKind::ConnectionReset
}

#[test]
fn close_resets_exactly_the_named_sockets() {
    run_in_namespace(|| async {
        // IPv4 clients of a dual-stack listener are named in the IPv6 family.
        for (address, clients) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let (listener, port) = listen(address);
            let mut pairs: Vec<Pair> = (0..3).map(|_| pair(&listener, clients)).collect();
            let second = pairs[1].client.local_addr().unwrap().port();
            let named: Vec<Socket> =
                look(port).await.into_iter().filter(|socket| socket.peer.port() == second).collect();
            assert_eq!(named.len(), 1, "{address} {clients}");
            assert_eq!(SockDiag.close(port, &named).await, Ok(1));
            assert_eq!(SockDiag.close(port, &named).await, Ok(0), "closed already");
            let reset: Vec<bool> = pairs.iter_mut().map(|pair| is_reset(&mut pair.client)).collect();
            assert_eq!(reset, [false, true, false], "{address} {clients}");
            for at in [0, 2] {
                pairs[at].ask();
                pairs[at].answer();
            }
        }
    });
}

#[test]
fn close_spares_socket_with_reused_addresses() {
    run_in_namespace(|| async {
        let (port, mut pair) = connected();
        let now = look(port).await;
        let before = Socket { cookie: only(&now).cookie - 1, ..only(&now).clone() };
        assert_eq!(SockDiag.close(port, std::slice::from_ref(&before)).await, Ok(0));
        // The kernel's own refusal too, where a socket goes between our list and our word.
        let netlink = open_netlink().unwrap();
        let listed = list_sockets(&netlink, port).unwrap();
        let stale = listed[0].id.with_cookie(before.cookie);
        assert_eq!(destroy(&netlink, &stale, 99), Ok(false));
        pair.ask();
        pair.answer();
        assert_eq!(destroy(&netlink, &listed[0].id, 100), Ok(true));
        assert!(is_reset(&mut pair.client));
    });
}

#[test]
fn close_spares_later_connection_of_same_ports() {
    run_in_namespace(|| async {
        let (listener, port) = listen("127.0.0.1:0");
        let again = |from: SocketAddr| async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(from).unwrap();
            let to = SocketAddr::new(from.ip(), port.get());
            socket.connect(to).await.unwrap().into_std().unwrap()
        };
        let mut first = again("127.0.0.1:0".parse().unwrap()).await;
        let from = first.local_addr().unwrap();
        let _served = listener.accept().unwrap();
        let before = look(port).await;
        // A reset leaves no time to wait, so the port is free at once.
        assert_eq!(SockDiag.close(port, &before).await, Ok(1));
        assert!(is_reset(&mut first));
        drop(first);
        let mut second = again(from).await;
        let (mut served, _) = listener.accept().unwrap();
        let now = look(port).await;
        assert_eq!((only(&now).peer, only(&before).peer), (from, from));
        assert_eq!(SockDiag.close(port, &before).await, Ok(0));
        assert!(!is_reset(&mut second));
        second.write_all(b"x").unwrap();
        served.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn receive_refuses_datagram_larger_than_buffer() {
    run_in_namespace(|| async {
        let (port, _pair) = connected();
        let netlink = open_netlink().unwrap();
        let request = wire::build_request(AddressFamily::Inet as u8, port, 1);
        netlink::send(&netlink, &request).unwrap();
        let receive = |buffer: &mut [u8]| netlink::receive(&netlink, buffer);
        let cut = collect(receive, &mut [0; 64], 1, wire::parse_socket, choose_socket(port));
        assert_eq!(cut, Err(NetlinkError::Receive(Errno::EMSGSIZE)));
    });
}

/// A message of a dump's end, as the kernel sends it, with these flags.
fn done(flags: u8, sequence: u8) -> Vec<u8> {
    [20, 0, 0, 0, 3, 0, flags, 0, sequence, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec()
}

/// Collects from these datagrams and errors; there must be enough of them.
fn collected(datagrams: Vec<Result<Vec<u8>, Errno>>) -> Result<Option<Vec<ListedSocket>>, NetlinkError> {
    let mut datagrams = datagrams.into_iter();
    let receive = |buffer: &mut [u8]| {
        let datagram = datagrams.next().expect("no more was to be received")?;
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    };
    collect(receive, &mut [0; 64], 7, wire::parse_socket, choose_socket(Port::new(8080).unwrap()))
}

#[test]
fn dump_survives_signals_and_reports_interruption() {
    assert_eq!(collected(vec![Err(Errno::EINTR), Ok(done(0, 6)), Ok(done(0, 7))]), Ok(Some(vec![])));
    assert_eq!(collected(vec![Ok(done(0x10, 6)), Ok(done(0, 7))]), Ok(Some(vec![])), "another dump's");
    assert_eq!(collected(vec![Ok(done(0x10, 7))]), Ok(None), "to be done again");
    assert_eq!(collected(vec![Err(Errno::EAGAIN)]), Err(NetlinkError::TimedOut));
    assert_eq!(collected(vec![Err(Errno::ENOBUFS)]), Err(NetlinkError::Receive(Errno::ENOBUFS)));
}
