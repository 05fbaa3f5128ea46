//! A control group for an instance, where the kernel lets us make one: it bounds memory and tasks of all processes
//! together, and none of them leaves it by becoming a daemon.
//!
//! Version 2 is one tree (docs.kernel.org/admin-guide/cgroup-v2.html), version 1 a tree per controller
//! (.../cgroup-v1/memory.html, pids.html). Where there is neither, or it is read-only as in most containers, `memory_bytes`
//! bounds the address space of each process (RLIMIT_AS) and `tasks` is not bounded: RLIMIT_NPROC counts a whole user.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::model::deployment::InstanceLimits;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

#[derive(Debug)]
pub struct Cgroup {
    /// The one that lists the members; the others only limit. Never empty.
    dirs: Vec<PathBuf>,
}

/// Whether all requested limits hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnforcedLimits {
    pub memory: bool,
    pub tasks: bool,
}

impl Cgroup {
    /// That of the instance with this directory, made where it can be. `None`: no such luck.
    pub fn create(instance: &Path) -> Option<Self> {
        let dirs: Vec<PathBuf> = build_dirs(instance).into_iter().filter(|dir| make_dir(dir)).collect();
        (!dirs.is_empty()).then_some(Self { dirs })
    }

    /// The one that a keeper has made.
    pub fn find(instance: &Path) -> Option<Self> {
        let dirs: Vec<PathBuf> = build_dirs(instance).into_iter().filter(|dir| dir.is_dir()).collect();
        (!dirs.is_empty()).then_some(Self { dirs })
    }

    pub fn apply_limits(&self, resources: &InstanceLimits) -> EnforcedLimits {
        let put = |files: &[&str], number: Option<u64>| {
            let Some(number) = number else { return true };
            let put = |file: &&str| {
                self.dirs.iter().any(|dir| fs::write(dir.join(file), number.to_string()).is_ok())
            };
            files.iter().any(put)
        };
        EnforcedLimits {
            memory: put(&["memory.max", "memory.limit_in_bytes"], resources.memory_bytes),
            tasks: put(&["pids.max"], resources.tasks.map(u64::from)),
        }
    }

    /// The calling process and all that it will start.
    pub fn enter(&self) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| fs::write(dir.join("cgroup.procs"), "0"))
    }

    pub fn read_pids(&self) -> BTreeSet<u32> {
        let all = self.dirs.iter().filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        all.flat_map(|pids| pids.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
    }

    /// Removes the group once no process is left in it.
    pub fn remove(&self) {
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn make_dir(dir: &Path) -> bool {
    fs::create_dir(dir).is_ok() || dir.is_dir()
}

/// Named after the instance, and after its directory: state directories may share a machine.
fn build_dirs(instance: &Path) -> Vec<PathBuf> {
    // FNV-1a: the same in every version of switchman, which std's hash is not.
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = instance.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    let id = instance.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("swm-{id}-{hash:016x}");
    let root = Path::new(CGROUP_ROOT);
    if root.join("cgroup.controllers").exists() {
        // Not given below the root of a container, where processes are: the group still lists its members.
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory +pids");
        return vec![root.join(name)];
    }
    ["pids", "memory"]
        .map(|controller| root.join(controller))
        .into_iter()
        .filter(|dir| dir.is_dir())
        .map(|dir| dir.join(&name))
        .collect()
}
