//! The step between the keeper and the program: what a process has to do to itself before it becomes the program,
//! which no parent can do for it without `unsafe`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{geteuid, setsid};

use super::cgroup::{Cgroup, EnforcedLimits};
use super::confinement::confine;
use super::instance_dir::{InstanceDir, StartReport};
use super::process::MARK_ENV;
use crate::model::deployment::{InstanceLimits, InstanceSpec};
use crate::sys::exec::{DEFAULT_PATH, Program};

/// Becomes the program. Standard input is the pipe to the keeper: it is closed by the program's start, or what went wrong
/// is written to it before its end.
pub fn become_program(dir: &Path) -> Result<(), String> {
    // The keeper reads its signals from a file, and what it has blocked for that is inherited.
    SigSet::all().thread_unblock().map_err(|error| error.to_string())?;
    let keeper = io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let report = prepare_and_exec(dir);
    let text = serde_json::to_vec(&report).map_err(|error| error.to_string())?;
    fs::File::from(keeper).write_all(&text).map_err(|error| error.to_string())
}

/// Returns only on failure, with the reason.
fn prepare_and_exec(dir: &Path) -> StartReport {
    let failed = |why: String| StartReport::Failed { why };
    let kept = match InstanceDir::new(dir).read_spec() {
        Ok(Some(kept)) => kept,
        Ok(None) => return failed("how it is run is not recorded".to_owned()),
        Err(error) => return failed(error.to_string()),
    };
    match prepare(dir, &kept.spec) {
        Ok(program) => match program.locate() {
            // Found, and still not there: the interpreter that its first line names.
            Ok(_) => failed(format!("cannot run `{program}`: {}", program.replace_process())),
            Err(crate::sys::exec::ExecError::Missing { program }) => StartReport::Missing { program },
            Err(error) => failed(error.to_string()),
        },
        Err(report) => report,
    }
}

fn prepare(dir: &Path, spec: &InstanceSpec) -> Result<Program, StartReport> {
    let failed =
        |what: &str, why: &dyn std::fmt::Display| StartReport::Failed { why: format!("{what}: {why}") };
    setsid().map_err(|error| failed("cannot start a session", &error))?;
    umask(Mode::from_bits_truncate(0o022));
    let entered = Cgroup::find(dir).filter(|cgroup| cgroup.enter().is_ok());
    let bound = entered.map(|cgroup| cgroup.apply_limits(&spec.resources));
    set_limits(&spec.resources, bound).map_err(|error| failed("cannot set its limits", &error))?;
    let user = confine(spec)?;
    std::env::set_current_dir(&spec.dir).map_err(|error| {
        let dir = spec.dir.display();
        match (error.kind(), &spec.user) {
            (io::ErrorKind::PermissionDenied, Some(user)) => failed(
                &format!("cannot enter `{dir}` as `{user}`"),
                &format!("{error}; `namei -l {dir}` shows the directory that is closed to other users"),
            ),
            _ => failed(&format!("cannot enter `{dir}`"), &error),
        }
    })?;
    let (name, args) =
        spec.argv.split_first().ok_or_else(|| StartReport::Missing { program: String::new() })?;
    let home = user.map_or_else(|| "/".to_owned(), |user| user.dir.display().to_string());
    let mut env = BTreeMap::from([("PATH", DEFAULT_PATH), ("LANG", "C.UTF-8"), ("HOME", &home)]);
    env.extend(spec.env.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let program = Program::new(name).args(args).dir(&spec.dir).env(MARK_ENV, dir);
    Ok(env.into_iter().fold(program, |program, (key, value)| program.env(key, value)))
}

fn set_limits(resources: &InstanceLimits, bound: Option<EnforcedLimits>) -> nix::Result<()> {
    if let Some(files) = resources.open_files {
        set_limit(Resource::RLIMIT_NOFILE, files)?;
    }
    match resources.memory_bytes {
        Some(bytes) if bound.is_none_or(|bound| !bound.memory) => set_limit(Resource::RLIMIT_AS, bytes)?,
        _ => {}
    }
    if resources.tasks.is_some() && bound.is_none_or(|bound| !bound.tasks) {
        // RLIMIT_NPROC counts all processes of the user, those of other instances too.
        log::warn!("cannot limit the number of tasks: no control group can be made here");
    }
    Ok(())
}

/// Sets limits as far as a plain user may, whose limits only go down.
fn set_limit(what: Resource, number: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(what)?;
    let hard = if geteuid().is_root() { number } else { number.min(hard) };
    setrlimit(what, hard, hard)
}
