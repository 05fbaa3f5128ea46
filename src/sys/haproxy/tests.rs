use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::model::balancer::{AdminState, Verdict};
use crate::model::example;
use crate::sys::exec::Program;
use crate::sys::testing::in_namespace;

pub(super) fn recorded(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/haproxy").join(name);
    std::fs::read_to_string(file).unwrap()
}

fn verdicts(view: &BackendView) -> Vec<(&str, Verdict)> {
    view.servers().iter().map(|server| (server.name.as_str(), server.verdict)).collect()
}

fn expected(main2: Verdict) -> Vec<(&'static str, Verdict)> {
    vec![
        ("main-web1", Verdict::Up),
        ("backup-web1", Verdict::Up),
        ("main-web2", main2),
        ("backup-web2", Verdict::Up),
        ("main-web3", Verdict::Maint),
        ("main-web4", Verdict::NoCheck),
        ("main-web5", Verdict::Maint),
        ("main-web6", Verdict::Drain),
    ]
}

#[test]
fn every_state_of_a_real_haproxy_is_read() {
    for (file, main2) in [
        ("up", Verdict::Up),
        ("going-down", Verdict::GoingDown),
        ("down", Verdict::Down),
        ("going-up", Verdict::GoingUp),
    ] {
        let socket = parse::socket(&recorded(&format!("{file}.txt")), "servers").unwrap();
        assert_eq!(verdicts(&socket), expected(main2), "{file}.txt");
        let page = parse::page(&recorded(&format!("{file}.csv")), "servers").unwrap();
        assert_eq!(verdicts(&page), expected(main2), "{file}.csv");
    }
}

#[test]
fn rare_states_are_read_and_a_socket_row_is_no_server() {
    let expected = [
        ("busy", Verdict::Up),
        ("gone", Verdict::Stopping),
        ("agent-down", Verdict::Down),
        ("agent-drain", Verdict::Drain),
        ("nameless", Verdict::Maint),
        ("moved", Verdict::Up),
        ("spare", Verdict::Up),
    ];
    let socket = parse::socket(&recorded("rare.txt"), "rare").unwrap();
    assert_eq!(verdicts(&socket), expected);
    assert_eq!(verdicts(&parse::page(&recorded("rare.csv"), "rare").unwrap()), expected);
    assert_eq!(socket.servers()[0].work.in_flight(), 1);
    assert_eq!(socket.servers()[0].work.connections_used, Some(1));
    assert_eq!(socket.server("nameless").unwrap().admin, Some(AdminState(0x20)));
    // HAProxy calls it UP all the same.
    assert_eq!(socket.server("spare").unwrap().weight, 0);
}

#[test]
fn a_word_is_read_by_its_prefix_and_only_with_an_end_we_know() {
    for (text, verdict) in [
        ("UP", Verdict::Up),
        ("UP (agent)", Verdict::Up),
        ("UP 1/3", Verdict::GoingDown),
        ("DOWN", Verdict::Down),
        ("DOWN 1/2", Verdict::GoingUp),
        ("DRAIN 1/2", Verdict::Drain),
        ("NOLB 1/2", Verdict::Stopping),
        ("MAINT (via b/s)", Verdict::Maint),
        ("MAINT (via a/b/c)", Verdict::Maint),
        ("no check", Verdict::NoCheck),
        ("no", Verdict::Unknown),
        ("", Verdict::Unknown),
        (" UP", Verdict::Unknown),
        ("UP ", Verdict::Unknown),
        ("UP?", Verdict::Unknown),
        ("UP but failing", Verdict::Unknown),
        ("UP 1/", Verdict::Unknown),
        ("DOWN soon", Verdict::Unknown),
        ("up", Verdict::Unknown),
    ] {
        let strange = recorded("up.txt").replacen(",UP,", &format!(",{text},"), 1);
        assert_eq!(parse::socket(&strange, "servers").unwrap().servers()[0].verdict, verdict, "`{text}`");
    }
}

#[test]
fn details_are_read_by_name() {
    let view = parse::socket(&recorded("down.txt"), "servers").unwrap();
    let server = |name: &str| view.server(name).unwrap().clone();
    assert!(server("backup-web1").backup && !server("main-web1").backup);
    assert_eq!(server("main-web2").check, "L4CON");
    assert_eq!(server("main-web1").check, "L7OK/200");
    assert_eq!(server("main-web1").weight, 100);
    assert_eq!(server("main-web3").admin, Some(AdminState(0x01)));
    assert_eq!(server("main-web5").admin, Some(AdminState(0x02)));
    assert_eq!(server("main-web6").admin, Some(AdminState(0x08)));
    assert_eq!(server("main-web5").status, "MAINT (via servers/main-web3)");
    assert_eq!(server("main-web1").work.connections_used, Some(0));
    assert_eq!(parse::page(&recorded("down.csv"), "servers").unwrap().servers()[0].admin, None);
}

#[test]
fn a_missing_backend_is_named() {
    assert_eq!(parse::socket(&recorded("no-backend.txt"), "nope"), Err(Unreadable::NoBackend));
    assert_eq!(parse::page(&recorded("down.csv"), "nope"), Err(Unreadable::NoBackend));
}

/// HAProxy finds a frontend first where it has the backend's name (seen with 2.6): the states are there, the statistics not.
#[test]
fn a_frontend_of_the_same_name_is_told_by_what_is_missing() {
    let whole = recorded("up.txt");
    let (states, statistics) = whole.split_once("\n\n").unwrap();
    let header = statistics.lines().next().unwrap();
    let namesake = format!("{states}\n\n{header}\n\n");
    assert_eq!(parse::number_of_namesake(&namesake), Ok(Some("3".to_owned())));
    assert_eq!(parse::number_of_namesake(&whole), Ok(None));
    assert_eq!(parse::number_of_namesake(&recorded("no-backend.txt")), Ok(None));
}

#[test]
fn unknown_columns_and_words_are_no_verdict_of_up() {
    let newer = recorded("up.txt").replace("status,weight", "new,weight");
    assert!(matches!(parse::socket(&newer, "servers"), Err(Unreadable::Garbled(_))));
    let strange = recorded("up.txt").replace(",UP,", ",UPSIDE,");
    let view = parse::socket(&strange, "servers").unwrap();
    assert_eq!(view.server("main-web1").unwrap().verdict, Verdict::Unknown);
    let old = recorded("up.txt").replace("used_conn_cur", "something_else");
    let view = parse::socket(&old, "servers").unwrap();
    assert_eq!(view.servers()[0].work.connections_used, None);
}

#[test]
fn every_cut_of_an_answer_is_an_error() {
    for (file, backend) in [
        ("up", "servers"),
        ("down", "servers"),
        ("going-down", "servers"),
        ("going-up", "servers"),
        ("rare", "rare"),
    ] {
        let whole = recorded(&format!("{file}.txt"));
        assert!(parse::socket(&whole, backend).is_ok());
        for end in 0..whole.len() {
            let cut = parse::socket(&whole[..end], backend);
            assert!(matches!(cut, Err(Unreadable::Truncated { .. })), "{file}.txt cut at {end}: {cut:?}");
        }
        let page = recorded(&format!("{file}.csv"));
        let all = parse::page(&page, backend).unwrap();
        // The rows after the backend's own are other proxies': without them nothing is missing.
        for end in 0..page.len() {
            if let Ok(view) = parse::page(&page[..end], backend) {
                assert_eq!(view, all, "{file}.csv cut at {end} of {}", page.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_answer_is_a_view_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = (parse::socket(&text, "servers"), parse::page(&text, "servers"));
    }

    #[test]
    fn a_changed_byte_is_a_view_or_an_error(at in 0usize..4000, byte in any::<u8>()) {
        let mut bytes = recorded("up.txt").into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = parse::socket(&String::from_utf8_lossy(&bytes), "servers");
    }
}

fn spec(access: Access) -> BalancerSpec {
    example::balancer("lb1", Some(access))
}

async fn read(access: Access) -> Result<BackendView, BalancerError> {
    let read = connect(&spec(access), Duration::from_secs(5)).unwrap().read().await;
    read.map(|view| (*view).clone())
}

fn tcp(port: u16) -> Access {
    Access::Tcp { host: "127.0.0.1".into(), port }
}

fn http(port: u16) -> Access {
    Access::Http(format!("http://ops:secret@127.0.0.1:{port}/stats"))
}

/// A server that answers everything with these bytes and closes.
async fn answering(bytes: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            // Beside one another: a client that asks nothing holds up nobody.
            tokio::spawn(async move {
                let mut command = [0; 1024];
                let _ = stream.read(&mut command).await;
                let _ = stream.write_all(&bytes).await;
            });
        }
    });
    port
}

#[test]
fn bad_balancers_are_told_apart() {
    in_namespace(|| async {
        let garbage = answering(b"SSH-2.0-OpenSSH_9.2\r\n\n\nhello\n\n".to_vec()).await;
        assert!(matches!(read(tcp(garbage)).await, Err(BalancerError::Garbled { .. })));
        let whole = recorded("up.txt");
        let half = answering(whole.as_bytes()[..whole.len() / 2].to_vec()).await;
        assert!(matches!(read(tcp(half)).await, Err(BalancerError::Truncated { .. })));
        let nothing = answering(vec![]).await;
        assert!(matches!(read(tcp(nothing)).await, Err(BalancerError::Truncated { .. })));
        assert!(matches!(read(tcp(1)).await, Err(BalancerError::Unreachable { .. })));
        let no_socket = Access::Unix(PathBuf::from("/nonexistent/s.sock"));
        assert!(matches!(read(no_socket).await, Err(BalancerError::Unreachable { .. })));
        for (status, head) in
            [(401, "401 Unauthorized"), (503, "503 Service Unavailable"), (302, "302 Found")]
        {
            let text = format!("HTTP/1.1 {head}\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n");
            let error = read(http(answering(text.into_bytes()).await)).await.unwrap_err();
            assert!(
                matches!(error, BalancerError::Refused { status: found, .. } if found == status),
                "{error}"
            );
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let huge = vec![b'1'; usize::try_from(LARGEST).unwrap() + 1];
        let why = "it is longer than 8 MiB";
        let error = read(tcp(answering(huge.clone()).await)).await.unwrap_err();
        assert!(matches!(&error, BalancerError::Garbled { why: found, .. } if found == why), "{error}");
        let huge = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &huge].concat();
        let error = read(http(answering(huge).await)).await.unwrap_err();
        assert!(matches!(&error, BalancerError::Garbled { why: found, .. } if found == why), "{error}");
        let form = b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n<html>Please log in...".to_vec();
        let error = read(http(answering(form).await)).await.unwrap_err();
        assert!(matches!(error, BalancerError::Garbled { .. }), "{error}");
        let cut = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n# pxname".to_vec()).await;
        assert!(matches!(read(http(cut)).await, Err(BalancerError::Truncated { .. })));
        let refused = read(http(1)).await.unwrap_err();
        assert!(matches!(&refused, BalancerError::Unreachable { .. }), "{refused}");
        assert!(!refused.to_string().contains("secret"), "{refused}");
    });
}

#[test]
fn a_silent_balancer_is_bounded() {
    in_namespace(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for access in
            [tcp(listener.local_addr().unwrap().port()), http(listener.local_addr().unwrap().port())]
        {
            let bound = Duration::from_millis(100);
            let error = connect(&spec(access), bound).unwrap().read().await.unwrap_err();
            assert!(matches!(error, BalancerError::Silent { .. }), "{error}");
        }
    });
}

#[test]
fn a_unix_socket_is_asked_in_one_line() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut command = vec![0; 1024];
            let length = stream.read(&mut command).await.unwrap();
            stream.write_all(recorded("up.txt").as_bytes()).await.unwrap();
            String::from_utf8(command[..length].to_vec()).unwrap()
        });
        assert_eq!(read(Access::Unix(path)).await.unwrap().servers().len(), 8);
        assert_eq!(asked.await.unwrap(), "show servers state servers; show stat servers 4 -1\n");
    });
}

/// Ended when the test is, also by a failed assertion.
pub(super) struct Running(tokio::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.start_kill();
    }
}

pub(super) fn haproxy(dir: &Path, config: &str) -> Running {
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    Running(Program::new("haproxy").arg("-db").arg("-f").arg(&file).start(log).unwrap())
}

/// Reads until the answer is as wanted.
async fn read_until(access: &Access, wanted: impl Fn(&Result<BackendView, BalancerError>) -> bool) {
    read_spec_until(&spec(access.clone()), wanted).await;
}

pub(super) async fn read_spec_until(
    spec: &BalancerSpec,
    wanted: impl Fn(&Result<BackendView, BalancerError>) -> bool,
) {
    let balancer = connect(spec, Duration::from_secs(5)).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let view = balancer.read().await.map(|view| (*view).clone());
        if wanted(&view) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{spec:?}: {view:?}");
        tokio::task::yield_now().await;
    }
}

/// The same servers through all three ways into one real HAProxy, the page by TLS too.
#[test]
fn a_real_haproxy_is_read_every_way() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        let text = format!(
            "global\n stats socket {} level user\n stats socket ipv4@127.0.0.1:9999 level user\n\
             defaults\n mode http\n timeout connect 1s\n timeout client 5s\n timeout server 5s\n\
             listen stats\n bind 127.0.0.1:8404\n bind 127.0.0.1:8443 ssl crt {}\n\
             stats enable\n stats uri /stats\n stats auth ops:secret\n\
             backend servers\n server main-web1 127.0.0.1:8080 check port 8888 inter 50ms\n\
             server backup-web1 127.0.0.1:80 backup\n",
            socket.display(),
            self_signed(dir.path()).await.display()
        );
        let _haproxy = haproxy(dir.path(), &text);
        let down = |view: &Result<BackendView, BalancerError>| {
            let Ok(view) = view else { return false };
            view.servers()[0].verdict == Verdict::Down && view.servers()[1].verdict == Verdict::NoCheck
        };
        for access in [Access::Unix(socket), tcp(9999), http(8404)] {
            read_until(&access, down).await;
        }
        let wrong_password = Access::Http("http://ops:guess@127.0.0.1:8404/stats".into());
        read_until(&wrong_password, |view| matches!(view, Err(BalancerError::Refused { status: 401, .. })))
            .await;
        // Nobody vouches for this certificate: an error that says so, and no panic for want of a TLS provider.
        let unknown = Access::Http("https://ops:secret@127.0.0.1:8443/stats".into());
        read_until(&unknown, |view| {
            let Err(BalancerError::Unreachable { address, why }) = view else { return false };
            address == "https://127.0.0.1:8443/stats" && why.contains("certificate")
        })
        .await;
    });
}

/// Certificate and key of 127.0.0.1 in one file, as HAProxy wants them.
async fn self_signed(dir: &Path) -> PathBuf {
    let (key, cert, both) = (dir.join("key"), dir.join("cert"), dir.join("both.pem"));
    let openssl =
        Program::new("openssl").args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    let openssl =
        openssl.args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"]);
    let made = openssl.arg(&key).arg("-out").arg(&cert).run(b"", Duration::from_mins(1)).await.unwrap();
    assert_eq!(made.status, 0, "{}", made.stderr);
    std::fs::write(&both, [std::fs::read(cert).unwrap(), std::fs::read(key).unwrap()].concat()).unwrap();
    both
}

/// One page after another, each over a connection of its own: a kept one would outlive a reload of HAProxy and ask the
/// old process.
#[test]
fn each_read_of_the_page_opens_a_connection() {
    in_namespace(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer =
            connect(&spec(http(listener.local_addr().unwrap().port())), Duration::from_secs(5)).unwrap();
        let page = recorded("up.csv");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        let serve = async {
            let mut kept = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /stats;csv HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
                kept.push(stream);
            }
        };
        let ask = async {
            for _ in 0..2 {
                assert_eq!(balancer.read().await.unwrap().servers().len(), 8);
            }
        };
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(serve, ask) }).await.unwrap();
    });
}

/// What `plan::haproxy_lint` says of HAProxy, asked of HAProxy.
#[test]
fn the_traps_of_the_lint_are_real() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        // A redirect, where only 200 is healthy.
        let vhost =
            answering(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()).await;
        let socket = dir.path().join("s.sock");
        let server = format!("server s 127.0.0.1:{vhost} check inter 50ms fall 1");
        let pair = format!("server dead 127.0.0.1:1 cookie dead\n server live 127.0.0.1:{vhost} cookie live");
        let text = format!(
            "global\n stats socket {} level user\n\
             defaults\n mode http\n timeout connect 1s\n timeout client 20s\n timeout server 20s\n retries 1\n option httpchk\n \
             http-check send meth GET uri /health ver HTTP/1.1 hdr Host shop.example\n http-check expect status 200\n\
             backend all-inherited\n {server}\n\
             backend own-expect\n http-check expect status 302\n {server}\n\
             backend own-option\n option httpchk\n {server}\n\
             backend connects\n option httpchk\n http-check connect port {vhost}\n http-check send uri /\n {server} port 1\n\
             listen redispatch\n bind 127.0.0.1:7001\n cookie C insert\n option redispatch 1\n {pair}\n\
             listen stays\n bind 127.0.0.1:7002\n cookie C insert\n option redispatch 0\n {pair}\n\
             listen no-retries\n bind 127.0.0.1:7003\n cookie C insert\n option redispatch 1\n retries 0\n {pair}\n",
            socket.display()
        );
        let _haproxy = haproxy(dir.path(), &text);
        for (backend, verdict, check) in [
            ("all-inherited", Verdict::Down, "L7STS/302"),
            ("own-expect", Verdict::Down, "L7TOUT"),
            ("own-option", Verdict::Up, "L7OK/302"),
            ("connects", Verdict::Up, "L7OK/302"),
        ] {
            let spec = BalancerSpec { backend: backend.into(), ..spec(Access::Unix(socket.clone())) };
            read_spec_until(&spec, |view| {
                let Ok(view) = view else { return false };
                view.servers()[0].verdict == verdict && view.servers()[0].check == check
            })
            .await;
        }
        for (port, status) in [(7001, "302"), (7002, "503"), (7003, "503")] {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: C=dead\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer.split(' ').nth(1), Some(status), "{port}: {answer}");
        }
    });
}
