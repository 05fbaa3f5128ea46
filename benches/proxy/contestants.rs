//! The proxies that are measured: their configuration, their start, their use of resources.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use switchman::lab::process::Process;
use switchman::model::deployment::{Access, DeploymentId};
use switchman::model::percent::Percent;
use switchman::model::ports::Port;
use switchman::model::proxy::{Mirror, ProxiedService, ProxyConfig, TrafficSplit, Upstream};
use switchman::sys::exec::Program;
use switchman::sys::proxy::ProxyProcess;
use switchman::world::proxy::Proxy as _;

use crate::Failed;
use crate::load::get;

/// The service, its shadow: both nginx, 64 bytes.
pub const MAIN: u16 = 9001;
pub const SHADOW: u16 = 9002;
/// Reads whole bodies before it answers.
pub const SINK: u16 = 9003;

/// A core for client and server, another for the proxy between them.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    pub ends: usize,
    pub proxy: usize,
}

fn program(core: usize, path: impl AsRef<std::ffi::OsStr>) -> Program {
    // Ends with the benchmark, however that does.
    let bound = ["--pdeathsig", "TERM", "--", "taskset", "-c"];
    Program::new("setpriv").args(bound).arg(core.to_string()).arg(path)
}

/// The addresses of the set-up, and the directory of its files.
#[derive(Debug)]
pub struct Place {
    pub dir: PathBuf,
    pub root: PathBuf,
    pub cores: Cores,
}

impl Place {
    fn file(&self, name: &str, text: &str) -> Result<PathBuf, Failed> {
        let path = self.dir.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    pub fn envoy(&self) -> Option<PathBuf> {
        let path = self.root.join("target/bench-proxy/venv/bin/envoy");
        path.exists().then_some(path)
    }

    async fn start(&self, name: &str, program: &Program, port: u16) -> Result<Process, Failed> {
        let process = Process::start(name, program, &self.dir.join(format!("{name}.log")))?;
        let answers = async || get(port).await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
        process.wait_until(&format!("{name} answers"), answers).await?;
        Ok(process)
    }

    /// Main and its shadow.
    pub async fn ends(&self) -> Result<Process, Failed> {
        let answer = |who: &str| format!("return 200 \"{who:-<63}\\n\";");
        let server = |port, who| format!("server {{ listen {port}; location / {{ {} }} }}", answer(who));
        let servers = format!("{}\n{}", server(MAIN, "main"), server(SHADOW, "shadow"));
        self.nginx("ends", self.cores.ends, &servers, SHADOW).await
    }

    async fn nginx(&self, name: &str, core: usize, servers: &str, port: u16) -> Result<Process, Failed> {
        let dir = self.dir.display();
        let text = format!(
            "worker_processes 1; daemon off; user root; pid {dir}/{name}.pid; error_log {dir}/{name}.err;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; default_type text/plain;\n\
             client_body_temp_path {dir}/{name}.1; proxy_temp_path {dir}/{name}.2; fastcgi_temp_path {dir}/{name}.3;\n\
             uwsgi_temp_path {dir}/{name}.4; scgi_temp_path {dir}/{name}.5;\n{servers} }}\n"
        );
        let file = self.file(&format!("{name}.conf"), &text)?;
        let program = program(core, "nginx").args(["-e", "stderr", "-c"]).arg(file);
        self.start(name, &program, port).await
    }

    pub async fn haproxy(&self, port: u16) -> Result<Process, Failed> {
        let text = format!(
            "global\n  nbthread 1\n  maxconn 4096\n\
             defaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
             frontend in\n  bind 127.0.0.1:{port}\n  default_backend main\n\
             backend main\n  server main 127.0.0.1:{MAIN}\n"
        );
        let file = self.file("haproxy.cfg", &text)?;
        let program = program(self.cores.proxy, "haproxy").args(["-db", "-f"]).arg(file);
        self.start("haproxy", &program, port).await
    }

    pub async fn nginx_proxy(&self, port: u16, mirrors: bool) -> Result<Process, Failed> {
        let upstream = |name, port| {
            format!(
                "upstream {name} {{ server 127.0.0.1:{port}; keepalive 64; keepalive_requests 1000000000; }}"
            )
        };
        let mirror = if mirrors { "mirror /copy;" } else { "" };
        let servers = format!(
            "{}\n{}\nproxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             server {{ listen {port}; location / {{ {mirror} proxy_pass http://main; }}\n\
             location = /copy {{ internal; proxy_pass http://shadow$request_uri; }} }}",
            upstream("main", MAIN),
            upstream("shadow", SHADOW)
        );
        self.nginx(if mirrors { "nginx-mirror" } else { "nginx" }, self.cores.proxy, &servers, port).await
    }

    pub async fn envoy_proxy(&self, envoy: &Path, port: u16, mirrors: bool) -> Result<Process, Failed> {
        let name = if mirrors { "envoy-mirror" } else { "envoy" };
        let file = self.file(&format!("{name}.json"), &envoy_config(port, mirrors).to_string())?;
        let program = program(self.cores.proxy, envoy);
        let fixed = ["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"];
        self.start(name, &program.args(fixed).arg(file), port).await
    }

    pub async fn switchman(&self, name: &str, services: Vec<ProxiedService>) -> Result<Switchman, Failed> {
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir)?;
        let program = program(self.cores.proxy, self.root.join("target/bench-proxy/switchman"));
        let program = program.args(["proxy", "--control"]).arg(dir.join("proxy.sock"));
        let process = Process::start(name, &program, &dir.join("log"))?;
        let control = ProxyProcess::new(&dir);
        let hears = async || control.check_health(Duration::from_secs(1)).await.is_ok();
        process.wait_until(&format!("{name} answers"), hears).await?;
        control.configure(&ProxyConfig { services, ..ProxyConfig::default() }).await?;
        Ok(Switchman { process, control })
    }
}

fn envoy_config(port: u16, mirrors: bool) -> serde_json::Value {
    use serde_json::json;
    let at = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let cluster = |name: &str, port: u16| {
        let endpoint = json!({"endpoint": {"address": at(port)}});
        let load = json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]});
        json!({"name": name, "type": "STATIC", "load_assignment": load})
    };
    let copies = if mirrors { json!([{"cluster": "shadow"}]) } else { json!([]) };
    let route = json!({
        "match": {"prefix": "/"},
        "route": {"cluster": "main", "request_mirror_policies": copies},
    });
    let kinds = "type.googleapis.com/envoy.extensions.filters";
    let router = json!({"@type": format!("{kinds}.http.router.v3.Router")});
    let connections = json!({
        "@type": format!("{kinds}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "codec_type": "HTTP1",
        // The others make none either.
        "generate_request_id": false,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    });
    let filter =
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": connections});
    json!({"static_resources": {
        "listeners": [{"address": at(port), "filter_chains": [{"filters": [filter]}]}],
        "clusters": [cluster("main", MAIN), cluster("shadow", SHADOW)],
    }})
}

/// The proxy under its control socket.
pub struct Switchman {
    pub process: Process,
    pub control: ProxyProcess,
}

/// Returns the outcomes of all copies.
pub async fn copies(control: &ProxyProcess) -> Result<String, Failed> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let services = control.read_stats().await?.services;
    for shadow in services.into_iter().flat_map(|service| service.shadows) {
        let kinds = [("dropped", shadow.dropped), ("failed", shadow.failed), ("aborted", shadow.aborted)];
        let named = kinds.into_iter().flat_map(|(kind, reasons)| {
            reasons.into_iter().map(move |(reason, count)| (format!("{kind} {reason}"), count))
        });
        for (what, count) in named.chain([("answered".to_owned(), shadow.answered)]) {
            *sums.entry(what).or_default() += count;
        }
    }
    let told =
        sums.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{what} {count}"));
    Ok(told.collect::<Vec<_>>().join(", "))
}

/// A service that the proxy serves on a port, with at most one shadow.
pub fn service(
    port: u16,
    main: u16,
    shadow: Option<SocketAddr>,
    compare: bool,
) -> Result<ProxiedService, Failed> {
    let upstream = |address: SocketAddr| -> Result<Upstream, Failed> {
        let deployment: DeploymentId = format!("dp_{:010}", address.port()).parse()?;
        Ok(Upstream { deployment, version: "1.0.0".parse()?, address, more_addresses: vec![] })
    };
    let others = shadow.map(upstream).transpose()?.into_iter().collect::<Vec<_>>();
    let mirrors = others.iter().map(|shadow| Mirror {
        deployment: shadow.deployment.clone(),
        percent: Percent::FULL,
        methods: Vec::new(),
        paths: Vec::new(),
        without_headers: Vec::new(),
        compare,
        control: Percent::ZERO,
    });
    let splits = TrafficSplit { mirrors: mirrors.collect(), canary: None, forwarded: false };
    Ok(ProxiedService {
        service: format!("s{port}").parse()?,
        port: Port::new(port).ok_or("no port")?,
        check: Port::new(1).ok_or("no port")?,
        access: Access::Public,
        main: upstream(([127, 0, 0, 1], main).into())?,
        other_upstreams: others,
        traffic_split: splits,
        draining: false,
    })
}

/// Resources that a process has used since its start.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// CPU time of all its threads, in user and in kernel mode; seconds, exact to 10 ms (proc(5), USER_HZ).
    pub cpu: f64,
    /// VmHWM.
    pub peak_kib: u64,
}

/// Measures the workers of a process, if it has any: nginx's own process only watches them.
pub fn used(process: &Process) -> Result<Used, Failed> {
    let pid = process.pid().ok_or("the process is gone")?.as_raw();
    let mut sum = Used { cpu: 0.0, peak_kib: 0 };
    let workers = children(pid)?;
    for pid in if workers.is_empty() { vec![pid] } else { workers } {
        let fields = stat(pid)?;
        let ticks: Result<u32, _> =
            fields.get(11..13).ok_or("no times")?.iter().map(|text| text.parse::<u32>()).sum();
        sum.cpu += f64::from(ticks?) / 100.0;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
        sum.peak_kib = sum.peak_kib.max(peak.trim().trim_end_matches(" kB").parse()?);
    }
    Ok(sum)
}

/// Returns the fields after the name, which may hold any character: the state first, then the parent.
fn stat(pid: i32) -> Result<Vec<String>, Failed> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(text.rsplit(") ").next().unwrap_or_default().split(' ').map(str::to_owned).collect())
}

fn children(parent: i32) -> Result<Vec<i32>, Failed> {
    let parent = parent.to_string();
    let all = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // A process that ends during the scan is no worker.
    Ok(all.filter(|pid| stat(*pid).is_ok_and(|fields| fields.get(1) == Some(&parent))).collect())
}
