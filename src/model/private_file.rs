//! Whether a file with a key or a token is for its owner alone. ssh and sudo have the same rule for theirs.

use std::fmt;

/// Permission bits of inode(7) for the group and for other users.
const OPEN_TO_OTHERS: u32 = 0o077;

/// The reason why another user may know the content of a secret file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// The access mode.
    Mode(u32),
    /// The user id of the owner.
    Owner(u32),
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode) => write!(f, "its mode is {mode:04o}, so other users may read or change it"),
            Self::Owner(uid) => write!(f, "it belongs to the user with uid {uid}"),
        }
    }
}

/// Finds what is wrong with the mode or the owner of a file. `trusted_uids`: the users who may own it; empty: all.
pub fn find_exposure(mode: u32, uid: u32, trusted_uids: &[u32]) -> Option<Exposure> {
    if mode & OPEN_TO_OTHERS != 0 {
        return Some(Exposure::Mode(mode & 0o7777));
    }
    let is_trusted = trusted_uids.is_empty() || trusted_uids.contains(&uid);
    (!is_trusted).then_some(Exposure::Owner(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_another_user_or_for_other_users_is_exposed() {
        for mode in [0o100_600, 0o100_400, 0o010_600] {
            assert_eq!(find_exposure(mode, 1000, &[0, 1000]), None, "{mode:o}");
        }
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644, 0o777] {
            assert_eq!(find_exposure(0o100_000 | mode, 0, &[0]), Some(Exposure::Mode(mode)), "{mode:o}");
        }
        assert_eq!(find_exposure(0o100_600, 1001, &[0, 1000]), Some(Exposure::Owner(1001)));
        assert_eq!(find_exposure(0o100_600, 1001, &[]), None);
        assert_eq!(
            Exposure::Mode(0o644).to_string(),
            "its mode is 0644, so other users may read or change it"
        );
    }
}
