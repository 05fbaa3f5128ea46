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
pub const MARK: &str = "SWITCHMAN_INSTANCE_DIR";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Alive {
    pub pid: u32,
    /// Clock ticks after boot (proc_pid_stat(5), field 22).
    pub born: u64,
    /// Of which boot (/proc/sys/kernel/random/boot_id): a state file outlives it.
    pub boot: String,
}

impl Alive {
    /// The process that has this pid now; one that ended and was not waited for is none.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        stat.lives.then(|| Self { pid, born: stat.born, boot: boot() })
    }

    /// Of a child that nobody has waited for: also where it has ended.
    pub fn of_child(pid: u32) -> Option<Self> {
        Stat::read(pid).map(|stat| Self { pid, born: stat.born, boot: boot() })
    }

    pub fn is_there(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// A handle that stays that of this process, readable once it has ended (pidfd_open(2)).
    pub fn handle(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Whatever the handle is of, it was this process after the handle was made.
        self.is_there().then_some(handle)
    }

    /// One that has ended already is what is wanted.
    pub fn signal(&self, signal: Signal) {
        if let Some(handle) = self.handle() {
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

struct Stat {
    parent: u32,
    born: u64,
    lives: bool,
}

impl Stat {
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
        Some(Self { parent, born, lives })
    }
}

/// How the processes of an instance are told from all others.
#[derive(Debug)]
pub struct Members {
    pub mark: PathBuf,
    pub cgroup: Option<Cgroup>,
}

impl Members {
    /// All that are there now: what descends from this process, which is not among them, what is in the cgroup and what has
    /// the mark. The last two also find what became a daemon while no keeper was there.
    pub fn find(&self) -> BTreeSet<Alive> {
        let (boot, us) = (boot(), std::process::id());
        let all: BTreeMap<u32, Stat> =
            pids().into_iter().filter_map(|pid| Stat::read(pid).map(|stat| (pid, stat))).collect();
        let grouped = self.cgroup.as_ref().map(Cgroup::pids);
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
            .filter(|(pid, stat)| **pid != us && if stat.lives { ours(**pid) } else { descends(**pid) })
            .map(|(pid, stat)| Alive { pid: *pid, born: stat.born, boot: boot.clone() })
            .collect()
    }
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn is_marked(pid: u32, mark: &Path) -> bool {
    let line = [MARK.as_bytes(), b"=", mark.as_os_str().as_bytes()].concat();
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|byte| *byte == 0).any(|one| one == line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_hides_nothing() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99";
        let stat = Stat::parse(&format!("12 (a) R 1 (b) {rest}\n")).unwrap();
        assert_eq!((stat.parent, stat.born, stat.lives), (7, 4711, true));
        assert!(!Stat::parse("12 (a) Z 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99").unwrap().lives);
        assert!(Stat::parse("12 (a").is_none());
    }

    #[test]
    fn a_process_is_itself_and_no_earlier_one_of_its_pid() {
        let us = Alive::of(std::process::id()).unwrap();
        assert!(us.is_there() && us.handle().is_some());
        for other in [Alive { born: us.born - 1, ..us.clone() }, Alive { boot: "x".into(), ..us.clone() }] {
            assert!(!other.is_there() && other.handle().is_none());
        }
    }
}
