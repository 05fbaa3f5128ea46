//! What systemd starts at boot, from its files: systemd.unit(5) for the directories, cgroups(7) for the group of a process.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::model::boot::StartedBy;

/// There while systemd is the service manager (sd_booted(3)).
const RUNNING: &str = "run/systemd/system";
/// Units and the links that enable them. Generators write those of /etc/init.d.
const UNIT_DIRS: [&str; 6] = [
    "etc/systemd/system",
    "run/systemd/system",
    "run/systemd/generator",
    "run/systemd/generator.late",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
const AGENT_UNIT: &str = "switchman.service";
/// The agent's socket by default, as in `switchman agent --socket`.
const AGENT_SOCKET: &str = "run/switchman/agent.sock";

pub(super) fn find_starter(root: &Path, pid: u32) -> Option<StartedBy> {
    if !root.join(RUNNING).is_dir() {
        return None;
    }
    let groups = fs::read_to_string(root.join(format!("proc/{pid}/cgroup"))).ok()?;
    let name = find_unit_name(&groups)?;
    if name.rsplit_once('.').is_some_and(|(_, kind)| kind != "service") {
        return Some(StartedBy::Scope(name));
    }
    let is_enabled = is_enabled(root, &name);
    Some(StartedBy::Unit { name, is_enabled })
}

/// Reads the last unit in the path of systemd's own hierarchy: the only one (`0::`), or `name=systemd` beside the controllers.
fn find_unit_name(groups: &str) -> Option<String> {
    let path = |prefix: &str| groups.lines().find_map(|line| line.split_once(prefix).map(|(_, path)| path));
    let path = path(":name=systemd:").or_else(|| path("0::"))?;
    let is_unit = |part: &&str| matches!(part.rsplit_once('.'), Some((_, "service" | "scope")));
    path.rsplit('/').find(is_unit).map(str::to_owned)
}

/// Whether a `.wants` or `.requires` directory has the service, or a socket, timer or path of its name.
fn is_enabled(root: &Path, service: &str) -> bool {
    let stem = service.trim_end_matches(".service");
    let names = ["service", "socket", "timer", "path"].map(|kind| format!("{stem}.{kind}"));
    let starts = |dir: PathBuf| names.iter().any(|name| fs::symlink_metadata(dir.join(name)).is_ok());
    UNIT_DIRS.iter().any(|dir| {
        let entries = fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
        let is_list = |path: &PathBuf| {
            path.extension().is_some_and(|extension| extension == "wants" || extension == "requires")
        };
        entries.map(|entry| entry.path()).filter(is_list).any(starts)
    })
}

pub(super) fn find_installed_agent(root: &Path) -> Option<bool> {
    let is_installed = UNIT_DIRS.iter().any(|dir| root.join(dir).join(AGENT_UNIT).is_file());
    if !is_installed || !root.join(RUNNING).is_dir() {
        return None;
    }
    Some(match UnixStream::connect(root.join(AGENT_SOCKET)) {
        Ok(_) => true,
        // One that this user may not reach.
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn starter_is_the_unit_of_systemds_hierarchy() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "proc/7/cgroup", "0::/system.slice/nginx.service\n");
        assert_eq!(find_starter(root, 7), None, "no systemd");
        fs::create_dir_all(root.join(RUNNING)).unwrap();
        let unit = |name: &str, is_enabled| Some(StartedBy::Unit { name: name.to_owned(), is_enabled });
        assert_eq!(find_starter(root, 7), unit("nginx.service", false));
        write(root, "etc/systemd/system/multi-user.target.wants/nginx.service", "");
        assert_eq!(find_starter(root, 7), unit("nginx.service", true));
        // Hybrid, and a service inside a group of its own.
        let hybrid = "5:memory:/system.slice/cron.service\n1:name=systemd:/system.slice/app@1.service/worker\n0::/x.scope\n";
        write(root, "proc/8/cgroup", hybrid);
        assert_eq!(find_starter(root, 8), unit("app@1.service", false));
        write(root, "lib/systemd/system/sockets.target.wants/app@1.socket", "");
        assert_eq!(find_starter(root, 8), unit("app@1.service", true));
        write(root, "proc/9/cgroup", "0::/user.slice/user-0.slice/session-3.scope\n");
        assert_eq!(find_starter(root, 9), Some(StartedBy::Scope("session-3.scope".to_owned())));
        write(root, "proc/10/cgroup", "0::/\n");
        assert_eq!((find_starter(root, 10), find_starter(root, 11)), (None, None));
    }

    #[test]
    fn agent_is_running_while_its_socket_answers() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join(RUNNING)).unwrap();
        assert_eq!(find_installed_agent(root), None);
        write(root, "lib/systemd/system/switchman.service", "");
        assert_eq!(find_installed_agent(root), Some(false));
        fs::create_dir_all(root.join("run/switchman")).unwrap();
        let listener = UnixListener::bind(root.join(AGENT_SOCKET)).unwrap();
        assert_eq!(find_installed_agent(root), Some(true));
        drop(listener);
        assert_eq!(find_installed_agent(root), Some(false), "its file is left");
    }
}
