//! `world::lock::HolderIdentity` by /proc: this process, and whether another one of this machine still runs.

use std::fs;

use crate::model::lock::{Holder, Liveness, LockPurpose};
use crate::world::lock::HolderIdentity;

#[derive(Debug, Clone, Copy, Default)]
pub struct ProcIdentity;

impl HolderIdentity for ProcIdentity {
    fn holder(&self, user: &str, purpose: LockPurpose, now: jiff::Timestamp) -> Holder {
        let pid = std::process::id();
        Holder {
            user: user.to_owned(),
            machine: read_machine_name(),
            boot_id: read_boot_id(),
            pid,
            start_ticks: read_start_time(pid).unwrap_or(0),
            pid_namespace: read_pid_namespace(),
            purpose,
            since: now,
        }
    }

    /// A process is dead only where its pid can be looked up: in this boot and in this pid namespace. Machine names prove
    /// nothing: the containers of two machines may have one name.
    fn detect_liveness(&self, holder: &Holder) -> Liveness {
        match &holder.purpose {
            LockPurpose::Operator { .. } => Liveness::Live,
            _ if holder.boot_id != read_boot_id() || holder.pid_namespace != read_pid_namespace() => {
                Liveness::Remote
            }
            _ if read_start_time(holder.pid) == Some(holder.start_ticks) => Liveness::Live,
            _ => Liveness::Dead,
        }
    }
}

fn read_machine_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub fn read_boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// pid_namespaces(7): `pid:[4026531836]`.
fn read_pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// proc(5): field 22 of /proc/PID/stat, counted behind the name, which may hold blanks and brackets.
fn read_start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    // A zombie does nothing any more.
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine() -> Holder {
        let purpose = LockPurpose::Command { name: "assign shop 2.0.0".to_owned() };
        ProcIdentity.holder("ops", purpose, jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn holder_is_dead_only_where_its_pid_can_be_looked_up() {
        let me = mine();
        let lives = |holder: Holder| ProcIdentity.detect_liveness(&holder);
        assert_eq!(lives(me.clone()), Liveness::Live);
        assert_eq!(lives(Holder { start_ticks: me.start_ticks + 1, ..me.clone() }), Liveness::Dead);
        // Another boot may be that of another machine of the same name, as CI's containers have it.
        assert_eq!(lives(Holder { boot_id: "another".into(), ..me.clone() }), Liveness::Remote);
        let other_namespace = Holder { pid_namespace: "pid:[1]".into(), start_ticks: 1, ..me.clone() };
        assert_eq!(lives(other_namespace), Liveness::Remote);
        let purpose = LockPurpose::Operator { message: "hands off".into() };
        assert_eq!(
            lives(Holder { start_ticks: 1, purpose, ..me }),
            Liveness::Live,
            "a person needs no process"
        );
    }

    #[test]
    fn start_time_parses_after_any_process_name() {
        let me = std::process::id();
        let clock = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let up: u64 = uptime.split('.').next().unwrap().parse().unwrap();
        let since = (up + 1).checked_sub(read_start_time(me).unwrap() / u64::try_from(clock).unwrap());
        assert!(since.is_some_and(|since| since < 3600), "{since:?}");
        // A name with blanks and brackets, as any program may give itself.
        let thread = std::thread::Builder::new().name(") Z 1 (x".into());
        let named = thread.spawn(move || {
            let tid = nix::unistd::gettid().as_raw().unsigned_abs();
            (read_start_time(tid).unwrap(), read_start_time(me).unwrap())
        });
        let (thread, process) = named.unwrap().join().unwrap();
        assert!(thread >= process && thread < process + 3600 * 100, "{thread} {process}");
    }

    #[test]
    fn holder_zombie_is_not_alive() {
        #[allow(clippy::disallowed_methods, reason = "a test of what is left of a process")]
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let started_at = read_start_time(child.id());
        while fs::read_to_string(format!("/proc/{}/stat", child.id()))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            std::thread::yield_now();
        }
        let holder = Holder { pid: child.id(), start_ticks: started_at.unwrap_or(1), ..mine() };
        assert_eq!(ProcIdentity.detect_liveness(&holder), Liveness::Dead);
        child.wait().unwrap();
        assert_eq!(ProcIdentity.detect_liveness(&holder), Liveness::Dead);
    }
}
