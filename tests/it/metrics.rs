//! Metrics: a real agent with a real proxy is scraped, the operator machine reports an unreachable host, and the dashboard
//! queries only exported metrics.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prometheus_client::metrics::MetricType;
use serde_json::Value;
use switchman::plan::metrics::family::MetricFamily;
use switchman::plan::metrics::list_families;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::Instant;

use crate::testing::run_in_namespace;

const METRICS: &str = "127.0.0.1:9465";
/// The data port of the service, which rules forward to the main version.
const SHOP: &str = "127.0.0.1:8080";

struct Stage {
    dir: tempfile::TempDir,
    agent: Child,
    /// Outlives its agent.
    proxy: Option<Pid>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        if let Some(proxy) = self.proxy {
            let _ = kill(proxy, Signal::SIGKILL);
        }
    }
}

impl Stage {
    /// An agent of this machine, which is the only host.
    async fn new() -> Self {
        let dir = crate::single_host::make_open_dir();
        let config = "service: shop\nhealth: {path: /, interval: 50ms}\nversions: {watch: 0s}\n\
                      load_balancers: [{name: lb1, backend: shop, on_host: true}]\n";
        std::fs::write(dir.path().join("switchman.yaml"), config).unwrap();
        let log = std::fs::File::create(dir.path().join("agent.log")).unwrap();
        let mut agent = switchman(dir.path());
        agent.args(["agent", "--metrics", METRICS, "--socket"]).arg(dir.path().join("agent.sock"));
        let agent = agent.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let stage = Self { dir, agent, proxy: None };
        stage
            .wait_until("the agent serves", async || UnixStream::connect(stage.socket()).await.is_ok())
            .await;
        stage
            .wait_until("the agent serves metrics", async || TcpStream::connect(METRICS).await.is_ok())
            .await;
        stage
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    async fn run_switchman(&self, args: &[&str]) -> String {
        let output = run(self.dir.path(), args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn wait_until(&self, condition: &str, is_met: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_met().await {
            let log = || std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap();
            assert!(Instant::now() < deadline, "{condition}: {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn get_from_api(&self, path: &str) -> String {
        get(UnixStream::connect(self.socket()).await.unwrap(), path).await
    }

    /// Scrapes until every one of these lines is there.
    async fn wait_for_lines(&self, lines: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let page = scrape().await;
            let missing: Vec<&&str> =
                lines.iter().filter(|line| !page.lines().any(|one| one == **line)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{missing:?} in\n{page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn switchman(dir: &Path) -> std::process::Command {
    #[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchman"));
    command.arg("--config").arg(dir.join("switchman.yaml")).arg("--state-dir").arg(dir.join("state"));
    command.arg("--releases-dir").arg(dir.join("releases")).env("XTABLES_LOCKFILE", dir.join("xtables.lock"));
    command
}

async fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(switchman(dir));
    command.args(args).output().await.unwrap()
}

/// Returns the whole answer, with its head.
async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn read_body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Returns the page that a scraper gets.
async fn scrape() -> String {
    let answer = get(TcpStream::connect(METRICS).await.unwrap(), "/metrics").await;
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    page.to_owned()
}

/// Starts a healthy version that answers `/buy` with this status.
async fn start_version(address: &str, buy_status: &'static str) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or(0);
                let status = if head[..length].starts_with(b"GET /buy ") { buy_status } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                // A client that only connects has closed its connection already.
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
}

#[test]
fn agent_exports_metrics_through_the_life_of_a_shadow() {
    run_in_namespace(|| async {
        start_version("127.0.0.1:9001", "200 OK").await;
        start_version("127.0.0.1:9002", "500 No").await;
        let mut stage = Stage::new().await;
        stage.wait_for_lines(&["switchman_collector_success{collector=\"record\"} 1"]).await;
        assert!(!scrape().await.contains("switchman_forward_on"));

        stage.run_switchman(&["deploy", "shop", "1.0.0", "http://127.0.0.1:9001"]).await;
        stage.run_switchman(&["deploy", "shop", "2.0.0", "http://127.0.0.1:9002"]).await;
        stage.run_switchman(&["enable-forward", "--no-wait"]).await;
        stage
            .wait_for_lines(&[
                "switchman_forward_on{service=\"shop\"} 1",
                "switchman_main_info{service=\"shop\",version=\"1.0.0\"} 1",
                "switchman_deployments{service=\"shop\",status=\"active\"} 1",
                "switchman_proxy_inserted{service=\"shop\"} 0",
            ])
            .await;

        stage.run_switchman(&["mirror", "shop", "2.0.0", "--percent", "100", "--no-wait"]).await;
        let counted: Value = serde_json::from_str(read_body(&stage.get_from_api("/v1/proxy").await)).unwrap();
        stage.proxy = Some(Pid::from_raw(i32::try_from(counted["pid"].as_i64().unwrap()).unwrap()));
        // Its self-test was answered by main too.
        let before: u64 = counted["services"][0]["upstreams"][0]["answers"]["2"].as_u64().unwrap_or(0);
        for _ in 0..5 {
            let answer = get(TcpStream::connect(SHOP).await.unwrap(), "/buy").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        let answered = before + 5;
        let main = "service=\"shop\",version=\"1.0.0\",role=\"main\"";
        stage
            .wait_for_lines(&[
                "switchman_proxy_inserted{service=\"shop\"} 1",
                "switchman_proxy_up 1",
                "switchman_mirror_ratio{service=\"shop\",version=\"2.0.0\"} 1.0",
                &format!("switchman_requests_total{{{main},class=\"2xx\"}} {answered}"),
                &format!("switchman_request_duration_seconds_count{{{main}}} {answered}"),
                "switchman_shadow_selected_total{service=\"shop\",version=\"2.0.0\"} 5",
                "switchman_shadow_answered_total{service=\"shop\",version=\"2.0.0\"} 5",
                "switchman_shadow_status_total{service=\"shop\",version=\"2.0.0\",main=\"2xx\",shadow=\"5xx\"} 5",
            ])
            .await;

        // The API serves the same page to clients that it admits; the port for scrapers serves nothing else.
        let from_api = stage.get_from_api("/metrics").await;
        assert!(from_api.contains("\nswitchman_proxy_up 1\n"), "{from_api}");
        let api = get(TcpStream::connect(METRICS).await.unwrap(), "/v1/services").await;
        assert!(api.starts_with("HTTP/1.1 404 "), "{api}");

        stage.run_switchman(&["mirror", "shop", "2.0.0", "--off"]).await;
        stage.run_switchman(&["disable-forward", "--no-wait", "--force"]).await;
        stage.wait_for_lines(&["switchman_forward_on{service=\"shop\"} 0"]).await;
        // The proxy ends when it is drained, and is not counted any more.
        stage
            .wait_until("the proxy has ended", async || !scrape().await.contains("switchman_proxy_up"))
            .await;
    });
}

#[test]
fn metrics_command_reports_an_unreachable_host_as_down() {
    run_in_namespace(|| async {
        let stage = Stage::new().await;
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "service: shop\nhosts:\n  web1: {{address: 127.0.0.1, agent: 'unix://{}'}}\n  \
             web2: {{address: 127.0.0.2, agent: 'unix:///nowhere/agent.sock'}}\n\
             services:\n  blog: {{ports: {{check: 8889, main: 8081, backup: 81}}, backend: blog}}\n",
            stage.socket().display()
        );
        std::fs::write(dir.path().join("switchman.yaml"), config).unwrap();
        let output = run(dir.path(), &["metrics"]).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let page = String::from_utf8(output.stdout).unwrap();
        for line in [
            "switchman_host_up{host=\"web1\"} 1",
            "switchman_host_up{host=\"web2\"} 0",
            "switchman_host_forward_on{host=\"web1\",service=\"shop\"} 0",
            "switchman_host_forward_on{host=\"web1\",service=\"blog\"} 0",
            "switchman_roll_in_progress{service=\"shop\"} 0",
            "switchman_journal_readable{service=\"blog\"} 1",
        ] {
            assert!(page.lines().any(|one| one == line), "{line} in\n{page}");
        }
        assert!(!page.contains("switchman_host_forward_on{host=\"web2\""), "{page}");

        let output = run(dir.path(), &["metrics", "--host", "web2", "--service", "blog"]).await;
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(page.contains("switchman_host_up{host=\"web2\"} 0"), "{page}");
        assert!(!page.contains("web1") && !page.contains("shop"), "{page}");
    });
}

fn read_dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/switchman.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Collects every text under this key.
fn collect_texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_str));
            map.values().for_each(|value| collect_texts(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_texts(value, key, found)),
        _ => {}
    }
}

/// Returns the metrics of switchman in a query.
fn list_metrics(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("switchman_"))
}

/// Returns the names of all series that are exported.
fn list_series() -> BTreeSet<String> {
    let of = |family: &MetricFamily| match family.kind {
        MetricType::Histogram => {
            ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", family.name)).to_vec()
        }
        _ => vec![family.name.to_owned()],
    };
    list_families().flat_map(of).collect()
}

#[test]
fn dashboard_queries_only_exported_metrics() {
    let (dashboard, series) = (read_dashboard(), list_series());
    let mut queries = Vec::new();
    collect_texts(&dashboard["panels"], "expr", &mut queries);
    collect_texts(&dashboard["templating"], "query", &mut queries);
    let queried: BTreeSet<&str> = queries.iter().flat_map(|query| list_metrics(query)).collect();
    assert!(queried.len() > 30, "{queried:?}");
    let unknown: Vec<&&str> = queried.iter().filter(|name| !series.contains(**name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn dashboard_has_the_form_that_grafana_requires() {
    let dashboard = read_dashboard();
    assert!(dashboard["schemaVersion"].as_u64() >= Some(38), "Grafana 10");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()) && !title.is_empty(), "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        // Independent of the name of the Prometheus data source.
        let targets = panel["targets"].as_array().unwrap();
        let mut refs = BTreeSet::new();
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(refs.insert(target["refId"].as_str().unwrap()), "{title}");
        }
        assert!(!targets.is_empty(), "{title}");
        let position = &panel["gridPos"];
        assert!(position["x"].as_u64().unwrap() + position["w"].as_u64().unwrap() <= 24, "{title}");
    }
    for wanted in [
        "Requests by leg and class",
        "Forward by host",
        "Main version by host",
        "Last roll",
        "Last promotion",
        "Breaker",
    ] {
        assert!(panels.iter().any(|panel| panel["title"] == wanted), "{wanted}");
    }
}
