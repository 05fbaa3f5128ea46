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
        account: None,
        sandbox: None,
        resources: InstanceLimits::default(),
        grace: BOUND,
        stop_signal: vhost.stop_signal(),
    }
}

/// Status line and body; `None` while no server answers.
async fn get(address: &str, path: &str) -> Option<(String, String)> {
    let (head, body) = request(address, PORT, path).await?;
    assert!(head.to_lowercase().contains("x-switchman-vhost: dp_0123456789-1"), "{head}");
    Some((head.split(' ').nth(1)?.to_owned(), body))
}

/// Head and body; `None` while no server answers.
async fn request(address: &str, port: u16, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect((address, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}

/// Files of a release that no user may read, and one that every user may.
const HIDDEN: [&str; 5] =
    ["/.env", "/.git/config", "/app/.htpasswd", "/.well-known/.key", "/app/.well-known/file"];
const WELL_KNOWN: &str = "/.well-known/acme-challenge/token-1";

fn write_public(root: &Path, path: &str) {
    let file = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "public\n").unwrap();
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
    let mut hidden = Vec::new();
    for path in HIDDEN {
        write_public(&vhost.root, path);
        hidden.push(get("127.0.0.1", path).await.unwrap().0);
    }
    write_public(&vhost.root, WELL_KNOWN);
    let well_known = get("127.0.0.1", WELL_KNOWN).await.unwrap();
    std::fs::rename(&vhost.root, dir.path().join("elsewhere")).unwrap();
    let without_release = get("127.0.0.1", "/health.txt").await.unwrap().0;
    let ended = runner.stop(&vhost.id, BOUND).await.unwrap();
    for answers in found.chunks(4) {
        let status: Vec<&str> = answers.iter().map(|(status, _)| status.as_str()).collect();
        assert_eq!((status[0], status[1], status[2]), ("200", "200", "404"), "{server:?}");
        assert!(matches!(status[3], "400" | "404"), "{server:?}: {}", status[3]);
        assert_eq!(answers[0].1, "front\n");
    }
    assert_eq!(health, ("200".to_owned(), "fine\n".to_owned()), "a file of the release goes first");
    assert!(hidden.iter().all(|status| status == "404"), "{server:?}: {HIDDEN:?}: {hidden:?}");
    assert_eq!(well_known, ("200".to_owned(), "public\n".to_owned()), "{server:?}");
    assert!(matches!(without_release.as_str(), "403" | "404" | "503"), "{server:?}: {without_release}");
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

/// The main vhost that `init` writes, in the foreground.
#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn start_main_vhost(dir: &Path, server: &str) -> std::process::Child {
    let init = Command::new(env!("CARGO_BIN_EXE_switchman"))
        .args(["init", &dir.display().to_string(), "--name", "shop", "--server", server])
        .args(["--host", "web1=127.0.0.1", "--balancer", "127.0.0.1"])
        .output()
        .unwrap();
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let file = |name: &str| dir.join(name).display().to_string();
    let argv = match server {
        "nginx" => {
            vec!["nginx".to_owned(), "-c".into(), file("nginx/main.conf"), "-g".into(), "daemon off;".into()]
        }
        "apache" => vec!["apache2".to_owned(), "-f".into(), file("apache/main.conf"), "-DFOREGROUND".into()],
        _ => ["caddy", "run", "--adapter", "caddyfile", "--config"]
            .map(str::to_owned)
            .into_iter()
            .chain([file("caddy/main.Caddyfile")])
            .collect(),
    };
    Command::new(&argv[0]).args(&argv[1..]).spawn().unwrap()
}

#[test]
fn vhost_of_init_is_not_healthy_without_its_site_and_hides_dot_files() {
    for server in ["nginx", "apache", "caddy"] {
        run_in_namespace(move || async move {
            let dir = tempfile::tempdir().unwrap();
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
            let project = dir.path().join("shop");
            let mut process = start_main_vhost(&project, server);
            let status = async |path: &str| -> Option<String> {
                let (head, _) = request("127.0.0.1", 8080, path).await?;
                Some(head.split(' ').nth(1)?.to_owned())
            };
            let answers = async {
                while status("/").await.is_none() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let started = tokio::time::timeout(BOUND, answers).await;
            let site = project.join("site/main");
            write_public(&site, "/.env");
            write_public(&site, WELL_KNOWN);
            let mut found = Vec::new();
            for path in ["/health", "/.env", WELL_KNOWN] {
                found.push(status(path).await);
            }
            std::fs::remove_file(&site).unwrap();
            let without_site = status("/health").await;
            let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            process.wait().unwrap();
            assert!(started.is_ok(), "{server} never answered");
            assert_eq!(found, ["200", "404", "200"].map(|status| Some(status.to_owned())), "{server}");
            assert!(
                without_site.as_ref().is_some_and(|status| status != "200"),
                "{server}: {without_site:?}"
            );
        });
    }
}
