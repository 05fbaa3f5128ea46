//! Names inside a release, judged by their text alone.

use std::collections::HashMap;

/// Limit of a path inside a release, and of the target of a symbolic link; far below PATH_MAX (4096), with a root before
/// it.
const MAX_PATH_BYTES: usize = 1024;
/// Limit of a part of a path: NAME_MAX (limits.h).
const MAX_PART_BYTES: usize = 255;
/// Directories in each other.
const MAX_DEPTH: usize = 64;
/// Symbolic links on one way; the kernel follows as many (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The known paths: the target of a symbolic link, or `None` for anything else.
pub(in crate::sys) type LinkTargets = HashMap<String, String>;

/// `./a/b` or `a/b/` as its parts; none at all for the release itself (`./`).
pub(in crate::sys) fn split_path(path: &[u8]) -> Result<Vec<&str>, &'static str> {
    let text = std::str::from_utf8(path).map_err(|_| "has a name that is not UTF-8")?;
    if text.len() > MAX_PATH_BYTES {
        return Err("has a path of more than 1024 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character in its name");
    }
    if text.starts_with('/') {
        return Err("has an absolute path");
    }
    let inside = text.strip_prefix("./").unwrap_or(text);
    let inside = inside.strip_suffix('/').unwrap_or(inside);
    if inside.is_empty() || text == "." {
        return if text.is_empty() { Err("has no name") } else { Ok(vec![]) };
    }
    let parts: Vec<&str> = inside.split('/').collect();
    if parts.len() > MAX_DEPTH {
        return Err("is more than 64 directories deep");
    }
    for part in &parts {
        match *part {
            "" => return Err("has an empty part in its path"),
            "." => return Err("has `.` in its path"),
            ".." => return Err("has `..` in its path"),
            part if part.len() > MAX_PART_BYTES => return Err("has a name of more than 255 bytes"),
            _ => {}
        }
    }
    Ok(parts)
}

/// Follows a symbolic link by text, through other links, to where it ends inside the release. What does not exist is
/// taken for a directory: it may be one some day.
pub(in crate::sys) fn check_link_target(
    link: &str,
    target: &str,
    links: &LinkTargets,
) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > MAX_PATH_BYTES {
        return Err("is a symbolic link to nothing or to more than 1024 bytes");
    }
    let mut at: Vec<&str> = link.split('/').collect();
    at.pop();
    let mut ahead: Vec<&str> = target.split('/').rev().collect();
    if target.starts_with('/') {
        return Err("is a symbolic link to an absolute path");
    }
    let mut followed = 0;
    while let Some(part) = ahead.pop() {
        match part {
            "" | "." => {}
            ".." => {
                at.pop().ok_or("is a symbolic link that leads out of the release")?;
            }
            part => {
                at.push(part);
                if let Some(next) = links.get(&at.join("/")) {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return Err("is a symbolic link that goes round in a circle");
                    }
                    if next.starts_with('/') {
                        return Err("is a symbolic link that leads out of the release");
                    }
                    at.pop();
                    ahead.extend(next.split('/').rev());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn split_path_accepts_only_plain_paths() {
        assert_eq!(split_path("./a/ö b".as_bytes()), Ok(vec!["a", "ö b"]));
        assert_eq!(split_path(b"a/b/"), Ok(vec!["a", "b"]));
        assert_eq!(split_path(b"./"), Ok(vec![]));
        assert_eq!(split_path(b"."), Ok(vec![]));
        let (long, deep) = (format!("a/{}", "b".repeat(256)), "a/".repeat(65));
        let bad: [&[u8]; 15] = [
            b"",
            b"/",
            b"/etc",
            b"//a",
            b"a//b",
            b".//a",
            b"././a",
            b"a/./b",
            b"..",
            b"a/../b",
            b"a/b//",
            b"a\nb",
            b"\xff",
            long.as_bytes(),
            deep.as_bytes(),
        ];
        for bad in bad {
            assert!(split_path(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn link_targets_are_resolved_through_links() {
        let links: LinkTargets = [
            ("up", ".."),
            ("a/top", "../"),
            ("in", "a"),
            ("loop", "loop"),
            ("abs", "/etc"),
            ("b/c", "../a/top"),
        ]
        .map(|(link, target)| (link.to_owned(), target.to_owned()))
        .into();
        for (link, target) in [("x", "a/b"), ("a/x", "../b"), ("x", "in/y"), ("b/x", "c/b"), ("x", "a/../y")]
        {
            assert_eq!(check_link_target(link, target, &links), Ok(()), "{link} -> {target}");
        }
        let out = [
            ("x", ".."),
            ("x", "/etc"),
            ("x", ""),
            ("a/x", "../../b"),
            ("x", "up/etc"),
            ("x", "a/top/../.."),
            ("x", "in/../.."),
            ("x", "loop"),
            ("x", "abs/passwd"),
            ("x", "b/c/../../b"),
            ("x", "a/b/../../../c"),
        ];
        for (link, target) in out {
            assert!(check_link_target(link, target, &links).is_err(), "{link} -> {target}");
        }
    }

    proptest! {
        /// Compares with the kernel: an allowed path never resolves to a path outside, with any set of directories.
        #[test]
        fn accepted_link_targets_resolve_inside_real_directory(
            made in proptest::collection::vec(("[ab](/[ab]){0,2}", "([ab]|\\.\\.|\\.)(/([ab]|\\.\\.)){0,3}"), 1..6)
        ) {
            let outside = tempfile::tempdir().unwrap();
            let root = outside.path().join("1/2/3/root");
            std::fs::create_dir_all(&root).unwrap();
            let mut links = LinkTargets::new();
            for (link, target) in &made {
                let path = root.join(link);
                // Only where no link was followed to get there, as when unpacking.
                let above = path.parent().unwrap();
                if std::fs::create_dir_all(above).is_ok() && above.canonicalize().unwrap() == above
                    && std::os::unix::fs::symlink(target, &path).is_ok()
                {
                    links.insert(link.clone(), target.clone());
                }
            }
            for (link, target) in &links {
                if check_link_target(link, target, &links).is_ok() && let Ok(end) = root.join(link).canonicalize() {
                    prop_assert!(end.starts_with(&root), "{link} -> {target} ends at {}", end.display());
                }
            }
        }
    }
}
