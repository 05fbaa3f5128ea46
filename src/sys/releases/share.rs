//! Gives parts of a release to the user that its instances run as.
//!
//! Every entry is opened once, without following a link, and changed by that handle: a program that can write into the release
//! cannot have another file changed. A release that had another user before is given further only in the parts of that user, and
//! no file that has a second name: it may be a file outside of the release.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, openat};

use crate::model::account::{Account, ReleaseShare};

/// Directories in each other: more than an archive may have. What is deeper was made by a program.
const MAX_DEPTH: usize = 128;

/// Formats the record of a share, which is beside the release.
pub(super) fn format_record(account: Account, share: ReleaseShare) -> String {
    let Account { uid, gid } = account;
    let parts = match share {
        ReleaseShare::Closed => "closed",
        ReleaseShare::Directories => "directories",
    };
    format!("{uid}:{gid} {parts}\n")
}

/// Gives the release to the account; `record` is that of an earlier share, if there was one.
pub(super) fn share_release(
    release: &Path,
    account: Account,
    share: ReleaseShare,
    record: Option<&str>,
) -> io::Result<()> {
    let before = record.map(|text| text.split(':').next().unwrap_or_default().parse().unwrap_or(u32::MAX));
    // Nothing but the directory itself: a link in its place is refused.
    let parent = File::open(release.parent().unwrap_or(release))?;
    let sharing = Sharing { account, share, before };
    let name = CString::new(release.file_name().unwrap_or_default().as_bytes())?;
    sharing.share_entry(parent.as_fd(), &name, 0)
}

struct Sharing {
    account: Account,
    share: ReleaseShare,
    /// The user that the release was given to before.
    before: Option<u32>,
}

impl Sharing {
    fn share_entry(&self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = openat(dir, name, flags, Mode::empty())?;
        let stat = fstat(&entry)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        // Given by a share that was interrupted: with all that is below it, and since then the account may have changed it.
        if self.before.is_none() && is_dir && stat.st_uid == self.account.uid {
            return Ok(());
        }
        if is_dir && depth < MAX_DEPTH {
            self.share_contents(&entry, depth)?;
        }
        // A directory after its contents: from then on, programs of the account can put names of other files there.
        if self.is_wanted(kind, &stat) {
            let (uid, gid) = (Uid::from_raw(self.account.uid), Gid::from_raw(self.account.gid));
            chownat(&entry, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    fn share_contents(&self, entry: &OwnedFd, depth: usize) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = openat(entry, ".", flags, Mode::empty())?;
        for found in Dir::read_from(&listed)? {
            let found = found?;
            if !matches!(found.file_name().to_bytes(), b"." | b"..") {
                match self.share_entry(listed.as_fd(), found.file_name(), depth + 1) {
                    // A program has removed it since.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    shared => shared?,
                }
            }
        }
        Ok(())
    }

    fn is_wanted(&self, kind: FileType, stat: &Stat) -> bool {
        // Others may do what the owner may, writing left out.
        let is_closed = (stat.st_mode >> 6) & 0o5 & !stat.st_mode != 0;
        let is_part = match kind {
            FileType::Directory => is_closed || self.share == ReleaseShare::Directories,
            FileType::RegularFile => is_closed,
            _ => false,
        };
        let has_one_name = kind == FileType::Directory || stat.st_nlink == 1;
        is_part && self.before.is_none_or(|uid| stat.st_uid == uid && has_one_name)
    }
}

/// Reads the record of an earlier share.
pub(super) fn read_record(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::sys::testing::missing;

    const FIRST: Account = Account { uid: 98_001, gid: 98_002 };
    const SECOND: Account = Account { uid: 98_003, gid: 98_004 };

    /// A release with a secret, a secret directory, an open file and an open directory, and a secret file beside the release.
    fn make_release() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let release = home.path().join("1.0.0");
        for (dir, mode) in [("", 0o755), ("open", 0o755), ("closed", 0o700)] {
            fs::create_dir(release.join(dir)).unwrap();
            fs::set_permissions(release.join(dir), fs::Permissions::from_mode(mode)).unwrap();
        }
        for (file, mode) in
            [("open/run", 0o755), ("closed/page", 0o644), ("key", 0o600), ("../outside", 0o600)]
        {
            fs::write(release.join(file), file).unwrap();
            fs::set_permissions(release.join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink("../outside", release.join("link")).unwrap();
        home
    }

    fn owners(home: &Path) -> Vec<(&'static str, u32, u32)> {
        let owner = |name: &'static str| {
            let seen = fs::symlink_metadata(home.join("1.0.0").join(name)).unwrap();
            (name, seen.uid(), seen.gid())
        };
        ["", "open", "open/run", "closed", "closed/page", "key", "link", "../outside"].map(owner).to_vec()
    }

    #[test]
    fn account_gets_what_others_cannot_read_and_directories_on_request() {
        if !nix::unistd::geteuid().is_root() {
            return missing("only root gives files away");
        }
        let home = make_release();
        let release = home.path().join("1.0.0");
        share_release(&release, FIRST, ReleaseShare::Closed, None).unwrap();
        let (root, given) = ((0, 0), (FIRST.uid, FIRST.gid));
        let expected = |dirs: (u32, u32), closed: (u32, u32)| {
            [
                ("", dirs),
                ("open", dirs),
                ("open/run", root),
                ("closed", closed),
                ("closed/page", root),
                ("key", closed),
                ("link", root),
                ("../outside", root),
            ]
            .map(|(name, (uid, gid))| (name, uid, gid))
        };
        assert_eq!(owners(home.path()), expected(root, given));
        let home = make_release();
        let release = home.path().join("1.0.0");
        share_release(&release, FIRST, ReleaseShare::Directories, None).unwrap();
        assert_eq!(owners(home.path()), expected(given, given));
    }

    /// The first user could write into the release, and make names in it for files of others.
    #[test]
    fn second_account_gets_only_what_the_first_one_had() {
        if !nix::unistd::geteuid().is_root() {
            return missing("only root gives files away");
        }
        let home = make_release();
        let release = home.path().join("1.0.0");
        share_release(&release, FIRST, ReleaseShare::Directories, None).unwrap();
        fs::hard_link(home.path().join("outside"), release.join("open/shadow")).unwrap();
        fs::hard_link(release.join("key"), home.path().join("kept")).unwrap();
        let record = format_record(FIRST, ReleaseShare::Directories);
        assert_eq!(record, "98001:98002 directories\n");
        share_release(&release, SECOND, ReleaseShare::Directories, Some(&record)).unwrap();
        let uid = |path: &str| fs::symlink_metadata(release.join(path)).unwrap().uid();
        assert_eq!((uid("open"), uid("closed")), (SECOND.uid, SECOND.uid));
        assert_eq!((uid("open/shadow"), uid("key"), uid("open/run")), (0, FIRST.uid, 0));
        symlink("1.0.0", home.path().join("2.0.0")).unwrap();
        share_release(&home.path().join("2.0.0"), FIRST, ReleaseShare::Directories, None).unwrap();
        assert_eq!(uid(""), SECOND.uid, "a link is not followed");
    }
}
