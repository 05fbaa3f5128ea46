//! The rights that a process gives up before it becomes the program: capabilities, groups and its user.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, fchown, geteuid, initgroups, setgid, setgroups, setuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use super::instance_dir::StartReport;
use crate::model::account::{Account, Permission};
use crate::model::deployment::InstanceSpec;

/// Becomes the user of the spec, inside its sandbox. Returns the user if it has an entry in the user database.
pub fn confine(spec: &InstanceSpec) -> Result<Option<User>, StartReport> {
    let allows_privileges =
        |permission| spec.sandbox.as_ref().is_some_and(|sandbox| sandbox.allows(permission));
    let keeps_privileges = allows_privileges(Permission::NewPrivileges);
    // A program that gets privileges by setuid has no more than the bounding set allows. Taking it away needs root.
    let is_confined = spec.find_sandbox().is_some() && !keeps_privileges;
    if is_confined && geteuid().is_root() && (spec.user.is_some() || spec.account.is_some()) {
        empty_bounding_set().map_err(|error| failed("empty the bounding set of capabilities", &error))?;
    }
    let user = become_user(spec)?;
    if is_confined {
        clear_ambient_capability_set().map_err(|error| failed("give up capabilities", &error.into()))?;
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).map_err(|error| failed("give up capabilities", &error.into()))?;
    }
    if spec.sandbox.is_some() && !keeps_privileges {
        set_no_new_privs(true).map_err(|error| failed("set no_new_privs", &error.into()))?;
    }
    Ok(user)
}

fn failed(action: &str, error: &io::Error) -> StartReport {
    StartReport::Failed { why: format!("cannot {action}: {error}") }
}

/// The kernel reports the end of its capabilities by EINVAL.
fn empty_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Errno::EINVAL as i32 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn become_user(spec: &InstanceSpec) -> Result<Option<User>, StartReport> {
    match (&spec.user, spec.account) {
        (Some(name), None) => become_named_user(name).map(Some),
        (Some(name), Some(account)) => {
            let known = User::from_name(name).ok().flatten();
            // A user who was made by hand may have groups, such as that of a device.
            match known.filter(|user| user.uid.as_raw() == account.uid) {
                Some(_) => become_named_user(name).map(Some),
                None => become_account(name, account).map(|()| None),
            }
        }
        (None, _) => Ok(User::from_uid(geteuid()).ok().flatten()),
    }
}

/// Sets all groups of the user, with the primary one first.
fn become_named_user(name: &str) -> Result<User, StartReport> {
    let failed = |why: Errno| StartReport::Failed { why: format!("cannot become `{name}`: {why}") };
    let user = User::from_name(name).map_err(failed)?;
    let user = user.ok_or_else(|| StartReport::NoUser { user: name.to_owned() })?;
    if user.uid == geteuid() {
        return Ok(user);
    }
    give_output(user.uid);
    let c_name = std::ffi::CString::new(name).map_err(|_| StartReport::NoUser { user: name.to_owned() })?;
    initgroups(&c_name, user.gid).map_err(failed)?;
    setgid(user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)?;
    Ok(user)
}

/// Becomes an account without an entry in the user database: its group is the only one.
fn become_account(name: &str, account: Account) -> Result<(), StartReport> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let failed =
        |why: Errno| StartReport::Failed { why: format!("cannot become `{name}` (uid {uid}): {why}") };
    give_output(uid);
    setgroups(&[gid]).map_err(failed)?;
    setgid(gid).map_err(failed)?;
    setuid(uid).map_err(failed)
}

/// Gives the user the pipe of the outputs, so that /dev/stdout and /dev/stderr can be opened by their names, as web servers do.
fn give_output(uid: Uid) {
    let _ = fchown(io::stdout().as_fd(), Some(uid), None);
}
