//! A namespace with a switch (a bridge), one for the load balancer, one a web host, one for the client. Links are made
//! with both ends inside namespaces, so the machine's own network never sees an interface of ours.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::run_checked;
use super::error::LabError;
use crate::model::host::{Host, Transport};
use crate::model::name::HostName;
use crate::sys::exec::Program;

/// Lists the labs that have a namespace of their switch: `swm-NAME-sw`.
pub fn list_labs() -> Vec<String> {
    let entries = std::fs::read_dir(NETNS).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some(name.strip_prefix("swm-")?.strip_suffix("-sw")?.to_owned())).collect()
}

/// The directory where `ip netns` keeps the names (ip-netns(8)).
const NETNS: &str = "/run/netns";
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct Namespaces {
    name: HostName,
    hosts: u8,
    balancers: u8,
}

impl Namespaces {
    pub fn new(name: &HostName, hosts: u8, balancers: u8) -> Self {
        Self { name: name.clone(), hosts, balancers }
    }

    /// Makes the namespaces, the links between them and the addresses inside them.
    pub async fn create(&self) -> Result<(), LabError> {
        let net = self;
        let mut batch = format!("netns add {}\n", net.full_name("sw"));
        for node in net.node_names() {
            let _ = writeln!(batch, "netns add {}", net.full_name(&node));
        }
        run_ip_batch(&[], &batch).await?;
        let mut batch = String::new();
        for node in net.node_names() {
            let (inside, switch) = (net.full_name(&node), net.full_name("sw"));
            let _ = writeln!(batch, "link add eth0 netns {inside} type veth peer name {node} netns {switch}");
        }
        run_ip_batch(&[], &batch).await?;
        let mut batch = String::from("link add br0 type bridge\nlink set br0 up\n");
        for node in net.node_names() {
            let _ = write!(batch, "link set {node} master br0\nlink set {node} up\n");
        }
        run_ip_batch(&["-n", &net.full_name("sw")], &batch).await?;
        let nodes = net.node_names();
        let inside = nodes.iter().map(async |node| {
            let (v4, v6) = (net.address(node), net.address6(node));
            // nodad: an IPv6 address is usable at once, no other interface can have it here.
            let batch = format!(
                "link set lo up\naddress add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\nlink set eth0 up\n"
            );
            run_ip_batch(&["-n", &net.full_name(node)], &batch).await
        });
        futures_util::future::try_join_all(inside).await?;
        for balancer in net.balancers() {
            net.narrow_ports(&balancer).await?;
        }
        for host in net.web_hosts() {
            net.shorten_conntrack_close(host.name.as_str()).await?;
        }
        Ok(())
    }

    /// A rolling assign waits for as long as the kernel remembers a connection it has reset: 10 s on a real host.
    async fn shorten_conntrack_close(&self, host: &str) -> Result<(), LabError> {
        let script = "f=/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close; [ ! -w $f ] || echo 1 > $f";
        self.program(host, "sh").args(["-c", script]).run(b"", COMMAND_TIMEOUT).await?;
        Ok(())
    }

    /// Health checks and requests of a load balancer soon share source ports, as they do in time on a real one: then the
    /// kernel translates a request's, and loses it if connection tracking ever ends on the host.
    async fn narrow_ports(&self, balancer: &str) -> Result<(), LabError> {
        let script = "echo 40000 40999 > /proc/sys/net/ipv4/ip_local_port_range";
        // Where /proc/sys may not be written the rehearsal goes on with the usual ports.
        self.program(balancer, "sh").args(["-c", script]).run(b"", COMMAND_TIMEOUT).await?;
        Ok(())
    }

    /// `swm-NAME-web1`.
    fn full_name(&self, node: &str) -> String {
        format!("{}{node}", build_prefix(&self.name))
    }

    pub fn path(&self, node: &str) -> PathBuf {
        PathBuf::from(NETNS).join(self.full_name(node))
    }

    fn node_names(&self) -> Vec<String> {
        let webs = (1..=self.hosts).map(|number| format!("web{number}"));
        std::iter::once("client".to_owned()).chain(self.balancers()).chain(webs).collect()
    }

    /// `lb1`, `lb2`...
    pub fn balancers(&self) -> impl Iterator<Item = String> {
        (1..=self.balancers).map(|number| format!("lb{number}"))
    }

    pub fn address(&self, node: &str) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, self.last_byte(node)))
    }

    /// Returns the endpoints where the hosts read the load balancers.
    pub fn admin_addresses(&self) -> Vec<String> {
        self.balancers().map(|balancer| format!("tcp://{}:9999", self.address(&balancer))).collect()
    }

    fn address6(&self, node: &str) -> String {
        format!("fd00:77::{:x}", self.last_byte(node))
    }

    fn last_byte(&self, node: &str) -> u8 {
        let number = |kind| node.strip_prefix(kind).and_then(|number| number.parse::<u8>().ok());
        match (number("lb"), number("web")) {
            (Some(number), _) => 1 + number.min(self.balancers),
            (_, Some(number)) => 10 + number.min(self.hosts),
            _ => 250,
        }
    }

    pub fn web_hosts(&self) -> Vec<Host> {
        let host = |number| {
            let node = format!("web{number}");
            let name = node.parse().ok()?;
            Some(Host { name, address: Some(self.address(&node)), transport: Transport::Local })
        };
        (1..=self.hosts).filter_map(host).collect()
    }

    /// `ip netns exec` becomes the program itself, so the pid of the child is the program's.
    pub fn program(&self, node: &str, program: impl AsRef<OsStr>) -> Program {
        Program::new("ip").args(["netns", "exec", &self.full_name(node)]).arg(program)
    }
}

fn build_prefix(name: &HostName) -> String {
    format!("swm-{name}-")
}

/// Names of the namespaces that belong to a lab, from the kernel's own list.
pub fn list_namespaces(name: &HostName) -> Vec<String> {
    let entries =
        std::fs::read_dir(NETNS).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let names = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    let mut mine: Vec<String> = names.filter(|other| is_namespace_of(other, name)).collect();
    mine.sort();
    mine
}

/// `swm-a-web1` belongs to `a`; `swm-a-b-web1` to `a-b` only.
fn is_namespace_of(namespace: &str, name: &HostName) -> bool {
    namespace.strip_prefix(&build_prefix(name)).is_some_and(|node| {
        let number = node.strip_prefix("web").or_else(|| node.strip_prefix("lb")).unwrap_or("");
        matches!(node, "sw" | "client") || number.parse::<u8>().is_ok()
    })
}

/// Ends the processes inside the lab's namespaces, and removes the namespaces with all that is in them.
pub async fn remove(name: &HostName) -> Result<(), LabError> {
    for namespace in list_namespaces(name) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
            loop {
                let pids = list_pids(&namespace).await?;
                if pids.is_empty() || tokio::time::Instant::now() > deadline {
                    break;
                }
                for pid in pids {
                    // One that ended in between is what is wanted.
                    let _ = kill(pid, signal);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        run_ip_batch(&[], &format!("netns delete {namespace}\n")).await?;
    }
    Ok(())
}

async fn list_pids(namespace: &str) -> Result<Vec<Pid>, LabError> {
    let output = Program::new("ip").args(["netns", "pids", namespace]).run(b"", COMMAND_TIMEOUT).await?;
    Ok(output.stdout.lines().filter_map(|line| line.trim().parse().ok()).map(Pid::from_raw).collect())
}

/// The state of one namespace of a lab.
#[derive(Debug, Clone, serde::Serialize)]
pub struct NamespaceStatus {
    pub namespace: String,
    /// Names of the programs inside.
    pub processes: Vec<String>,
    /// Whether the namespace's rules hold a forward; absent where there are no web hosts.
    pub forward: Option<bool>,
}

/// Whether a lab of that name has namespaces.
pub fn exist(name: &HostName) -> bool {
    !list_namespaces(name).is_empty()
}

/// Lists the namespaces of a lab; empty when none of that name is up.
pub async fn inspect(name: &HostName) -> Result<Vec<NamespaceStatus>, LabError> {
    let mut statuses = Vec::new();
    for namespace in list_namespaces(name) {
        let command = |pid: Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let processes =
            list_pids(&namespace).await?.into_iter().map(|pid| command(pid).trim().to_owned()).collect();
        let save = Program::new("ip").args(["netns", "exec", &namespace, "iptables-save", "-t", "nat"]);
        let is_host = namespace.starts_with(&format!("{}web", build_prefix(name)));
        let forward = if is_host {
            Some(save.run(b"", COMMAND_TIMEOUT).await?.stdout.contains(":forward"))
        } else {
            None
        };
        statuses.push(NamespaceStatus { namespace, processes, forward });
    }
    Ok(statuses)
}

/// Removes a lab without a runtime to wait with: on a thread of its own.
pub fn remove_blocking(name: &HostName) {
    let name = name.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(remove(&name)).map_err(std::io::Error::other)
    });
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::error!("the lab is not removed, try `switchman lab down`: {error}"),
        Err(_) => log::error!("the lab is not removed, try `switchman lab down`"),
    }
}

async fn run_ip_batch(options: &[&str], batch: &str) -> Result<(), LabError> {
    run_checked(&Program::new("ip").args(options).args(["-batch", "-"]), batch.as_bytes(), COMMAND_TIMEOUT)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_ignores_namespaces_of_other_labs() {
        let name = |text: &str| text.parse::<HostName>().unwrap();
        assert!(is_namespace_of("swm-a-web1", &name("a")) && is_namespace_of("swm-a-b-sw", &name("a-b")));
        for other in ["swm-a-b-web1", "swm-ab-web1", "web1", "swm-a-", "swm-a-webx", "swm-a-other"] {
            assert!(!is_namespace_of(other, &name("a")), "{other}");
        }
    }
}
