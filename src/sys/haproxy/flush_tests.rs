//! Closing idle connections: with recorded answers, and with the real HAProxy.

use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;

use super::tests::{Running, haproxy, read_spec_until, recorded};
use super::*;
use crate::model::balancer::AdminState;
use crate::model::example;
use crate::sys::testing::run_in_namespace;

const FLUSH: &str = "set server servers/main-web1 state maint; set server servers/main-web1 state ready";

fn balancer(access: StatsEndpoint) -> Arc<dyn Balancer> {
    connect(&example::balancer("lb1", Some(access)), Duration::from_secs(5)).unwrap()
}

/// A stats socket that answers `show` with one recording after another and `set` with a fixed text, and the lines it
/// received.
async fn socket(shows: Vec<String>, said: &'static str) -> (StatsEndpoint, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    tokio::spawn(async move {
        let mut shows = shows.into_iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut line = [0; 1024];
            let length = stream.read(&mut line).await.unwrap();
            let line = String::from_utf8_lossy(&line[..length]).trim().to_owned();
            let answer = if line.starts_with("show") { shows.next().unwrap() } else { said.to_owned() };
            heard.lock().unwrap().push(line);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (StatsEndpoint::Tcp { host: "127.0.0.1".into(), port }, told)
}

/// `up.txt` with another administrative state of the first server: the mask follows `srv_op_state`, a 2.
fn with_admin(mask: u32) -> String {
    let text = recorded("up.txt");
    let line = text.lines().find(|line| line.contains(" main-web1 ")).unwrap();
    let mut fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
    fields[6] = mask.to_string();
    text.replacen(line, &fields.join(" "), 1)
}

async fn flushed(
    shows: Vec<String>,
    said: &'static str,
) -> (Result<FlushResult, BalancerError>, Vec<String>) {
    let (access, told) = socket(shows, said).await;
    let flush = balancer(access).close_idle("main-web1").await;
    let sent = told.lock().unwrap().iter().filter(|line| line.starts_with("set")).cloned().collect();
    (flush, sent)
}

#[tokio::test]
async fn flush_skips_server_in_maintenance_or_drain() {
    let down = recorded("up.txt").replace(",UP,", ",DOWN,");
    let masks = [
        AdminState::FORCED_MAINT,
        AdminState::INHERITED_MAINT,
        AdminState::CONFIG_MAINT,
        AdminState::FORCED_DRAIN,
        AdminState::INHERITED_DRAIN,
        AdminState::RESOLVE_MAINT,
        AdminState::FORCED_MAINT | AdminState::ADDRESS_SET,
    ];
    for show in masks.into_iter().map(with_admin).chain([down]) {
        assert_eq!(flushed(vec![show], "\n\n").await, (Ok(FlushResult::NotInService), vec![]));
    }
}

/// HAProxy 3.1 and later with `init-state down`: after `maint; ready` the server is DOWN until its checks have passed.
#[tokio::test]
async fn flush_of_server_that_starts_down_returns_once_it_is_up() {
    let up = || with_admin(AdminState::ADDRESS_SET);
    let with = |status: &str| up().replace(",UP,", &format!(",{status},"));
    let shows = vec![up(), with("DOWN"), with("DOWN"), with("DOWN 1/2"), up()];
    let (flush, sent) = flushed(shows, "\n\n").await;
    assert_eq!((flush, sent), (Ok(FlushResult::ClosedAndRestarted), vec![FLUSH.to_owned()]));
}

/// Two servers of one balancer that start DOWN are never DOWN at the same time.
#[tokio::test]
async fn flushes_of_one_balancer_come_one_after_another() {
    let up = || with_admin(AdminState::ADDRESS_SET);
    let down = || up().replace(",UP,", ",DOWN,");
    let (access, told) = socket(vec![up(), down(), down(), up(), up(), up()], "\n\n").await;
    let balancer = balancer(access);
    let (first, second) = tokio::join!(balancer.close_idle("main-web1"), balancer.close_idle("backup-web1"));
    assert_eq!((first, second), (Ok(FlushResult::ClosedAndRestarted), Ok(FlushResult::Closed)));
    let kinds: Vec<bool> = told.lock().unwrap().iter().map(|line| line.starts_with("set")).collect();
    assert_eq!(kinds, [false, true, false, false, false, false, true, false], "set comes after UP");
}

#[tokio::test]
async fn flush_reads_result_back() {
    let once = vec![FLUSH.to_owned()];
    let up = || with_admin(AdminState::ADDRESS_SET);
    assert_eq!(flushed(vec![up(), up()], "\n\n").await, (Ok(FlushResult::Closed), once.clone()));
    let held = with_admin(AdminState::FORCED_MAINT);
    assert_eq!(flushed(vec![up(), held], "\n\n").await, (Ok(FlushResult::NotInService), once.clone()));
    let denied = "Permission denied\n\nPermission denied\n\n";
    assert_eq!(flushed(vec![up()], denied).await, (Ok(FlushResult::NotAllowed), once.clone()));
    let (strange, sent) = flushed(vec![up()], "No such server.\n\nNo such server.\n\n").await;
    assert!(matches!(strange, Err(BalancerError::Malformed { .. })), "{strange:?}");
    assert_eq!(sent, once);
}

#[tokio::test]
async fn flush_refuses_page_access_and_names_missing_server() {
    let page = balancer(StatsEndpoint::Http("http://127.0.0.1:9/stats".into()));
    assert_eq!(page.close_idle("main-web1").await, Ok(FlushResult::NotAllowed));
    let (access, _) = socket(vec![recorded("up.txt")], "").await;
    let missing = balancer(access).close_idle("main-web9").await.unwrap_err();
    assert!(missing.to_string().ends_with("has no server `main-web9`"), "{missing}");
}

/// Keeps connections open; `/hold` is answered when released. Gives the number of open connections.
async fn application() -> (tokio::sync::watch::Sender<bool>, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:8080").await.unwrap();
    let (release, released) = tokio::sync::watch::channel(false);
    let open = Arc::new(Mutex::new(0));
    let counted = open.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut released, counted) = (released.clone(), counted.clone());
            *counted.lock().unwrap() += 1;
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut head).await {
                    if head[..length].starts_with(b"GET /hold ") {
                        released.wait_for(|released| *released).await.unwrap();
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                }
                *counted.lock().unwrap() -= 1;
            });
        }
    });
    (release, open)
}

async fn begin(path: &str) -> tokio::net::TcpStream {
    let mut stream = tokio::net::TcpStream::connect("127.0.0.1:8000").await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

async fn is_answered(stream: &mut tokio::net::TcpStream) {
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
}

async fn until_open(open: &Mutex<usize>, wanted: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while *open.lock().unwrap() != wanted {
        assert!(tokio::time::Instant::now() < deadline, "{} are open", open.lock().unwrap());
        tokio::task::yield_now().await;
    }
}

fn start(dir: &std::path::Path, level: &str) -> (Running, StatsEndpoint) {
    let path = dir.join("s.sock");
    let text = format!(
        "global\n stats socket {} level {level}\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
         timeout server 60s\n default-server inter 2s\nfrontend f\n bind 127.0.0.1:8000\n default_backend servers\n\
         backend servers\n server main-web1 127.0.0.1:8080 check port 8081\n server dead 127.0.0.1:9 check\n",
        path.display()
    );
    (haproxy(dir, &text), StatsEndpoint::Unix(path))
}

async fn until_verdict(access: &StatsEndpoint, server: &str, verdict: ServerState) {
    let spec = example::balancer("lb1", Some(access.clone()));
    read_spec_until(&spec, |view| {
        view.as_ref().is_ok_and(|view| view.find_server(server).is_some_and(|server| server.state == verdict))
    })
    .await;
}

#[test]
fn flush_on_real_haproxy_closes_idle_and_finishes_in_flight() {
    run_in_namespace(|| async {
        let (release, open) = application().await;
        // Checks come elsewhere: they are no pooled connections.
        let _checked = TcpListener::bind("127.0.0.1:8081").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (_haproxy, access) = start(dir.path(), "admin");
        until_verdict(&access, "main-web1", ServerState::Up).await;
        until_verdict(&access, "dead", ServerState::Down).await;
        let mut held = begin("/hold").await;
        until_open(&open, 1).await;
        let mut clients = vec![];
        for _ in 0..4 {
            clients.push(begin("/").await);
        }
        for client in &mut clients {
            is_answered(client).await;
        }
        assert!(*open.lock().unwrap() > 1, "pooled connections are there");
        let lb = balancer(access.clone());
        assert_eq!(lb.close_idle("main-web1").await, Ok(FlushResult::Closed));
        until_open(&open, 1).await;
        release.send(true).unwrap();
        is_answered(&mut held).await;
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            is_answered(client).await;
        }
        // A server that its checks hold out would come back by `state ready`.
        assert_eq!(lb.close_idle("dead").await, Ok(FlushResult::NotInService));
        let dead = lb.read().await.unwrap().find_server("dead").unwrap().state;
        assert_eq!(dead, ServerState::Down);
        for state in ["maint", "drain"] {
            let stream = UnixStream::connect(dir.path().join("s.sock")).await.unwrap();
            send_line(stream, &format!("set server servers/main-web1 state {state}")).await.unwrap();
            assert_eq!(lb.close_idle("main-web1").await, Ok(FlushResult::NotInService), "{state}");
            let view = lb.read().await.unwrap();
            let admin = view.find_server("main-web1").unwrap().admin_state.unwrap();
            assert_eq!(
                (admin.is_in_maintenance(), admin.is_in_drain()),
                (state == "maint", state == "drain")
            );
        }
    });
}

#[test]
fn flush_on_real_haproxy_needs_admin_level() {
    run_in_namespace(|| async {
        let (_release, _open) = application().await;
        let _checked = TcpListener::bind("127.0.0.1:8081").await.unwrap();
        for level in ["user", "operator"] {
            let dir = tempfile::tempdir().unwrap();
            let (_haproxy, access) = start(dir.path(), level);
            until_verdict(&access, "main-web1", ServerState::Up).await;
            let lb = balancer(access);
            assert_eq!(lb.close_idle("main-web1").await, Ok(FlushResult::NotAllowed), "{level}");
            assert_eq!(lb.set_weight("main-web1", 50).await, Ok(SetWeightResult::NotAllowed), "{level}");
        }
    });
}

#[test]
fn set_weight_on_real_haproxy_reads_back() {
    run_in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (_haproxy, access) = start(dir.path(), "admin");
        until_verdict(&access, "dead", ServerState::Down).await;
        let lb = balancer(access);
        for weight in [33, 0, 100] {
            assert_eq!(lb.set_weight("main-web1", weight).await, Ok(SetWeightResult::Set));
            assert_eq!(lb.read().await.unwrap().find_server("main-web1").unwrap().weight, weight);
        }
        assert!(matches!(lb.set_weight("main-web1", 257).await, Err(BalancerError::Malformed { .. })));
        assert!(lb.set_weight("unknown", 1).await.is_err());
    });
}
