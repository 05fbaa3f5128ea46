//! Files of `tests/snapshots/` that hold what users read, so that a change of wording is a diff. `tests/it` includes this file too.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// The command that rewrites all files.
const UPDATE: &str = "UPDATE_SNAPSHOTS=1 cargo nextest run -E 'test(/snapshots/)'";

fn dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"))
}

#[allow(clippy::disallowed_methods, reason = "a setting of the test run, not of the program")]
fn is_update_requested() -> bool {
    std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "1")
}

/// Fails when a snapshot differs from the text; writes the text instead with `UPDATE_SNAPSHOTS=1`.
pub(crate) fn assert_snapshot(name: &str, text: &str) {
    let path = dir().join(name);
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    if recorded == text {
        return;
    }
    if is_update_requested() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let same = recorded.lines().zip(text.lines()).take_while(|(old, new)| old == new).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end of the file)").to_owned();
    panic!(
        "tests/snapshots/{name} is not current: line {} differs\n  the snapshot: {}\n  the program:  {}\nnext: {UPDATE}",
        same + 1,
        line(&recorded),
        line(text),
    );
}

/// Fails when a directory of snapshots has a file that no test writes any more; removes it with `UPDATE_SNAPSHOTS=1`.
#[allow(dead_code, reason = "only tests/it has a directory of snapshots")]
pub(crate) fn assert_no_other_snapshot(directory: &str, names: &BTreeSet<String>) {
    for entry in std::fs::read_dir(dir().join(directory)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if names.contains(&name) {
            continue;
        }
        assert!(is_update_requested(), "no test writes tests/snapshots/{directory}/{name}\nnext: {UPDATE}");
        std::fs::remove_file(entry.path()).unwrap();
    }
}
