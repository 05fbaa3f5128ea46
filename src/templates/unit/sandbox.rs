//! The settings of a unit that confine its program. Pure.
//!
//! Source: systemd.exec(5) of version 252, and its notes on what implies `NoNewPrivileges=yes`.

use std::path::Path;

use crate::model::account::{Permission, Sandbox, build_account_name};
use crate::model::deployment::InstanceSpec;

/// The settings that a program of root, or a web server that gives up root itself, does not notice, each with the exception that it
/// breaks. Units of 0.1.0 have exactly these lines: a unit that differs would be another one.
const ROOT_HARDENING: [(&str, Option<Permission>); 7] = [
    ("NoNewPrivileges=yes", Some(Permission::NewPrivileges)),
    ("ProtectKernelTunables=yes", Some(Permission::NewPrivileges)),
    ("ProtectKernelModules=yes", Some(Permission::NewPrivileges)),
    ("ProtectControlGroups=yes", None),
    ("ProtectClock=yes", Some(Permission::Devices)),
    ("RestrictSUIDSGID=yes", Some(Permission::NewPrivileges)),
    ("LockPersonality=yes", Some(Permission::NewPrivileges)),
];

/// Settings that take no new privileges away. `ProtectSystem=strict` is not among them: switchman does not know where an
/// application writes, and its account may write hardly anywhere.
const NAMESPACES: [&str; 3] = ["ProtectSystem=full", "PrivateTmp=yes", "ProtectControlGroups=yes"];

/// Settings with `NoNewPrivileges=`, which they imply where a unit has a user. `MemoryDenyWriteExecute=` is not among them, for it
/// breaks just-in-time compilers, nor `RemoveIPC=`: the end of one instance would take away the memory of the next one.
const PRIVILEGES: [&str; 12] = [
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectHostname=yes",
    "RestrictSUIDSGID=yes",
    "RestrictRealtime=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallArchitectures=native",
    "LockPersonality=yes",
];

/// The settings of a program that runs as root, with its exceptions.
pub(super) fn render_hardening(spec: &InstanceSpec) -> String {
    let allows = |permission| spec.sandbox.as_ref().is_some_and(|sandbox| sandbox.allows(permission));
    let lines = ROOT_HARDENING.iter().filter(|(_, breaks)| !breaks.is_some_and(allows));
    lines.map(|(line, _)| format!("{line}\n")).collect()
}

/// The settings of a program that does not run as root.
pub(super) fn render_sandbox(spec: &InstanceSpec, sandbox: &Sandbox) -> String {
    let mut lines: Vec<&str> = NAMESPACES.to_vec();
    if spec.user == Some(build_account_name(&spec.service)) && !is_in_home(&spec.dir) {
        lines.push("ProtectHome=yes");
    }
    let (gains_privileges, uses_devices) =
        (sandbox.allows(Permission::NewPrivileges), sandbox.allows(Permission::Devices));
    if !gains_privileges {
        lines.extend(PRIVILEGES);
        lines.extend(["SystemCallFilter=@system-service", "SystemCallErrorNumber=EPERM"]);
    }
    match (gains_privileges, uses_devices) {
        // Before version 253, `ProtectClock=` closes all other devices too.
        (false, false) => lines.extend(["PrivateDevices=yes", "ProtectClock=yes"]),
        // A filter of control groups, which implies nothing.
        (true, false) => lines.push("DevicePolicy=closed"),
        (_, true) => {}
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Whether the directory is one that `ProtectHome=yes` hides.
fn is_in_home(dir: &Path) -> bool {
    ["/home", "/root", "/run/user"].iter().any(|home| dir.starts_with(home))
}
