//! Releases behind real web servers, run by the real supervisor.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use switchman::model::deployment::{InstanceLimits, InstanceSpec, WebServer};
use switchman::model::ports::Port;
use switchman::sys::supervisor::{Supervisor, Tuning};
use switchman::templates::vhost::Vhost;
use switchman::world::runner::{Runner, StopResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::testing::run_in_namespace;

const SERVERS: [WebServer; 3] = [WebServer::Nginx, WebServer::Apache, WebServer::Caddy];
/// Only ends a test that would hang.
const BOUND: Duration = Duration::from_secs(30);
const PORT: u16 = 9001;

/// A release and the web server's files, which all users may enter and the user of the instance may write.
fn vhost(dir: &Path, server: WebServer) -> Vhost {
    let (root, run_dir) = (dir.join("releases/1.0.0+5"), dir.join("run"));
    std::fs::create_dir_all(&root).unwrap();
    std::fs::create_dir_all(&run_dir).unwrap();
    std::fs::write(root.join("index.html"), "front\n").unwrap();
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&run_dir, PermissionsExt::from_mode(0o777)).unwrap();
    let (id, port) = ("dp_0123456789-1".parse().unwrap(), Port::new(PORT).unwrap());
    let vhost = Vhost { id, server, port, root, run_dir, health_path: "/health.txt".to_owned() };
    std::fs::write(vhost.run_dir.join(vhost.file_name()), vhost.render().unwrap()).unwrap();
    vhost
}

fn spec(vhost: &Vhost, user: Option<&str>) -> InstanceSpec {
    InstanceSpec {
        id: vhost.id.clone(),
        service: "shop".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        argv: vhost.argv(&vhost.run_dir.join(vhost.file_name())),
        env: vhost.env(),
        dir: vhost.root.clone(),
        user: user.map(str::to_owned),
        resources: InstanceLimits::default(),
        grace: BOUND,
        stop_signal: vhost.stop_signal(),
    }
}

/// Status line and body; `None` while no server answers.
async fn get(address: &str, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect((address, PORT)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.to_lowercase().contains("x-switchman-vhost: dp_0123456789-1"), "{head}");
    Some((head.split(' ').nth(1)?.to_owned(), body.to_owned()))
}

/// Starts a vhost that answers, over IPv4 and IPv6, with the files of the release alone; then it is stopped.
async fn serves(server: WebServer, user: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let vhost = vhost(dir.path(), server);
    let runner = Supervisor::new(&dir.path().join("state"))
        .with_program(env!("CARGO_BIN_EXE_switchman"), Tuning::default());
    runner.start(&spec(&vhost, user)).await.unwrap();
    let answers = async {
        while get("127.0.0.1", "/").await.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(BOUND, answers).await.is_err() {
        let heard = std::sync::Arc::new(|line: &str| drop(writeln!(std::io::stderr(), "{line}")));
        runner.stream_logs(&vhost.id, None, false, heard).await.unwrap();
        runner.stop(&vhost.id, Duration::ZERO).await.unwrap();
        panic!("{server:?} never answered");
    }
    let mut found = Vec::new();
    for address in ["127.0.0.1", "::1"] {
        for path in ["/", "/health.txt", "/healthXtxt", "/../run/nginx.conf"] {
            found.push(get(address, path).await.unwrap());
        }
    }
    std::fs::write(vhost.root.join("health.txt"), "fine\n").unwrap();
    let health = get("127.0.0.1", "/health.txt").await.unwrap();
    let ended = runner.stop(&vhost.id, BOUND).await.unwrap();
    for answers in found.chunks(4) {
        let status: Vec<&str> = answers.iter().map(|(status, _)| status.as_str()).collect();
        assert_eq!((status[0], status[1], status[2]), ("200", "200", "404"), "{server:?}");
        assert!(matches!(status[3], "400" | "404"), "{server:?}: {}", status[3]);
        assert_eq!(answers[0].1, "front\n");
    }
    assert_eq!(health, ("200".to_owned(), "fine\n".to_owned()), "a file of the release goes first");
    assert_eq!(ended, StopResult::Exited, "{server:?}");
    assert!(get("127.0.0.1", "/").await.is_none());
}

#[test]
fn every_web_server_serves_a_release() {
    for server in SERVERS {
        run_in_namespace(move || serves(server, None));
    }
}

#[test]
fn every_web_server_serves_a_release_as_a_plain_user() {
    for server in SERVERS {
        run_in_namespace(move || serves(server, Some("nobody")));
    }
}

#[test]
fn every_web_server_accepts_its_configuration() {
    for server in SERVERS {
        let dir = tempfile::tempdir().unwrap();
        let vhost = vhost(dir.path(), server);
        let file = vhost.run_dir.join(vhost.file_name()).display().to_string();
        let check: &[&str] = match server {
            WebServer::Nginx => &["nginx", "-t", "-e", "stderr", "-c", &file],
            WebServer::Apache => &["apache2", "-t", "-f", &file],
            WebServer::Caddy => &["caddy", "validate", "--adapter", "caddyfile", "--config", &file],
        };
        #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
        let output = Command::new(check[0]).args(&check[1..]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
