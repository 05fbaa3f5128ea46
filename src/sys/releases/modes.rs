//! The modes of the files of a release: those of the source, and never more open.

/// The permissions that a mode may have: only its owner writes, and no file changes the user who runs it.
const ALLOWED: u32 = 0o755;

/// Returns the mode of a file. Its owner can always read it.
pub(in crate::sys) const fn release_file_mode(source: u32) -> u32 {
    source & ALLOWED | 0o400
}

/// Returns the mode of a directory. Its owner can always list, enter and remove it.
pub(in crate::sys) const fn release_dir_mode(source: u32) -> u32 {
    source & ALLOWED | 0o700
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_never_more_open_than_in_the_source() {
        let file = [0o600, 0o640, 0o664, 0o4710, 0o777, 0o000].map(release_file_mode);
        assert_eq!(file, [0o600, 0o640, 0o644, 0o710, 0o755, 0o400]);
        assert_eq!([0o700, 0o1777, 0o2750, 0o500].map(release_dir_mode), [0o700, 0o755, 0o750, 0o700]);
    }
}
