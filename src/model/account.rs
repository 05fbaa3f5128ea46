//! The user that an instance runs as, and the sandbox around it.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::ServiceName;

/// A user of a host by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    pub const fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// The parts of a release that an instance's user gets, beside what it could not read otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseShare {
    /// Only files and directories that other users cannot read.
    Closed,
    /// All directories too: the program may write files beside its own.
    Directories,
}

/// An exception from the sandbox of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Programs with setuid, setgid or file capabilities get them, as `sudo` and `sendmail` need.
    NewPrivileges,
    /// The devices of the host, as far as their modes allow, such as `/dev/dri` and `/dev/net/tun`.
    Devices,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NewPrivileges => "new-privileges",
            Self::Devices => "devices",
        })
    }
}

/// The sandbox of a program that switchman starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sandbox {
    /// Its exceptions.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allow: BTreeSet<Permission>,
}

impl Sandbox {
    pub fn allows(&self, permission: Permission) -> bool {
        self.allow.contains(&permission)
    }
}

/// The longest name of a user: utmp(5) and systemd's strict check have 32 bytes with the NUL.
const MAX_NAME_LENGTH: usize = 31;

/// Returns the name of a service's own account: `switchman-shop`. A name that useradd(8) would refuse, or that is too long, is
/// changed and gets a hash, so that two services never share an account.
pub fn build_account_name(service: &ServiceName) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let name = format!("switchman-{service}");
    if name.len() <= MAX_NAME_LENGTH && name.chars().all(is_plain) {
        return name;
    }
    // FNV-1a: the same in every version of switchman.
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let hash = service.as_str().bytes().fold(0x811c_9dc5, step);
    let plain = |c: char| if is_plain(c.to_ascii_lowercase()) { c.to_ascii_lowercase() } else { '-' };
    let start: String = name.chars().map(plain).take(MAX_NAME_LENGTH - 9).collect();
    format!("{start}-{hash:08x}")
}

/// The numbers of accounts without an entry in /etc/passwd, for programs that the built-in supervisor starts. Debian gives
/// 1000 to 59999 to people and packages (Debian policy, 9.2.2), systemd 60001 to 65519 (its UIDS-GIDS), subordinate ids begin at
/// 100000 (login.defs(5)).
pub const FREE_UIDS: std::ops::RangeInclusive<u32> = 90_000..=99_999;

/// The same for a container whose users end before those: at its own end of Debian's range.
pub const CONTAINER_UIDS: std::ops::RangeInclusive<u32> = 50_000..=59_999;

/// Chooses the first number that no service has, and that is free on the host.
pub fn choose_uid(taken: &BTreeSet<u32>, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    FREE_UIDS.chain(CONTAINER_UIDS).find(|uid| !taken.contains(uid) && is_free(*uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service: &str) -> String {
        build_account_name(&service.parse().unwrap())
    }

    #[test]
    fn account_is_named_after_its_service() {
        assert_eq!(name("shop"), "switchman-shop");
        assert_eq!(name("shop-backend_2-of-man"), "switchman-shop-backend_2-of-man");
    }

    #[test]
    fn long_and_special_names_get_a_hash_of_their_own() {
        let services =
            ["Shop", "shop.example", "shop-example", &"s".repeat(63), &"s".repeat(62), "A-b", "a.B"];
        let names: BTreeSet<String> = services.iter().map(|service| name(service)).collect();
        assert_eq!(names.len(), services.len(), "{names:?}");
        for name in names {
            assert!(name.len() <= 31 && name.starts_with("switchman-"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
    }

    #[test]
    fn free_number_is_one_that_no_service_and_no_user_has() {
        assert_eq!(choose_uid(&BTreeSet::new(), |_| true), Some(90_000));
        assert_eq!(choose_uid(&[90_000, 90_002].into(), |uid| uid != 90_001), Some(90_003));
        assert_eq!(choose_uid(&BTreeSet::new(), |uid| uid < 60_000), Some(50_000));
        assert_eq!(choose_uid(&BTreeSet::new(), |_| false), None);
    }
}
