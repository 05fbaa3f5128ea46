use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::model::balancer::{AdminState, ServerState};
use crate::model::example;
use crate::sys::exec::Program;
use crate::sys::testing::run_in_namespace;

pub(super) fn recorded(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/haproxy").join(name);
    std::fs::read_to_string(file).unwrap()
}

fn verdicts(view: &BackendView) -> Vec<(&str, ServerState)> {
    view.servers().iter().map(|server| (server.name.as_str(), server.state)).collect()
}

fn expected(main2: ServerState) -> Vec<(&'static str, ServerState)> {
    vec![
        ("main-web1", ServerState::Up),
        ("backup-web1", ServerState::Up),
        ("main-web2", main2),
        ("backup-web2", ServerState::Up),
        ("main-web3", ServerState::Maint),
        ("main-web4", ServerState::NoCheck),
        ("main-web5", ServerState::Maint),
        ("main-web6", ServerState::Drain),
    ]
}

#[test]
fn parser_reads_every_state_of_real_haproxy() {
    for (file, main2) in [
        ("up", ServerState::Up),
        ("going-down", ServerState::GoingDown),
        ("down", ServerState::Down),
        ("going-up", ServerState::GoingUp),
    ] {
        let socket = parse::parse_socket_answer(&recorded(&format!("{file}.txt")), "servers").unwrap();
        assert_eq!(verdicts(&socket), expected(main2), "{file}.txt");
        let page = parse::parse_page(&recorded(&format!("{file}.csv")), "servers").unwrap();
        assert_eq!(verdicts(&page), expected(main2), "{file}.csv");
    }
}

#[test]
fn parser_reads_rare_states_and_skips_socket_rows() {
    let expected = [
        ("busy", ServerState::Up),
        ("gone", ServerState::Stopping),
        ("agent-down", ServerState::Down),
        ("agent-drain", ServerState::Drain),
        ("nameless", ServerState::Maint),
        ("moved", ServerState::Up),
        ("spare", ServerState::Up),
    ];
    let socket = parse::parse_socket_answer(&recorded("rare.txt"), "rare").unwrap();
    assert_eq!(verdicts(&socket), expected);
    assert_eq!(verdicts(&parse::parse_page(&recorded("rare.csv"), "rare").unwrap()), expected);
    assert_eq!(socket.servers()[0].work.in_flight(), 1);
    assert_eq!(socket.servers()[0].work.connections_used, Some(1));
    assert_eq!(socket.find_server("nameless").unwrap().admin_state, Some(AdminState(0x20)));
    assert_eq!(socket.find_server("nameless").unwrap().address, None);
    // HAProxy calls it UP all the same.
    assert_eq!(socket.find_server("spare").unwrap().weight, 0);
}

#[test]
fn verdict_requires_known_suffix() {
    for (text, verdict) in [
        ("UP", ServerState::Up),
        ("UP (agent)", ServerState::Up),
        ("UP 1/3", ServerState::GoingDown),
        ("DOWN", ServerState::Down),
        ("DOWN 1/2", ServerState::GoingUp),
        ("DRAIN 1/2", ServerState::Drain),
        ("NOLB 1/2", ServerState::Stopping),
        ("MAINT (via b/s)", ServerState::Maint),
        ("MAINT (via a/b/c)", ServerState::Maint),
        ("no check", ServerState::NoCheck),
        ("no", ServerState::Unknown),
        ("", ServerState::Unknown),
        (" UP", ServerState::Unknown),
        ("UP ", ServerState::Unknown),
        ("UP?", ServerState::Unknown),
        ("UP but failing", ServerState::Unknown),
        ("UP 1/", ServerState::Unknown),
        ("DOWN soon", ServerState::Unknown),
        ("up", ServerState::Unknown),
    ] {
        let strange = recorded("up.txt").replacen(",UP,", &format!(",{text},"), 1);
        assert_eq!(
            parse::parse_socket_answer(&strange, "servers").unwrap().servers()[0].state,
            verdict,
            "`{text}`"
        );
    }
}

#[test]
fn parser_reads_columns_by_name() {
    let view = parse::parse_socket_answer(&recorded("down.txt"), "servers").unwrap();
    let server = |name: &str| view.find_server(name).unwrap().clone();
    assert!(server("backup-web1").backup && !server("main-web1").backup);
    assert_eq!(server("main-web2").last_check, "L4CON");
    assert_eq!(server("main-web1").last_check, "L7OK/200");
    assert_eq!(server("main-web1").weight, 100);
    assert_eq!(server("main-web1").address, "127.0.0.9:18080".parse().ok());
    // A page has the column without a value, unless it has `stats show-legends`.
    let page = parse::parse_page(&recorded("down.csv"), "servers").unwrap();
    assert_eq!(page.find_server("main-web1").unwrap().address, None);
    assert_eq!(server("main-web3").admin_state, Some(AdminState(0x01)));
    assert_eq!(server("main-web5").admin_state, Some(AdminState(0x02)));
    assert_eq!(server("main-web6").admin_state, Some(AdminState(0x08)));
    assert_eq!(server("main-web5").status, "MAINT (via servers/main-web3)");
    assert_eq!(server("main-web1").work.connections_used, Some(0));
    assert_eq!(parse::parse_page(&recorded("down.csv"), "servers").unwrap().servers()[0].admin_state, None);
}

#[test]
fn parser_reports_missing_backend() {
    assert_eq!(parse::parse_socket_answer(&recorded("no-backend.txt"), "nope"), Err(ReadError::NoBackend));
    assert_eq!(parse::parse_page(&recorded("down.csv"), "nope"), Err(ReadError::NoBackend));
}

/// HAProxy finds a frontend first where it has the backend's name (seen with 2.6): the states are there, the statistics not.
#[test]
fn parser_detects_frontend_with_backend_name() {
    let whole = recorded("up.txt");
    let (states, statistics) = whole.split_once("\n\n").unwrap();
    let header = statistics.lines().next().unwrap();
    let namesake = format!("{states}\n\n{header}\n\n");
    assert_eq!(parse::find_backend_number(&namesake), Ok(Some("3".to_owned())));
    assert_eq!(parse::find_backend_number(&whole), Ok(None));
    assert_eq!(parse::find_backend_number(&recorded("no-backend.txt")), Ok(None));
}

/// A row of another service's backend, cut or with a line break in a quoted field, hides none of ours.
#[test]
fn broken_rows_of_other_backends_are_skipped() {
    let page = recorded("up.csv");
    let mut lines: Vec<&str> = page.lines().collect();
    lines.insert(1, "other,web9,broken");
    let broken = lines.join("\n") + "\n";
    assert_eq!(parse::parse_page(&broken, "servers"), parse::parse_page(&page, "servers"));
    let ours = lines.iter().position(|line| line.starts_with("servers,main-web1,")).unwrap();
    lines[ours] = "servers,main-web1,broken";
    let broken = lines.join("\n") + "\n";
    assert!(matches!(parse::parse_page(&broken, "servers"), Err(ReadError::Garbled(_))));
    let split = page.replacen('\n', "\nother,\"web9\nof another\",x\n", 1);
    assert_eq!(parse::parse_page(&split, "servers"), parse::parse_page(&page, "servers"));
}

#[test]
fn statistics_address_becomes_csv_address() {
    for (url, csv) in [
        ("http://lb:8404/stats", "http://lb:8404/stats;csv"),
        ("http://lb:8404/stats;csv", "http://lb:8404/stats;csv"),
        ("http://lb:8404/haproxy?stats", "http://lb:8404/haproxy?stats;csv"),
        ("http://lb:8404/haproxy?stats;csv", "http://lb:8404/haproxy?stats;csv"),
        ("http://u:p@lb:8404/?stats", "http://u:p@lb:8404/?stats;csv"),
        ("http://lb:8404/", "http://lb:8404/;csv"),
    ] {
        assert_eq!(http::to_csv_url(url).unwrap().as_str(), csv);
    }
}

/// A second backend with a line without a check, one that checks another port, one that tracks, and one without an address.
#[test]
fn lines_of_all_backends_have_addresses_and_check_ports() {
    let states = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_check_state srv_port srv_check_port\n\
                  3 servers 1 main-web1 10.0.0.11 2 0 6 8080 8888\n\
                  4 ws 1 web1 10.0.0.11 2 0 0 8080 0\n\
                  4 ws 2 own 10.0.0.11 2 0 6 8080 0\n\
                  5 api 1 a ::ffff:10.0.0.11 2 1 0 8080 0\n\
                  6 dns 1 x - 0 32 6 8080 0\n";
    let stats = "# pxname,svname,qcur,scur,lbtot,used_conn_cur,idle_conn_cur,safe_conn_cur,tracked,\n\
                 servers,main-web1,0,1,9,1,2,3,,\nws,web1,0,2,5,0,0,0,,\nws,own,0,0,0,0,0,0,,\napi,a,0,0,0,0,0,0,servers/main-web1,\n";
    let lines = parse::parse_lines(&format!("{states}\n{stats}\n")).unwrap();
    let shown: Vec<_> =
        lines.iter().map(|line| (line.to_string(), line.check_port, line.is_in_maintenance)).collect();
    let expected = [
        ("servers/main-web1", Some(8888), false),
        ("ws/web1", None, false),
        ("ws/own", Some(8080), false),
        ("api/a", Some(8888), true),
    ];
    assert_eq!(shown, expected.map(|(name, check, maint)| (name.to_owned(), check, maint)));
    assert_eq!((lines[0].work.connections(), lines[1].work.in_flight()), (Some(6), 2));
    assert!(matches!(parse::parse_lines(&format!("{states}\n{stats}")), Err(ReadError::Truncated { .. })));
}

#[test]
fn unknown_status_is_never_up() {
    let newer = recorded("up.txt").replace("status,weight", "new,weight");
    assert!(matches!(parse::parse_socket_answer(&newer, "servers"), Err(ReadError::Garbled(_))));
    let strange = recorded("up.txt").replace(",UP,", ",UPSIDE,");
    let view = parse::parse_socket_answer(&strange, "servers").unwrap();
    assert_eq!(view.find_server("main-web1").unwrap().state, ServerState::Unknown);
    let old = recorded("up.txt").replace("used_conn_cur", "something_else");
    let view = parse::parse_socket_answer(&old, "servers").unwrap();
    assert_eq!(view.servers()[0].work.connections_used, None);
}

#[test]
fn truncated_answer_is_always_an_error() {
    for (file, backend) in [
        ("up", "servers"),
        ("down", "servers"),
        ("going-down", "servers"),
        ("going-up", "servers"),
        ("rare", "rare"),
    ] {
        let whole = recorded(&format!("{file}.txt"));
        assert!(parse::parse_socket_answer(&whole, backend).is_ok());
        for end in 0..whole.len() {
            let cut = parse::parse_socket_answer(&whole[..end], backend);
            assert!(matches!(cut, Err(ReadError::Truncated { .. })), "{file}.txt cut at {end}: {cut:?}");
        }
        let page = recorded(&format!("{file}.csv"));
        let all = parse::parse_page(&page, backend).unwrap();
        // The rows after the backend's own are other proxies': without them nothing is missing.
        for end in 0..page.len() {
            if let Ok(view) = parse::parse_page(&page[..end], backend) {
                assert_eq!(view, all, "{file}.csv cut at {end} of {}", page.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn parser_never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = (parse::parse_socket_answer(&text, "servers"), parse::parse_page(&text, "servers"));
    }

    #[test]
    fn parser_never_panics_on_changed_byte(at in 0usize..4000, byte in any::<u8>()) {
        let mut bytes = recorded("up.txt").into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = parse::parse_socket_answer(&String::from_utf8_lossy(&bytes), "servers");
    }
}

fn spec(access: StatsEndpoint) -> BalancerSpec {
    example::balancer("lb1", Some(access))
}

async fn read(access: StatsEndpoint) -> Result<BackendView, BalancerError> {
    let read = connect(&spec(access), Duration::from_secs(5)).unwrap().read().await;
    read.map(|view| (*view).clone())
}

fn tcp(port: u16) -> StatsEndpoint {
    StatsEndpoint::Tcp { host: "127.0.0.1".into(), port }
}

fn http(port: u16) -> StatsEndpoint {
    StatsEndpoint::Http(format!("http://ops:secret@127.0.0.1:{port}/stats"))
}

/// A server that answers everything with these bytes and closes.
async fn answering(bytes: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            // Concurrent: a client that sends nothing delays no other client.
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
fn read_errors_distinguish_bad_balancers() {
    run_in_namespace(|| async {
        let garbage = answering(b"SSH-2.0-OpenSSH_9.2\r\n\n\nhello\n\n".to_vec()).await;
        assert!(matches!(read(tcp(garbage)).await, Err(BalancerError::Malformed { .. })));
        let whole = recorded("up.txt");
        let half = answering(whole.as_bytes()[..whole.len() / 2].to_vec()).await;
        assert!(matches!(read(tcp(half)).await, Err(BalancerError::Truncated { .. })));
        let nothing = answering(vec![]).await;
        assert!(matches!(read(tcp(nothing)).await, Err(BalancerError::Truncated { .. })));
        assert!(matches!(read(tcp(1)).await, Err(BalancerError::Unreachable { .. })));
        let no_socket = StatsEndpoint::Unix(PathBuf::from("/nonexistent/s.sock"));
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
        let huge = vec![b'1'; usize::try_from(MAX_ANSWER_BYTES).unwrap() + 1];
        let huge_page = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &huge].concat();
        for access in [tcp(answering(huge).await), http(answering(huge_page).await)] {
            let error = read(access).await.unwrap_err();
            let BalancerError::Malformed { reason, .. } = error else { panic!("{error}") };
            assert_eq!(reason, "it is longer than 8 MiB");
        }
        let form = b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n<html>Please log in...".to_vec();
        let error = read(http(answering(form).await)).await.unwrap_err();
        assert!(matches!(error, BalancerError::Malformed { .. }), "{error}");
        let cut = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n# pxname".to_vec()).await;
        assert!(matches!(read(http(cut)).await, Err(BalancerError::Truncated { .. })));
        let refused = read(http(1)).await.unwrap_err();
        assert!(matches!(&refused, BalancerError::Unreachable { .. }), "{refused}");
        assert!(!refused.to_string().contains("secret"), "{refused}");
    });
}

#[test]
fn read_times_out_on_silent_balancer() {
    run_in_namespace(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for access in
            [tcp(listener.local_addr().unwrap().port()), http(listener.local_addr().unwrap().port())]
        {
            let bound = Duration::from_millis(100);
            let error = connect(&spec(access), bound).unwrap().read().await.unwrap_err();
            assert!(matches!(error, BalancerError::TimedOut { .. }), "{error}");
        }
    });
}

#[test]
fn unix_socket_gets_one_command_line() {
    run_in_namespace(|| async {
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
        assert_eq!(read(StatsEndpoint::Unix(path)).await.unwrap().servers().len(), 8);
        assert_eq!(asked.await.unwrap(), "show servers state servers; show stat servers 4 -1\n");
    });
}

/// Ended when the test is, also by a failed assertion.
pub(super) struct Running(pub(super) tokio::process::Child);

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
async fn read_until(access: &StatsEndpoint, wanted: impl Fn(&Result<BackendView, BalancerError>) -> bool) {
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

/// All three kinds of endpoints of one real HAProxy show the same servers, the page by TLS too.
#[test]
fn real_haproxy_is_read_over_every_access() {
    run_in_namespace(|| async {
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
            view.servers()[0].state == ServerState::Down && view.servers()[1].state == ServerState::NoCheck
        };
        for access in [StatsEndpoint::Unix(socket), tcp(9999), http(8404)] {
            read_until(&access, down).await;
        }
        let wrong_password = StatsEndpoint::Http("http://ops:guess@127.0.0.1:8404/stats".into());
        read_until(&wrong_password, |view| matches!(view, Err(BalancerError::Refused { status: 401, .. })))
            .await;
        // No authority signed this certificate: the read fails with that error, and does not panic for want of a TLS
        // provider.
        let unknown = StatsEndpoint::Http("https://ops:secret@127.0.0.1:8443/stats".into());
        read_until(&unknown, |view| {
            let Err(BalancerError::Unreachable { address, reason: why }) = view else { return false };
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

/// Pages are read one after another, each over its own connection: a kept one would outlive a reload of HAProxy and read
/// the old process.
#[test]
fn page_read_opens_new_connection() {
    run_in_namespace(|| async {
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

/// Compares the findings of `plan::haproxy_lint` with the behaviour of HAProxy.
#[test]
fn lint_findings_match_real_haproxy() {
    run_in_namespace(|| async {
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
            ("all-inherited", ServerState::Down, "L7STS/302"),
            ("own-expect", ServerState::Down, "L7TOUT"),
            ("own-option", ServerState::Up, "L7OK/302"),
            ("connects", ServerState::Up, "L7OK/302"),
        ] {
            let spec = BalancerSpec { backend: backend.into(), ..spec(StatsEndpoint::Unix(socket.clone())) };
            read_spec_until(&spec, |view| {
                let Ok(view) = view else { return false };
                view.servers()[0].state == verdict && view.servers()[0].last_check == check
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
