//! `world::machine` from /proc and the kernel's interface list. `/proc/thread-self/net` because a thread may be in a
//! network namespace of its own.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::getifaddrs;

use crate::model::boot::StartedBy;
use crate::model::caller::Caller;
use crate::model::ports::{ClientPorts, Port};
use crate::world::machine::{ListeningProcess, Machine, MachineError};

mod boot;
mod caller;

/// capabilities(7).
const CAP_NET_ADMIN: u32 = 12;
/// net/tcp_states.h, as /proc/net/tcp prints it.
const STATE_LISTEN: &str = "0A";

#[derive(Debug)]
pub struct LocalMachine;

impl Machine for LocalMachine {
    fn host_name(&self) -> Result<String, MachineError> {
        let name = nix::unistd::gethostname().map_err(|error| to_machine_error("host name", &error))?;
        Ok(name.to_string_lossy().into_owned())
    }

    fn list_addresses(&self) -> Result<Vec<IpAddr>, MachineError> {
        let interfaces = getifaddrs().map_err(|error| to_machine_error("interface addresses", &error))?;
        let addresses = interfaces.filter_map(|interface| {
            let storage = interface.address?;
            let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        });
        Ok(addresses.filter(|address| !is_local_scope(*address)).collect())
    }

    fn can_change_rules(&self) -> Result<bool, MachineError> {
        let file = "/proc/thread-self/status";
        let status = fs::read_to_string(file).map_err(|error| to_machine_error(file, &error))?;
        has_net_admin(&status).ok_or_else(|| to_machine_error(file, &"no line `CapEff:`"))
    }

    fn list_listeners(&self, port: Port) -> Result<Vec<ListeningProcess>, MachineError> {
        let inodes = list_listening_inodes(port)?;
        if inodes.is_empty() {
            return Ok(vec![]);
        }
        let proc = fs::read_dir("/proc").map_err(|error| to_machine_error("/proc", &error))?;
        let pids = proc.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut found: Vec<ListeningProcess> =
            pids.filter(|pid| has_socket_open(*pid, &inodes)).map(describe_listener).collect();
        found.sort();
        Ok(found)
    }

    fn read_client_ports(&self) -> Option<ClientPorts> {
        let read = |name| fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(name));
        let reserved = read("ip_local_reserved_ports").unwrap_or_default();
        ClientPorts::parse(&read("ip_local_port_range").ok()?, &reserved)
    }

    fn find_starter(&self, pid: u32) -> Option<StartedBy> {
        boot::find_starter(Path::new("/"), pid)
    }

    fn find_installed_agent(&self) -> Option<bool> {
        boot::find_installed_agent(Path::new("/"))
    }

    fn observe_caller(&self) -> Caller {
        caller::observe(Path::new("/proc"), std::process::id())
    }

    fn read_boot_time(&self) -> Result<jiff::Timestamp, MachineError> {
        let stat =
            fs::read_to_string("/proc/stat").map_err(|error| to_machine_error("/proc/stat", &error))?;
        let second = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let second: i64 = second.ok_or_else(|| to_machine_error("/proc/stat", &"no line `btime`"))?;
        jiff::Timestamp::from_second(second).map_err(|error| to_machine_error("/proc/stat", &error))
    }
}

/// Reads the text of /proc/PID/status: the effective capabilities are a mask in hexadecimal (proc(5)).
fn has_net_admin(status: &str) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask & (1 << CAP_NET_ADMIN) != 0)
}

/// Loopback and link-local: every machine has them.
fn is_local_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

/// Inodes of the sockets that listen on a port, from /proc/net/tcp and tcp6 (proc_net_tcp.rst of the kernel).
fn list_listening_inodes(port: Port) -> Result<BTreeSet<String>, MachineError> {
    let mut inodes = BTreeSet::new();
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let table = match fs::read_to_string(file) {
            Ok(table) => table,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(to_machine_error(file, &error)),
        };
        let ending = format!(":{:04X}", port.get());
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, state, ..] = fields[..]
                && local.ends_with(&ending)
                && state == STATE_LISTEN
                && let Some(inode) = fields.get(9)
            {
                inodes.insert(format!("socket:[{inode}]"));
            }
        }
    }
    Ok(inodes)
}

/// Whether a process has one of these sockets open; one that may not be looked into has none.
fn has_socket_open(pid: u32, inodes: &BTreeSet<String>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| inodes.contains(target.to_string_lossy().as_ref()))
    })
}

fn describe_listener(pid: u32) -> ListeningProcess {
    let comm = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).unwrap_or_default();
    ListeningProcess { pid, name: comm.trim().to_owned() }
}

fn to_machine_error(what: &str, reason: &dyn std::fmt::Display) -> MachineError {
    MachineError { subject: what.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use super::*;
    use crate::sys::exec::Program;
    use crate::sys::testing::run_in_namespace;

    #[test]
    fn listeners_find_listening_process() {
        run_in_namespace(|| async {
            let port = |socket: &TcpListener| Port::new(socket.local_addr().unwrap().port()).unwrap();
            let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
            let v6 = TcpListener::bind("[::1]:0").unwrap();
            for socket in [&v4, &v6] {
                let found = LocalMachine.list_listeners(port(socket)).unwrap();
                assert_eq!(found.iter().map(|one| one.pid).collect::<Vec<_>>(), [std::process::id()]);
            }
            let free = port(&v4);
            drop(v4);
            assert_eq!(LocalMachine.list_listeners(free), Ok(vec![]));
        });
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "a child that is handed a socket, which no program of ours is"
    )]
    fn listeners_find_all_processes_sharing_socket() {
        run_in_namespace(|| async {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = Port::new(socket.local_addr().unwrap().port()).unwrap();
            let shared = OwnedFd::from(socket.try_clone().unwrap());
            let mut child = std::process::Command::new("sleep").arg("60").stdin(shared).spawn().unwrap();
            let found = LocalMachine.list_listeners(port);
            child.kill().unwrap();
            child.wait().unwrap();
            let found = found.unwrap();
            let pids: BTreeSet<u32> = found.iter().map(|one| one.pid).collect();
            assert_eq!(pids, [std::process::id(), child.id()].into());
            let named = found.iter().find(|one| one.pid == child.id());
            assert_eq!(named.map(|one| one.name.as_str()), Some("sleep"));
        });
    }

    #[test]
    fn machine_reports_host_name_and_boot_time() {
        assert!(!LocalMachine.host_name().unwrap().is_empty());
        let booted = LocalMachine.read_boot_time().unwrap();
        assert!(booted < jiff::Timestamp::now());
    }

    #[test]
    fn addresses_exclude_local_scopes() {
        run_in_namespace(|| async {
            let ip = async |args: &str| {
                let ip = Program::new("ip").args(args.split(' '));
                let output = ip.run(b"", Duration::from_secs(10)).await.unwrap();
                assert_eq!(output.status, 0, "ip {args}: {}", output.stderr);
            };
            assert_eq!(LocalMachine.list_addresses(), Ok(vec![]), "only loopback is there");
            ip("link add swm-a type veth peer name swm-b").await;
            for address in ["192.0.2.7/24", "169.254.1.1/16", "2001:db8::7/64", "fe80::7/64"] {
                ip(&format!("address add {address} dev swm-a")).await;
            }
            let found: BTreeSet<IpAddr> = LocalMachine.list_addresses().unwrap().into_iter().collect();
            assert_eq!(found, ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()].into());
        });
    }

    #[test]
    fn net_admin_capability_is_detected() {
        run_in_namespace(|| async {
            assert_eq!(LocalMachine.can_change_rules(), Ok(true));
        });
        assert_eq!(has_net_admin("Name:\tx\nCapEff:\t0000000000001000\n"), Some(true));
        assert_eq!(has_net_admin("CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffefff\n"), Some(false));
        assert_eq!(has_net_admin("Name:\tx\n"), None);
    }
}
