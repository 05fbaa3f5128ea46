//! Classifies each kind of connection by the rule of `plan::drain`, from the data of the real kernel. The test
//! plays client and server; `drain` does the same through a real HAProxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use switchman::model::ports::Port;
use switchman::model::socket::{Socket, SocketActivity, SocketCount};
use switchman::plan::drain::{classify_socket, count_activities};
use switchman::sys::sock_diag::SockDiag;
use switchman::world::sockets::SocketTable;

use crate::testing::run_in_namespace;

const BOUND: Duration = Duration::from_secs(10);

struct Server {
    listener: TcpListener,
    port: Port,
}

/// Both ends of one connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Server {
    fn listen(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        Self { listener, port }
    }

    fn pair(&self, address: &str) -> Pair {
        let client = TcpStream::connect(SocketAddr::new(address.parse().unwrap(), self.port.get())).unwrap();
        let (server, _) = self.listener.accept().unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        Pair { client, server }
    }

    async fn look(&self) -> Vec<Socket> {
        SockDiag.list_established(self.port).await.unwrap()
    }

    /// Looks at the only connection until it is taken for this, with the look before or without; bounded.
    async fn until(&self, wanted: SocketActivity, before: Option<&Socket>) -> Socket {
        let deadline = Instant::now() + BOUND;
        loop {
            let sockets = self.look().await;
            let [socket] = &sockets[..] else { panic!("one connection, not {sockets:?}") };
            if classify_socket(socket, before) == wanted {
                return socket.clone();
            }
            assert!(Instant::now() < deadline, "{wanted:?}: {socket:?}, before: {before:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Looks, each with the one before, until the counts are these; bounded.
    async fn until_count(&self, wanted: SocketCount) {
        let deadline = Instant::now() + BOUND;
        let mut before = self.look().await;
        loop {
            let now = self.look().await;
            let (counted, by) = count_activities(&now, &before);
            if counted == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{wanted:?}, not {counted:?}: {by:?}");
            before = now;
            tokio::task::yield_now().await;
        }
    }
}

impl Pair {
    fn ask(&mut self, length: usize) {
        self.client.write_all(&vec![b'x'; length]).unwrap();
        self.server.read_exact(&mut vec![0; length]).unwrap();
    }

    fn tell(&mut self, length: usize) {
        self.server.write_all(&vec![b'x'; length]).unwrap();
        self.client.read_exact(&mut vec![0; length]).unwrap();
    }
}

/// Waits until the ticks of all that moved are over, so that the kernel can distinguish later bytes.
async fn later_tick(server: &Server) {
    let over = Duration::from_millis(12);
    let deadline = Instant::now() + BOUND;
    while let info = server.look().await[0].info
        && info.last_data_sent.min(info.last_data_received) < over
    {
        assert!(Instant::now() < deadline, "time does not pass");
        tokio::task::yield_now().await;
    }
}

#[test]
fn connection_is_idle_then_busy_then_idle() {
    run_in_namespace(|| async {
        let server = Server::listen("127.0.0.1:0");
        let mut pair = server.pair("127.0.0.1");
        server.until(SocketActivity::Idle, None).await;
        pair.ask(18);
        server.until(SocketActivity::Request, None).await;
        pair.tell(18);
        // The first answer of a connection is acknowledged at once, often in its own tick: the second settles a tie.
        later_tick(&server).await;
        pair.ask(18);
        let asked = server.until(SocketActivity::Request, None).await;
        assert_eq!(
            classify_socket(&asked, Some(&asked)),
            SocketActivity::Request,
            "nothing moves while it is worked on"
        );
        later_tick(&server).await;
        pair.tell(18);
        let answered = server.until(SocketActivity::Idle, None).await;
        server.until(SocketActivity::Idle, Some(&answered)).await;
    });
}

#[test]
fn slow_upload_is_distinguished_by_two_samples() {
    run_in_namespace(|| async {
        let server = Server::listen("127.0.0.1:0");
        let mut pair = server.pair("127.0.0.1");
        pair.ask(100);
        let mut before = server.until(SocketActivity::Request, None).await;
        for _ in 0..20 {
            pair.ask(1000);
            before = server.until(SocketActivity::Upload, Some(&before)).await;
        }
        server.until(SocketActivity::Request, Some(&before)).await;
    });
}

#[test]
fn unread_request_bytes_count_as_work() {
    run_in_namespace(|| async {
        let server = Server::listen("127.0.0.1:0");
        let mut pair = server.pair("127.0.0.1");
        pair.client.write_all(b"unread").unwrap();
        let unread = server.until(SocketActivity::Request, None).await;
        server.until(SocketActivity::Request, Some(&unread)).await;
        assert_eq!(unread.receive_queue, 6);
        pair.server.read_exact(&mut [0; 6]).unwrap();
    });
}

#[test]
fn unread_answer_counts_as_work_until_read() {
    run_in_namespace(|| async {
        let server = Server::listen("127.0.0.1:0");
        let mut pair = server.pair("127.0.0.1");
        pair.ask(18);
        later_tick(&server).await;
        pair.server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(length) = pair.server.write(&[0; 8192]) {
            written += length;
        }
        let stuck = server.until(SocketActivity::Answer, None).await;
        assert!(stuck.send_queue > 0);
        server.until(SocketActivity::Answer, Some(&stuck)).await;
        pair.client.read_exact(&mut vec![0; written]).unwrap();
        server.until(SocketActivity::Idle, None).await;
    });
}

#[test]
fn busy_websocket_counts_as_work_and_quiet_one_as_idle() {
    run_in_namespace(|| async {
        let server = Server::listen("127.0.0.1:0");
        let mut pair = server.pair("127.0.0.1");
        pair.ask(200);
        pair.tell(150);
        let mut before = server.look().await.remove(0);
        for _ in 0..10 {
            // Both orders of messages: the server answers the client, then pushes.
            pair.ask(20);
            pair.tell(20);
            before = server.until(SocketActivity::Exchange, Some(&before)).await;
            pair.tell(20);
            before = server.until(SocketActivity::Answer, Some(&before)).await;
        }
        // Quiet after a message of the server: a limit of the method. HAProxy's `scur` shows it, see `drain`.
        later_tick(&server).await;
        pair.tell(20);
        server.until(SocketActivity::Answer, Some(&before)).await;
        let before = server.until(SocketActivity::Idle, None).await;
        server.until(SocketActivity::Idle, Some(&before)).await;
    });
}

#[test]
fn half_closed_client_counts_until_answered() {
    run_in_namespace(|| async {
        let server = Server::listen("127.0.0.1:0");
        let asked = {
            let mut pair = server.pair("127.0.0.1");
            pair.ask(18);
            pair.client.shutdown(std::net::Shutdown::Write).unwrap();
            server.until(SocketActivity::Request, None).await;
            pair
        };
        drop(asked);
        let deadline = Instant::now() + BOUND;
        while !server.look().await.is_empty() {
            assert!(Instant::now() < deadline, "closed by both");
        }
        let unused = server.pair("127.0.0.1");
        unused.client.shutdown(std::net::Shutdown::Write).unwrap();
        server.until(SocketActivity::Idle, None).await;
    });
}

#[test]
fn hundreds_of_connections_are_counted_exactly_over_ipv4_and_ipv6() {
    run_in_namespace(|| async {
        let server = Server::listen("[::]:0");
        let other = Server::listen("127.0.0.1:0");
        let mut pairs: Vec<Pair> =
            (0..400).map(|number| server.pair(["127.0.0.1", "::1"][number % 2])).collect();
        let mut elsewhere = other.pair("127.0.0.1");
        elsewhere.ask(18);
        server.until_count(SocketCount { idle: 400, ..SocketCount::default() }).await;
        for pair in &mut pairs[..70] {
            pair.ask(18);
        }
        server.until_count(SocketCount { busy: 70, idle: 330, ambiguous: 0, silent: 0 }).await;
        pairs.truncate(30);
        server.until_count(SocketCount { busy: 30, idle: 0, ambiguous: 0, silent: 0 }).await;
        other.until(SocketActivity::Request, None).await;
    });
}
