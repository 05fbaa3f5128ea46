//! A real Consul lists the hosts, and a real HAProxy finds them by name in slots: no name of a server is that of a host.

mod exercise9;
mod registration;

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::journal_store::servers::Servers;
use crate::server_lines::serve;
use crate::testing::run_in_namespace;

#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn command(program: &str) -> Command {
    Command::new(program)
}

/// An operator machine that is the web host too, with HAProxy and Consul.
struct Site {
    dir: tempfile::TempDir,
    haproxy: Option<Child>,
}

impl Site {
    /// An address of the machine is the host's: of a loopback address every machine has the same.
    fn new() -> Self {
        let added = command("ip").args(["address", "add", "10.9.0.1/32", "dev", "lo"]).status().unwrap();
        assert!(added.success());
        Self { dir: tempfile::tempdir().unwrap(), haproxy: None }
    }

    fn configure(&self, hosts: &str) {
        let socket = self.dir.path().join("s.sock");
        let text = format!(
            "service: shop\nhosts: {hosts}\nroll: {{min_up: 0, drain_timeout: 5s}}\nload_balancers: [{{name: lb1, \
             haproxy: {}, backend: servers, on_host: true, check: {{inter: 100ms}}}}]\n",
            socket.display()
        );
        std::fs::write(self.dir.path().join("switchman.yaml"), text).unwrap();
    }

    /// Starts HAProxy with these server lines.
    async fn balance(&mut self, lines: &str) {
        serve(8080).await;
        serve(80).await;
        let path = |name: &str| self.dir.path().join(name);
        let text = format!(
            "global\n stats socket {} level admin\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
             timeout server 60s\n\
             resolvers consul\n nameserver local 127.0.0.1:8600\n accepted_payload_size 4096\n resolve_retries 3\n \
             timeout resolve 200ms\n timeout retry 200ms\n hold valid 200ms\n hold nx 200ms\n hold obsolete 500ms\n \
             hold timeout 24h\n hold refused 24h\n hold other 24h\n\
             frontend users\n bind 127.0.0.1:8000\n default_backend servers\n\
             backend servers\n option httpchk\n{lines}\n",
            path("s.sock").display()
        );
        std::fs::write(path("haproxy.cfg"), text).unwrap();
        let log = std::fs::File::create(path("haproxy.log")).unwrap();
        let mut haproxy = command("haproxy");
        haproxy.args(["-db", "-f"]).arg(path("haproxy.cfg")).stdout(log.try_clone().unwrap()).stderr(log);
        self.haproxy = Some(haproxy.stdin(Stdio::null()).spawn().unwrap());
        let listens = async || path("s.sock").exists();
        self.until("HAProxy listens", listens).await;
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !holds().await {
            let log = std::fs::read_to_string(self.dir.path().join("haproxy.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn run(&self, args: &[&str]) -> Output {
        let path = |name: &str| self.dir.path().join(name);
        let mut command = command(env!("CARGO_BIN_EXE_switchman"));
        command.arg("--config").arg(path("switchman.yaml")).arg("--state-dir").arg(path("state"));
        command.args(args).env("XTABLES_LOCKFILE", path("xtables.lock"));
        // The namespace is the thread's: the program is started from here, and awaited without blocking the vhosts.
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
    }

    /// Checks that a command succeeds, and returns all it wrote.
    async fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(output.status.success(), "{args:?}: {text}");
        text
    }

    async fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        text
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(haproxy) = &mut self.haproxy {
            let _ = kill(Pid::from_raw(i32::try_from(haproxy.id()).unwrap()), Signal::SIGTERM);
            let _ = haproxy.wait();
        }
    }
}

fn call_consul(path: &str, body: &str) {
    let url = format!("http://127.0.0.1:8500{path}");
    let answer = command("curl").args(["-sf", "-X", "PUT", "-d", body, &url]).output().unwrap();
    assert!(answer.status.success(), "{path}: {answer:?}");
}

fn register(host: &str, address: &str, slot: u8) {
    let body = format!(
        r#"{{"ID": "shop-{host}", "Name": "shop", "Address": "{address}", "Port": 8080, "Tags": ["{slot}"],
            "Meta": {{"switchman-host": "{host}"}}}}"#
    );
    call_consul("/v1/agent/service/register", &body);
}

#[test]
fn host_whose_servers_have_other_names_goes_through_every_step() {
    run_in_namespace(async || {
        let mut site = Site::new();
        site.configure("{web3: {address: 10.9.0.1}}");
        site.balance(
            " server srv7 10.9.0.1:8080 check port 8888 inter 100ms\n server spare7 10.9.0.1:80 check inter 100ms backup",
        )
        .await;
        site.succeeds(&["enable-forward", "--host", "web3"]).await;
        let status = site.succeeds(&["status", "--host", "web3"]).await;
        assert!(
            status.contains("srv7") && status.contains("spare7") && !status.contains("no such server"),
            "{status}"
        );
        let off = site.succeeds(&["disable-forward", "--drain", "--host", "web3"]).await;
        assert!(off.contains("web3 (srv7)"), "{off}");
        site.succeeds(&["enable-forward", "--host", "web3"]).await;
        let rolled = site.succeeds(&["roll", "--host", "web3", "--", "true"]).await;
        assert!(rolled.contains("1 of 1"), "{rolled}");
        let checked = site.run(&["check", "--host", "web3"]).await;
        let checked = String::from_utf8(checked.stdout).unwrap();
        assert!(checked.contains("`web3 (srv7)` is UP") && !checked.contains("no-server"), "{checked}");
    });
}

#[test]
fn server_that_is_nowhere_is_named_with_its_address() {
    run_in_namespace(async || {
        let mut site = Site::new();
        site.configure("{web3: {address: 10.9.0.1}}");
        site.balance(" server srv7 127.0.0.9:8080 check port 8888 inter 100ms").await;
        site.succeeds(&["enable-forward", "--no-wait", "--host", "web3"]).await;
        let error = site.fails(&["disable-forward", "--host", "web3"]).await;
        let text =
            "`lb1` has no server `main-web3` in this backend, and none with the address `10.9.0.1:8080`";
        assert!(error.contains(text), "{error}");
    });
}

#[test]
fn host_of_consul_in_a_resolved_slot_is_rolled_and_resumed_from_the_record() {
    run_in_namespace(async || {
        let Some(_consul) = Servers::consul(1).await else { return };
        let mut site = Site::new();
        site.configure("{consul: {service: shop}}");
        let slots = "resolvers consul resolve-prefer ipv4 init-addr none resolve-opts allow-dup-ip";
        let slot = |number: u8| {
            let name = format!("{number}.shop.service.consul");
            format!(
                " server main-{number} {name}:8080 check port 8888 inter 100ms rise 1 {slots}\n \
                 server spare-{number} {name}:80 check inter 100ms rise 1 backup {slots}\n"
            )
        };
        site.balance(&[slot(1), slot(2)].concat()).await;
        let error = site.fails(&["enable-forward", "--all"]).await;
        assert!(
            error.contains("service `shop` in Consul at http://127.0.0.1:8500: it lists no host"),
            "{error}"
        );
        register("web1", "10.9.0.1", 2);
        let is_filled = async || site.run(&["enable-forward", "--all"]).await.status.success();
        site.until("HAProxy resolves the slot", is_filled).await;
        let status = site.succeeds(&["status"]).await;
        assert!(
            status.contains("web1") && status.contains("main-2") && status.contains("spare-2"),
            "{status}"
        );

        // The host leaves the catalogue while it is out of service: the roll has its list.
        let failed = site.run(&["roll", "--", "false"]).await;
        assert!(!failed.status.success());
        call_consul("/v1/agent/service/deregister/shop-web1", "");
        let resumed = site.run(&["roll", "--resume"]).await;
        let text = String::from_utf8([resumed.stdout, resumed.stderr].concat()).unwrap();
        assert!(text.contains("it is not known which hosts appeared since the roll began"), "{text}");
        assert!(!text.contains("none of the hosts"), "{text}");
        register("web1", "10.9.0.1", 2);
        register("web2", "127.0.0.2", 1);
        site.succeeds(&["roll", "--abort"]).await;
        let rolled = site.succeeds(&["roll", "--host", "web1", "--", "true"]).await;
        assert!(rolled.contains("1 of 1"), "{rolled}");
        assert!(!rolled.contains("the hosts have changed"), "{rolled}");
        let leave =
            "curl -sf -X PUT http://127.0.0.1:8500/v1/agent/service/deregister/shop-web2 && true".to_owned();
        let rolled = site.succeeds(&["roll", "--host", "web1", "--", "sh", "-c", &leave]).await;
        assert!(rolled.contains("the hosts have changed since the roll began: `web2` vanished"), "{rolled}");
    });
}

#[test]
fn hosts_are_listed_by_dns_beside_written_ones() {
    run_in_namespace(async || {
        let Some(_consul) = Servers::consul(1).await else { return };
        let site = Site::new();
        register("web1", "10.9.0.1", 1);
        register("web2", "127.0.0.2", 2);
        let list = async |hosts: &str| {
            site.configure(hosts);
            let plan = site.run(&["roll", "--batch", "9", "--dry-run", "--", "true"]).await;
            String::from_utf8([plan.stdout, plan.stderr].concat()).unwrap()
        };
        let server = "server: \"127.0.0.1:8600\"";
        let by_address =
            format!("{{web9: {{address: 127.0.0.9}}, dns: {{a: shop.service.consul, {server}}}}}");
        let plan = list(&by_address).await;
        assert!(["web9", "10.9.0.1", "127.0.0.2"].iter().all(|host| plan.contains(host)), "{plan}");
        let written = format!("{{web1: {{address: 10.9.0.1}}, dns: {{a: shop.service.consul, {server}}}}}");
        let plan = list(&written).await;
        assert!(plan.contains("web1, 127.0.0.2"), "the written host by its address: {plan}");
        // Consul names the targets of SRV records by their addresses.
        let plan = list(&format!("{{dns: {{srv: _shop._tcp.service.consul, {server}}}}}")).await;
        assert!(plan.contains("7f000002") && plan.contains("0a090001"), "{plan}");
        let none = list(&format!("{{dns: {{a: none.service.consul, {server}}}}}")).await;
        assert!(
            none.contains("A and AAAA records of `none.service.consul`") && none.contains("it lists no host"),
            "{none}"
        );
        let dead = list("{dns: {a: shop.service.consul, server: \"127.0.0.1:8601\"}}").await;
        assert!(dead.contains("error: cannot list the hosts: A and AAAA records"), "{dead}");
        let dead = list("{consul: {service: shop, address: \"http://127.0.0.1:8501\"}}").await;
        assert!(
            dead.contains("error: cannot list the hosts: service `shop` in Consul at http://127.0.0.1:8501"),
            "{dead}"
        );
    });
}
