//! Whether a user other than the caller could change the configuration that a command as root obeys.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

use super::ConfigError;
use super::problem::UntrustedPath;
use crate::model::fleet::Fleet;

/// Permission bits of inode(7).
const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_OTHERS: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The users whose files a command obeys: root and, with sudo, the user who called it. git's `safe.directory` has the same rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedUsers {
    pub uids: Vec<u32>,
}

impl TrustedUsers {
    /// Returns `None` where the process is not root: it has no more rights than the user who started it.
    pub fn of_process(sudo_uid: Option<u32>) -> Option<Self> {
        Uid::effective().is_root().then(|| Self { uids: std::iter::once(0).chain(sudo_uid).collect() })
    }

    /// Returns what makes the path unsafe: another owner, or an access mode that lets another user replace what it names.
    ///
    /// In a directory with the sticky bit, only the owner of an entry renames or removes it (inode(7)).
    fn judge(&self, path: &PathFacts) -> Option<UntrustedPath> {
        if !self.uids.contains(&path.uid) {
            return Some(UntrustedPath::OwnedBy(name_user(path.uid)));
        }
        if path.is_dir && path.mode & STICKY != 0 {
            return None;
        }
        if path.mode & WRITABLE_BY_OTHERS != 0 {
            return Some(UntrustedPath::WritableByAll);
        }
        let is_shared = path.mode & WRITABLE_BY_GROUP != 0 && path.gid != 0 && !path.has_private_group;
        is_shared.then(|| UntrustedPath::WritableByGroup(name_group(path.gid)))
    }
}

/// The owner, the group and the access mode of a path.
#[derive(Debug, Clone, Copy)]
struct PathFacts {
    uid: u32,
    gid: u32,
    mode: u32,
    is_dir: bool,
    /// The group is that of its owner alone, as Debian's adduser makes it: with umask 002 each of the owner's files is writable for it.
    has_private_group: bool,
}

impl PathFacts {
    fn read(metadata: &Metadata) -> Self {
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let owner = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
        let has_private_group = owner.zip(group).is_some_and(|(owner, group)| {
            owner.gid == group.gid
                && owner.name == group.name
                && group.mem.iter().all(|name| *name == owner.name)
        });
        Self { uid, gid, mode: metadata.mode(), is_dir: metadata.is_dir(), has_private_group }
    }
}

fn name_user(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn name_group(gid: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map_or_else(|| format!("gid {gid}"), |group| group.name)
}

/// Checks the file of the configuration, as it was opened, and the directories above it.
pub fn check_file(file: &Path, opened: &Metadata, trusted: &TrustedUsers) -> Result<(), ConfigError> {
    let refuse = |path: &Path, problem| ConfigError::Untrusted {
        file: file.to_owned(),
        path: path.to_owned(),
        problem,
    };
    if let Some(problem) = trusted.judge(&PathFacts::read(opened)) {
        return Err(refuse(file, problem));
    }
    check_directories(file, trusted).map_err(|(path, problem)| refuse(&path, problem))
}

/// Checks the programs and files that hooks and ssh options of the configuration name.
pub fn check_named_files(file: &Path, fleet: &Fleet, trusted: &TrustedUsers) -> Result<(), ConfigError> {
    let hooks = &fleet.hooks;
    let lines =
        [&hooks.before_roll, &hooks.before_host, &hooks.after_host, &hooks.after_roll, &hooks.on_failure];
    let lines = lines.into_iter().flatten().chain(&fleet.reach.ssh_options);
    for path in lines.flat_map(|line| list_named_paths(line)).map(Path::new) {
        // A word that names no file is none of ours: a shell, or ssh, reports it.
        let Ok(metadata) = fs::metadata(path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        let judged = match trusted.judge(&PathFacts::read(&metadata)) {
            Some(problem) => Err((path.to_owned(), problem)),
            None => check_directories(path, trusted),
        };
        judged.map_err(|(path, problem)| ConfigError::Untrusted { file: file.to_owned(), path, problem })?;
    }
    Ok(())
}

/// Lists what may be a path in a line for a shell, or in an option of ssh: words between blanks and the operators of a shell,
/// the value of `-F./file` and of `ProxyCommand=/path`, and quoted words with their blanks.
fn list_named_paths(line: &str) -> Vec<&str> {
    let is_quote = |c: char| matches!(c, '"' | '\'' | '`');
    let is_separator = |c: char| c.is_whitespace() || is_quote(c) || ";|&()<>{}=,$".contains(c);
    let words = line.split(is_separator).chain(line.split(is_quote).map(str::trim));
    let mut paths = Vec::new();
    for word in words.filter(|word| word.contains('/')) {
        paths.push(word);
        // The value follows the letter of an option at once.
        let value = word.strip_prefix('-').and_then(|option| option.get(1..));
        paths.extend(value.filter(|value| value.contains('/')));
    }
    paths
}

/// The most symbolic links of one path that the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Checks the directories of a path, and the symbolic links on the way to its file: the owner of a link decides where it points, in
/// a directory with the sticky bit too.
fn check_directories(file: &Path, trusted: &TrustedUsers) -> Result<(), (PathBuf, UntrustedPath)> {
    let mut next = std::path::absolute(file).ok();
    for _ in 0..=MAX_LINKS {
        let Some(path) = next else { return Ok(()) };
        next = check_up_to_link(&path, trusted)?;
    }
    // The kernel refuses to open it.
    Ok(())
}

/// Checks the directories of a path up to its first symbolic link. Returns the path that the link leads to.
fn check_up_to_link(
    path: &Path,
    trusted: &TrustedUsers,
) -> Result<Option<PathBuf>, (PathBuf, UntrustedPath)> {
    let mut walked = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        walked.push(component);
        let rest = components.as_path();
        let Ok(metadata) = fs::symlink_metadata(&walked) else { return Ok(None) };
        if metadata.is_symlink() {
            if !trusted.uids.contains(&metadata.uid()) {
                return Err((walked, UntrustedPath::OwnedBy(name_user(metadata.uid()))));
            }
            let Ok(target) = fs::read_link(&walked) else { return Ok(None) };
            let target = walked.parent().unwrap_or(&walked).join(target);
            let is_last = rest.as_os_str().is_empty();
            return Ok(Some(if is_last { target } else { target.join(rest) }));
        }
        if rest.as_os_str().is_empty() {
            return Ok(None);
        }
        if let Some(problem) = trusted.judge(&PathFacts::read(&metadata)) {
            return Err((walked, problem));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: PathFacts =
        PathFacts { uid: 0, gid: 0, mode: 0o644, is_dir: false, has_private_group: false };

    fn judge(path: PathFacts) -> Option<UntrustedPath> {
        TrustedUsers { uids: vec![0, 1000] }.judge(&path)
    }

    #[test]
    fn files_of_root_and_of_the_caller_of_sudo_are_trusted() {
        assert_eq!(judge(ROOT), None);
        assert_eq!(judge(PathFacts { uid: 1000, ..ROOT }), None);
        assert!(matches!(judge(PathFacts { uid: 65534, ..ROOT }), Some(UntrustedPath::OwnedBy(_))));
    }

    #[test]
    fn paths_are_found_in_options_quotes_and_lists_of_commands() {
        for (line, path) in [
            ("./notify.sh start", "./notify.sh"),
            ("-F./ssh_config", "./ssh_config"),
            ("-Fconf/ssh", "conf/ssh"),
            ("ProxyCommand=/opt/jump", "/opt/jump"),
            ("-oProxyCommand=/opt/jump", "/opt/jump"),
            ("ProxyCommand sh -c '/opt/jump %h'", "/opt/jump"),
            ("true;./notify.sh", "./notify.sh"),
            ("test -e x&&./notify.sh", "./notify.sh"),
            ("X=1 \"./my hooks/notify.sh\" start", "./my hooks/notify.sh"),
            ("$(./notify.sh)", "./notify.sh"),
        ] {
            assert!(list_named_paths(line).contains(&path), "{line}: {:?}", list_named_paths(line));
        }
        assert!(list_named_paths("echo done").is_empty());
    }

    #[test]
    fn files_that_another_user_may_write_are_not_trusted() {
        let group = |mode, gid| PathFacts { gid, mode, ..ROOT };
        assert_eq!(judge(group(0o666, 0)), Some(UntrustedPath::WritableByAll));
        assert!(matches!(judge(group(0o664, 65534)), Some(UntrustedPath::WritableByGroup(_))));
        assert_eq!(judge(group(0o664, 0)), None, "the group of root");
        assert_eq!(judge(group(0o640, 65534)), None, "its group reads only");
        let private = PathFacts { uid: 1000, gid: 1000, mode: 0o664, has_private_group: true, ..ROOT };
        assert_eq!(judge(private), None);
    }

    #[test]
    fn directories_with_the_sticky_bit_keep_the_entries_of_others() {
        let dir = |mode| PathFacts { mode, is_dir: true, ..ROOT };
        assert_eq!(judge(dir(0o1777)), None);
        assert_eq!(judge(dir(0o777)), Some(UntrustedPath::WritableByAll));
        let file = PathFacts { mode: 0o1666, ..ROOT };
        assert_eq!(judge(file), Some(UntrustedPath::WritableByAll), "the bit means nothing on a file");
        let of_nobody = PathFacts { uid: 65534, ..dir(0o1777) };
        assert!(judge(of_nobody).is_some());
    }
}
