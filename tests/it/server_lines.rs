//! A real HAProxy with a second backend on the main vhost's port, and one whose old process still has a websocket: neither may
//! be called drained (issue 11, A1 and A6).

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::testing::run_in_namespace;

/// Answers everything with 200, and switches protocols for `/ws`.
pub async fn serve(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut head).await {
                    let text = String::from_utf8_lossy(&head[..length]).into_owned();
                    let answer: &[u8] = if text.contains(" /ws ") {
                        b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
                    } else {
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                    };
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                    if text.contains(" /ws ") {
                        // A greeting some kernel ticks later: then the kernel shows that the server sent last.
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        let _ = stream.write_all(b"\x81\x00").await;
                    }
                }
            });
        }
    });
}

/// A web host with its own HAProxy: users come by port 8000, websockets by port 8001 and a backend of their own.
struct Host {
    dir: tempfile::TempDir,
    haproxy: Child,
}

#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn command(program: &str) -> Command {
    Command::new(program)
}

impl Host {
    async fn start(websocket_line: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let socket = path("s.sock");
        let socket = socket.display();
        std::fs::write(
            path("haproxy.cfg"),
            format!(
                "global\n stats socket {socket} level user expose-fd listeners\n stats socket ipv4@127.0.0.1:9999 level user\n \
                 hard-stop-after 60s\n\
                 defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n timeout tunnel 60s\n\
                 frontend users\n bind 127.0.0.1:8000\n default_backend servers\n\
                 frontend sockets\n bind 127.0.0.1:8001\n default_backend websockets\n\
                 backend servers\n option httpchk\n server main-web1 127.0.0.1:8080 check port 8888 inter 100ms\n \
                 server backup-web1 127.0.0.1:80 check inter 100ms backup\n\
                 backend websockets\n option httpchk\n {websocket_line}\n"
            ),
        )
        .unwrap();
        serve(8080).await;
        serve(80).await;
        let log = || std::fs::File::create(path("haproxy.log")).unwrap();
        let mut haproxy = command("haproxy");
        haproxy.args(["-W", "-db", "-f"]).arg(path("haproxy.cfg")).stdout(log()).stderr(log());
        let socket = socket.to_string();
        let host = Self { haproxy: haproxy.stdin(Stdio::null()).spawn().unwrap(), dir };
        host.configure_balancers(&format!(
            "{{name: lb1, haproxy: {socket}, backend: servers, on_host: true, check: {{inter: 100ms}}}}"
        ));
        host.until("HAProxy listens", async || TcpStream::connect("127.0.0.1:8001").await.is_ok()).await;
        host.succeeds(&["enable-forward"]).await;
        // The switch waits for the lines of its own backend only.
        let takes_users = async || {
            let text = host.ask_haproxy("show stat websockets 4 -1").await.unwrap_or_default();
            text.contains(",UP,") || text.contains(",no check,")
        };
        host.until("the line of the websockets is UP", takes_users).await;
        host
    }

    fn configure_balancers(&self, balancers: &str) {
        let text = format!(
            "service: shop\nhosts: {{web1: {{address: 127.0.0.1}}}}\nroll: {{min_up: 0, drain_timeout: 2s}}\n\
             load_balancers: [{balancers}]\n"
        );
        std::fs::write(self.dir.path().join("switchman.yaml"), text).unwrap();
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds().await {
            let log = std::fs::read_to_string(self.dir.path().join("haproxy.log")).unwrap();
            assert!(Instant::now() < deadline, "{what}: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn run(&self, args: &[&str]) -> Output {
        let path = |name: &str| self.dir.path().join(name);
        let mut command = command(env!("CARGO_BIN_EXE_switchman"));
        command.arg("--config").arg(path("switchman.yaml")).arg("--state-dir").arg(path("state"));
        let (verb, rest) = args.split_first().unwrap();
        command
            .args(["--local", verb, "--host", "web1"])
            .args(rest)
            .env("XTABLES_LOCKFILE", path("xtables.lock"));
        // The namespace is the thread's: the program is started from here, and awaited without blocking the vhosts.
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
    }

    async fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Checks that a command fails, and returns its error.
    async fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    async fn ask_haproxy(&self, command: &str) -> Option<String> {
        let mut stream = tokio::net::UnixStream::connect(self.dir.path().join("s.sock")).await.ok()?;
        stream.write_all(format!("{command}\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    /// Starts a new worker process; the old one keeps its connections.
    async fn reload(&self) {
        let pid = async || {
            let text = self.ask_haproxy("show info").await?;
            Some(text.lines().find(|line| line.starts_with("Pid:"))?.to_owned())
        };
        let before = pid().await;
        kill(Pid::from_raw(i32::try_from(self.haproxy.id()).unwrap()), Signal::SIGUSR2).unwrap();
        self.until("a new worker", async || pid().await.is_some_and(|now| Some(now) != before)).await;
        // After a start a server is `UP 1/3` until its first check.
        let is_checked = async || {
            let text = self.ask_haproxy("show stat servers 4 -1").await.unwrap_or_default();
            text.contains(",UP,") && !text.contains(",UP 1/3,")
        };
        self.until("every server is checked", is_checked).await;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.haproxy.id()).unwrap()), Signal::SIGTERM);
        let _ = self.haproxy.wait();
    }
}

async fn open_websocket(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 101"));
    stream
}

#[test]
fn line_of_another_backend_that_ignores_the_forward_is_refused() {
    for line in ["server web1 127.0.0.1:8080", "server web1 127.0.0.1:8080 check inter 100ms"] {
        run_in_namespace(async || {
            let host = Host::start(line).await;
            for args in [&["disable-forward"][..], &["roll", "--", "true"]] {
                let args: Vec<&str> = args.to_vec();
                let error = host.fails(&args).await;
                assert!(
                    error
                        .contains("`lb1` sends users to the main vhost by the server line `websockets/web1`"),
                    "{error}"
                );
                assert!(error.contains("\n next: add `check port PORT`"), "{error}");
            }
            assert!(host.succeeds(&["status"]).await.contains("forward   on"));
            host.succeeds(&["disable-forward", "--force"]).await;
        });
    }
}

#[test]
fn drain_waits_for_other_backends_and_names_them() {
    for line in [
        "server web1 127.0.0.1:8080 check port 8888 inter 100ms",
        "server web1 127.0.0.1:8080 track servers/main-web1",
    ] {
        run_in_namespace(async || {
            let host = Host::start(line).await;
            let websocket = open_websocket(8001).await;
            let error = host.fails(&["disable-forward", "--drain"]).await;
            assert!(
                error.contains("1 in flight after 2s") && error.contains("lb1 websockets/web1 (1)"),
                "{error}"
            );
            assert!(host.succeeds(&["status"]).await.contains("forward   on"));
            drop(websocket);
            host.succeeds(&["disable-forward", "--drain"]).await;
        });
    }
}

/// Source: haproxy/haproxy#228, the old process keeps its connections.
#[test]
fn websocket_of_an_old_haproxy_process_is_in_flight() {
    run_in_namespace(async || {
        let host = Host::start("server web1 127.0.0.1:8080 track servers/main-web1").await;
        let websocket = open_websocket(8000).await;
        host.reload().await;
        let error = host.fails(&["disable-forward", "--drain"]).await;
        assert!(error.contains("1 connection that HAProxy does not account for"), "{error}");
        assert!(error.contains("`127.0.0.1` has 1 connection, 0 busy, last byte"), "{error}");
        drop(websocket);
        let idle = TcpStream::connect("127.0.0.1:8000").await.unwrap();
        send_request(idle).await;
        let drained = host.succeeds(&["disable-forward", "--drain"]).await;
        assert!(drained.contains("drained after"), "{drained}");
    });
}

/// A second balancer without `haproxy:` switched the rule above off, and no output said so.
/// Source: haproxy/haproxy#228.
#[test]
fn drain_beside_an_unread_balancer_says_what_it_does_not_know() {
    run_in_namespace(async || {
        let host = Host::start("server web1 127.0.0.1:8080 track servers/main-web1").await;
        host.configure_balancers(
            "{name: lb1, haproxy: \"tcp://127.0.0.1:9999\", backend: servers, on_host: true, check: {inter: 100ms}}, \
             {name: lb2, backend: servers, check: {inter: 100ms}}",
        );
        let websocket = open_websocket(8000).await;
        host.reload().await;
        let error = host.fails(&["disable-forward", "--drain"]).await;
        assert!(error.contains("1 connection that HAProxy does not account for"), "{error}");
        assert!(error.contains("the connections of `lb2` are not known"), "{error}");
        drop(websocket);
        let drained = host.succeeds(&["disable-forward", "--drain"]).await;
        assert!(drained.contains("(the connections of `lb2` are not known"), "{drained}");
    });
}

/// A client that does not come by HAProxy, and keeps its connection.
#[test]
fn kept_connection_of_another_client_is_named() {
    run_in_namespace(async || {
        let host = Host::start("server web1 127.0.0.1:8080 track servers/main-web1").await;
        let mut monitor = TcpStream::connect("127.0.0.1:8080").await.unwrap();
        monitor.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(monitor.read(&mut [0; 1024]).await.unwrap() > 0);
        let error = host.fails(&["disable-forward", "--drain"]).await;
        assert!(error.contains("`127.0.0.1` has 1 connection, 0 busy, last byte"), "{error}");
        drop(monitor);
        host.succeeds(&["disable-forward", "--drain"]).await;
    });
}

/// Leaves a connection behind that HAProxy keeps for reuse.
async fn send_request(mut stream: TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 1024];
    assert!(stream.read(&mut answer).await.unwrap() > 0);
}
