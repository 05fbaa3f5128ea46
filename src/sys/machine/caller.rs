//! The user behind a process, by what the kernel records of it: no environment variable, which a caller could choose.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use nix::unistd::{Uid, User};

use crate::model::caller::{Caller, CallerIdentity};

/// proc(5), `/proc/PID/loginuid` of a process that no login started: (uid_t) -1.
const NO_LOGIN: u32 = u32::MAX;
/// net/tcp_states.h, as /proc/net/tcp prints it.
const STATE_ESTABLISHED: &str = "01";
/// Ancestors of a process that are looked at.
const MAX_DEPTH: usize = 64;

/// A process and its real user.
#[derive(Debug, Clone)]
struct Process {
    pid: u32,
    parent: u32,
    uid: u32,
    name: String,
}

/// Observes the user of a process, the user who logged in to start it, and the client of the sshd that it came by.
///
/// The login user is the kernel's login uid, which PAM sets at a login and which sudo keeps. Where no login set it, it is the user of
/// the nearest ancestor that is not root: sudo runs as root, and the shell that called it does not.
pub(super) fn observe(proc: &Path, pid: u32) -> Caller {
    let chain = read_chain(proc, pid);
    let uid = chain.first().map_or_else(|| Uid::current().as_raw(), |process| process.uid);
    let ancestor = chain.iter().skip(1).map(|process| process.uid).find(|ancestor| *ancestor != 0);
    let login = read_login_uid(proc, pid).or_else(|| ancestor.filter(|_| uid == 0));
    let login = login.filter(|login| *login != uid).map(name_user);
    let identity = CallerIdentity::User { name: name_user(uid), uid, login };
    Caller::new(identity, chain.iter().find_map(|process| find_ssh_client(proc, process)))
}

/// Reads a process and its ancestors without the init process.
fn read_chain(proc: &Path, pid: u32) -> Vec<Process> {
    let first = read_process(proc, pid);
    std::iter::successors(first, |process| read_process(proc, process.parent))
        .take_while(|process| process.pid > 1)
        .take(MAX_DEPTH)
        .collect()
}

fn read_process(proc: &Path, pid: u32) -> Option<Process> {
    let status = fs::read_to_string(proc.join(pid.to_string()).join("status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some(Process {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        uid: field("Uid:")?.split_whitespace().next()?.parse().ok()?,
        name: field("Name:")?.to_owned(),
    })
}

fn read_login_uid(proc: &Path, pid: u32) -> Option<u32> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
}

fn name_user(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// Finds the client of a process that is root's part of sshd: its established connection. A user cannot choose it, as `SSH_CONNECTION`
/// in the environment of a shell.
fn find_ssh_client(proc: &Path, process: &Process) -> Option<SocketAddr> {
    if process.uid != 0 || !process.name.starts_with("sshd") {
        return None;
    }
    let dir = proc.join(process.pid.to_string());
    let sockets: BTreeSet<String> = fs::read_dir(dir.join("fd"))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    ["tcp", "tcp6"].iter().find_map(|table| {
        let table = fs::read_to_string(dir.join("net").join(table)).ok()?;
        table.lines().skip(1).find_map(|line| parse_peer(line, &sockets))
    })
}

/// proc_net_tcp: `sl local_address rem_address st ... inode`; the inode is the tenth column.
fn parse_peer(line: &str, sockets: &BTreeSet<String>) -> Option<SocketAddr> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (remote, state, inode) = (columns.get(2)?, columns.get(3)?, columns.get(9)?);
    if *state != STATE_ESTABLISHED || !sockets.contains(*inode) {
        return None;
    }
    let (address, port) = remote.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<u32> = (0..address.len() / 8)
        .filter_map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok())
        .collect();
    // Each word is in the byte order of the host.
    let ip = match words[..] {
        [word] => IpAddr::V4(Ipv4Addr::from(word.to_ne_bytes())),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (chunk, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FakeProc(tempfile::TempDir);

    impl FakeProc {
        fn add(&self, pid: u32, parent: u32, uid: u32, name: &str) -> &Self {
            let dir = self.0.path().join(pid.to_string());
            fs::create_dir_all(dir.join("fd")).unwrap();
            fs::create_dir_all(dir.join("net")).unwrap();
            let status = format!("Name:\t{name}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n");
            fs::write(dir.join("status"), status).unwrap();
            self
        }

        fn set_login(&self, pid: u32, uid: u32) {
            fs::write(self.0.path().join(pid.to_string()).join("loginuid"), uid.to_string()).unwrap();
        }

        fn observe(&self, pid: u32) -> String {
            observe(self.0.path(), pid).to_string()
        }
    }

    /// sshd, the shell of a user, sudo, switchman.
    fn proc() -> FakeProc {
        let proc = FakeProc(tempfile::tempdir().unwrap());
        proc.add(1, 0, 0, "systemd").add(10, 1, 0, "sshd").add(11, 10, 65534, "sh");
        proc.add(12, 11, 0, "sudo").add(13, 12, 0, "switchman");
        proc
    }

    #[test]
    fn login_is_the_kernels_or_the_nearest_ancestor_that_is_not_root() {
        let proc = proc();
        let nobody = name_user(65534);
        assert_eq!(proc.observe(13), format!("user root (login {nobody})"));
        proc.set_login(13, NO_LOGIN);
        assert_eq!(proc.observe(13), format!("user root (login {nobody})"), "no login set it");
        proc.set_login(13, 4_000_000_001);
        assert_eq!(proc.observe(13), "user root (login uid 4000000001)");
        proc.set_login(13, 0);
        assert_eq!(proc.observe(13), "user root");
        // The parent of a daemon is init: no user called it.
        proc.add(20, 1, 0, "switchman");
        assert_eq!(proc.observe(20), "user root");
        // A user's own process is that user's, regardless of its ancestors.
        proc.add(21, 12, 65534, "switchman");
        assert_eq!(proc.observe(21), format!("user {nobody}"));
    }

    #[test]
    fn ssh_client_is_the_peer_of_sshd_and_not_of_a_users_process() {
        let proc = proc();
        let line = |remote: &str, state: &str, inode: u32| {
            format!(
                "  sl  local_address rem_address   st\n   0: 0100007F:0016 {remote} {state} 0:0 0:0 0 0 0 {inode} 1\n"
            )
        };
        let connect = |pid: u32, remote: &str, state: &str| {
            let dir = proc.0.path().join(pid.to_string());
            let _ = fs::remove_file(dir.join("fd/3"));
            std::os::unix::fs::symlink("socket:[77]", dir.join("fd/3")).unwrap();
            fs::write(dir.join("net/tcp"), line(remote, state, 77)).unwrap();
        };
        let local = |a: u8, b: u8, c: u8, d: u8| format!("{:08X}", u32::from_ne_bytes([a, b, c, d]));
        // The shell has a connection of its own, as the user chose it.
        connect(11, &format!("{}:1F90", local(8, 8, 8, 8)), "01");
        let name = name_user(65534);
        assert_eq!(proc.observe(13), format!("user root (login {name})"));
        connect(10, &format!("{}:C000", local(10, 0, 0, 9)), "0A");
        assert_eq!(proc.observe(13), format!("user root (login {name})"), "it only listens");
        connect(10, &format!("{}:C000", local(10, 0, 0, 9)), "01");
        assert_eq!(proc.observe(13), format!("user root (login {name}) from 10.0.0.9"));
        assert_eq!(observe(proc.0.path(), 13).address, Some("10.0.0.9:49152".parse().unwrap()));
        let mapped = format!("0000000000000000{}{}:0001", local(0, 0, 255, 255), local(10, 0, 0, 7));
        let sockets = BTreeSet::from(["77".to_owned()]);
        let parsed = parse_peer(line(&mapped, "01", 77).lines().nth(1).unwrap(), &sockets);
        assert_eq!(parsed, Some("10.0.0.7:1".parse().unwrap()));
    }
}
