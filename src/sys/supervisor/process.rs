//! Processes by pid and time of birth, so that a pid that was given to another one is never taken for the first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;

/// In the environment of every process of an instance: its directory, which no two instances of a machine share.
pub const MARK_ENV: &str = "SWITCHMAN_INSTANCE_DIR";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// Clock ticks after boot (proc_pid_stat(5), field 22).
    #[serde(alias = "born")]
    pub start_ticks: u64,
    /// Id of the boot (/proc/sys/kernel/random/boot_id): a state file outlives it.
    #[serde(alias = "boot")]
    pub boot_id: String,
}

impl ProcessId {
    /// The process that has this pid now; one that ended and was not waited for is none.
    pub fn from_pid(pid: u32) -> Option<Self> {
        let stat = ProcessStat::read(pid)?;
        stat.is_alive.then(|| Self { pid, start_ticks: stat.start_ticks, boot_id: read_boot_id() })
    }

    /// Identifies a child that was not waited for yet: also where it has ended.
    pub fn from_child(pid: u32) -> Option<Self> {
        ProcessStat::read(pid).map(|stat| Self {
            pid,
            start_ticks: stat.start_ticks,
            boot_id: read_boot_id(),
        })
    }

    pub fn is_alive(&self) -> bool {
        Self::from_pid(self.pid).as_ref() == Some(self)
    }

    /// A handle that stays that of this process, readable once it has ended (pidfd_open(2)).
    pub fn open_handle(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The pid may have been reused: a process that is alive after this point is the one of the handle.
        self.is_alive().then_some(handle)
    }

    /// Sends the signal. A process that has ended already is not an error: its end is what the caller wants.
    pub fn signal(&self, signal: Signal) {
        if let Some(handle) = self.open_handle() {
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}

fn read_boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

struct ProcessStat {
    parent: u32,
    start_ticks: u64,
    is_alive: bool,
}

impl ProcessStat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The program's name is in brackets and may hold brackets and blanks itself.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        let lives = !matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        // State is field 3, the parent field 4.
        let born = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, start_ticks: born, is_alive: lives })
    }
}

/// Reads a text as `/proc/PID/stat`: a target of tests/fuzz/parsers.
#[cfg(fuzzing)]
pub(super) fn fuzz_stat(text: &str) {
    let _ = ProcessStat::parse(text);
}

/// How the processes of an instance are distinguished from all others.
#[derive(Debug)]
pub struct InstanceProcesses {
    pub mark: PathBuf,
    pub cgroup: Option<Cgroup>,
}

impl InstanceProcesses {
    /// All that are there now: what descends from this process, which is not among them, what is in the cgroup and what has
    /// the mark. The last two also find what became a daemon while no keeper was there.
    pub fn find(&self) -> BTreeSet<ProcessId> {
        let (boot, us) = (read_boot_id(), std::process::id());
        let all: BTreeMap<u32, ProcessStat> = list_pids()
            .into_iter()
            .filter_map(|pid| ProcessStat::read(pid).map(|stat| (pid, stat)))
            .collect();
        let grouped = self.cgroup.as_ref().map(Cgroup::read_pids);
        let descends = |mut pid: u32| {
            // A walk is never longer than there are processes: what was read bit by bit may be a ring.
            (0..all.len()).any(|_| match all.get(&pid) {
                Some(stat) => {
                    pid = stat.parent;
                    pid == us
                }
                None => false,
            })
        };
        let ours = |pid: u32| {
            grouped.as_ref().is_some_and(|pids| pids.contains(&pid))
                || descends(pid)
                || is_marked(pid, &self.mark)
        };
        all.iter()
            // One that ended below us and was not waited for is ours to wait for still.
            .filter(|(pid, stat)| **pid != us && if stat.is_alive { ours(**pid) } else { descends(**pid) })
            .map(|(pid, stat)| ProcessId { pid: *pid, start_ticks: stat.start_ticks, boot_id: boot.clone() })
            .collect()
    }
}

fn list_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn is_marked(pid: u32, mark: &Path) -> bool {
    let line = [MARK_ENV.as_bytes(), b"=", mark.as_os_str().as_bytes()].concat();
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|byte| *byte == 0).any(|one| one == line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_parses_names_with_brackets_and_blanks() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99";
        let stat = ProcessStat::parse(&format!("12 (a) R 1 (b) {rest}\n")).unwrap();
        assert_eq!((stat.parent, stat.start_ticks, stat.is_alive), (7, 4711, true));
        assert!(
            !ProcessStat::parse("12 (a) Z 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99")
                .unwrap()
                .is_alive
        );
        assert!(ProcessStat::parse("12 (a").is_none());
    }

    #[test]
    fn process_id_differs_from_earlier_process_with_same_pid() {
        let us = ProcessId::from_pid(std::process::id()).unwrap();
        assert!(us.is_alive() && us.open_handle().is_some());
        for other in [
            ProcessId { start_ticks: us.start_ticks - 1, ..us.clone() },
            ProcessId { boot_id: "x".into(), ..us.clone() },
        ] {
            assert!(!other.is_alive() && other.open_handle().is_none());
        }
    }
}
