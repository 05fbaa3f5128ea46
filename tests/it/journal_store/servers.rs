//! Real servers on loopback, in the network namespace of a test.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Servers of one test. They end with it.
pub struct Servers {
    dir: tempfile::TempDir,
    /// Each server's program and the process that runs it.
    children: Vec<(Command, Child)>,
    ends_on_interrupt: bool,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = if self.ends_on_interrupt {
                // Killed, it would leave its shared memory: SIGINT is the fast shutdown (PostgreSQL, Shutting Down the Server).
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(child.id().cast_signed()),
                    nix::sys::signal::Signal::SIGINT,
                )
                .map_err(std::io::Error::from)
            } else {
                child.kill()
            };
            let _ = child.wait();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a test is outside of the layers")]
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// The program, where a test may run it.
fn find_program(name: &str, candidates: &[String]) -> Option<String> {
    let found = candidates.iter().find(|path| Path::new(path).exists());
    if found.is_none() {
        crate::testing::missing(&format!("{name} is not installed"));
    }
    found.cloned()
}

impl Servers {
    /// No servers yet.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), children: vec![], ends_on_interrupt: false }
    }

    fn start(&mut self, mut command: Command, name: &str) {
        let log = std::fs::File::create(self.dir.path().join(format!("{name}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        self.children.push((command, child));
    }

    async fn wait_for_port(&self, port: u16) {
        self.wait(&format!("port {port}"), || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    }

    async fn wait(&self, what: &str, is_met: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !is_met() {
            assert!(Instant::now() < deadline, "{what}: {}", self.read_logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn read_logs(&self) -> String {
        let files = std::fs::read_dir(self.dir.path()).unwrap().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        logs.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    /// Kills a server as a power cut does.
    pub fn kill(&mut self, index: usize) {
        self.children[index].1.kill().unwrap();
        self.children[index].1.wait().unwrap();
    }

    /// Starts a killed server again, with its data.
    pub fn restart(&mut self, index: usize) {
        let (command, child) = &mut self.children[index];
        *child = command.spawn().unwrap();
    }

    /// PostgreSQL at 127.0.0.1:5432, with the user and database `postgres`.
    pub async fn postgres() -> Option<Self> {
        Self::start_postgres(None).await
    }

    /// PostgreSQL that accepts connections with TLS and a password only; its administrator is [`Servers::psql`].
    pub async fn postgres_with_tls(certificate: &Path, key: &Path) -> Option<Self> {
        Self::start_postgres(Some((certificate, key))).await
    }

    /// Runs a script as the administrator, by the local socket.
    pub fn psql(&self, script: &str) {
        let dir = self.dir.path().display().to_string();
        let args =
            ["--reuid=postgres", "--regid=postgres", "--clear-groups", "psql", "-v", "ON_ERROR_STOP=1"];
        let mut psql = command("setpriv");
        psql.args(args).args(["-h", &dir, "-U", "postgres"]).current_dir("/").stdin(Stdio::piped());
        let mut child = psql.stdout(Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{script}");
    }

    async fn start_postgres(tls: Option<(&Path, &Path)>) -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let bins: Vec<String> =
            versions.map(|version| version.path().join("bin/postgres").display().to_string()).collect();
        let program = find_program("PostgreSQL", &bins)?;
        let mut servers = Self::new();
        let data = servers.dir.path().join("data");
        // It refuses to run as root.
        let open = "chown -R postgres: \"$0\" && chmod 755 \"$0\"";
        assert!(command("sh").args(["-c", open]).arg(servers.dir.path()).status().unwrap().success());
        let as_postgres = |program: &str| {
            let mut command = command("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", program]);
            command.current_dir("/");
            command
        };
        let mut initdb = as_postgres(&program.replace("bin/postgres", "bin/initdb"));
        let made =
            initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"]).arg(&data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        if let Some((certificate, key)) = tls {
            let copy = |from: &Path, name: &str| std::fs::copy(from, data.join(name)).unwrap();
            copy(certificate, "server.crt");
            copy(key, "server.key");
            let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
            std::fs::write(data.join("pg_hba.conf"), rules).unwrap();
            let close = "chown postgres: \"$0\"/server.* && chmod 600 \"$0\"/server.key";
            assert!(command("sh").args(["-c", close]).arg(&data).status().unwrap().success());
        }
        let mut server = as_postgres(&program);
        server.args(["-c", if tls.is_some() { "ssl=on" } else { "ssl=off" }]);
        server.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", "5432", "-k"]).arg(servers.dir.path());
        // A server whose default is the strictest isolation is one that people have.
        server.args(["-c", "default_transaction_isolation=serializable"]);
        servers.ends_on_interrupt = true;
        servers.start(server, "postgres");
        servers.wait_for_port(5432).await;
        Some(servers)
    }

    /// etcd with this number of nodes, for clients at 127.0.0.1:2379, 2389 and so on.
    pub async fn etcd(nodes: u16) -> Option<Self> {
        let program = find_program("etcd", &["/usr/bin/etcd".to_owned()])?;
        let mut servers = Self::new();
        let peer = |node: u16| format!("http://127.0.0.1:{}", 2380 + 10 * node);
        let cluster: Vec<String> = (0..nodes).map(|node| format!("n{node}={}", peer(node))).collect();
        for node in 0..nodes {
            let client = format!("http://127.0.0.1:{}", 2379 + 10 * node);
            let mut server = command(&program);
            server.arg("--name").arg(format!("n{node}"));
            server.arg("--data-dir").arg(servers.dir.path().join(format!("n{node}")));
            server.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            server.args(["--listen-peer-urls", &peer(node), "--initial-advertise-peer-urls", &peer(node)]);
            server.args(["--initial-cluster", &cluster.join(","), "--unsafe-no-fsync"]);
            servers.start(server, &format!("n{node}"));
        }
        for node in 0..nodes {
            servers.wait_for_port(2379 + 10 * node).await;
        }
        Some(servers)
    }

    /// One etcd that requires client certificates, at https://127.0.0.1:2379.
    pub async fn etcd_with_tls(tls: &[String]) -> Option<Self> {
        let program = find_program("etcd", &["/usr/bin/etcd".to_owned()])?;
        let mut servers = Self::new();
        let mut server = command(&program);
        server.arg("--data-dir").arg(servers.dir.path().join("n0")).args(tls);
        server.args(["--client-cert-auth", "--listen-client-urls", "https://127.0.0.1:2379"]);
        server.args(["--advertise-client-urls", "https://127.0.0.1:2379", "--unsafe-no-fsync"]);
        servers.start(server, "n0");
        servers.wait_for_port(2379).await;
        Some(servers)
    }

    /// Consul with this number of servers, with HTTP at 127.0.0.1:8500, 8510 and so on.
    pub async fn consul(nodes: u16) -> Option<Self> {
        Self::start_consul(nodes, "").await
    }

    /// One Consul with more of its configuration.
    pub async fn consul_with(hcl: &str) -> Option<Self> {
        Self::start_consul(1, hcl).await
    }

    /// The tokens of a new Consul are known a moment after its leader.
    pub async fn wait_for_consul_acls(&self, header: &str) {
        let is_known = || {
            let url = "http://127.0.0.1:8500/v1/acl/token/self";
            command("curl").args(["-sf", "-H", header, url]).output().unwrap().status.success()
        };
        self.wait("the tokens", is_known).await;
    }

    async fn start_consul(nodes: u16, hcl: &str) -> Option<Self> {
        let brought = concat!(env!("CARGO_MANIFEST_DIR"), "/target/consul/bin/consul").to_owned();
        let program = find_program("Consul", &[brought])?;
        let mut servers = Self::new();
        for node in 0..nodes {
            let offset = 10 * node;
            let mut server = command(&program);
            server.args(["agent", "-server", "-client=127.0.0.1", "-bind=127.0.0.1", "-datacenter=dc1"]);
            server.arg(format!("-node=n{node}")).arg(format!("-bootstrap-expect={nodes}"));
            server.arg("-data-dir").arg(servers.dir.path().join(format!("n{node}")));
            server.arg("-disable-host-node-id").arg("-raft-protocol=3");
            let ports =
                [("http", 8500), ("dns", 8600), ("server", 8300), ("serf-lan", 8301), ("serf-wan", 8302)];
            for (name, port) in ports {
                server.arg(format!("-{name}-port={}", port + offset));
            }
            server.arg("-retry-join=127.0.0.1:8301");
            // Elections within a second instead of five; two hundred operators of one address are more than the default allows.
            let limits = "limits { http_max_conns_per_client = 2000 }";
            server.args(["-hcl", "performance { raft_multiplier = 1 }", "-hcl", limits, "-hcl", hcl]);
            servers.start(server, &format!("n{node}"));
        }
        for node in 0..nodes {
            let url = format!("http://127.0.0.1:{}/v1/status/leader", 8500 + 10 * node);
            let has_leader = || {
                let answer = command("curl").args(["-sf", &url]).output().unwrap();
                answer.status.success() && answer.stdout.len() > 4
            };
            servers.wait("a leader", has_leader).await;
        }
        Some(servers)
    }
}
