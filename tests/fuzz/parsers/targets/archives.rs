//! Release archives: what is unpacked lies in its directory, and is no link that leaves it.

#![no_main]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

fn check_dir(dir: &Path, root: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        assert!(kind.is_dir() || kind.is_file() || kind.is_symlink(), "{:?}", entry.path());
        if kind.is_dir() {
            check_dir(&entry.path(), root);
        } else if let Ok(target) = entry.path().canonicalize() {
            assert!(target.starts_with(root), "{:?} leads to {target:?}", entry.path());
        }
    }
}

fuzz_target!(|archive: &[u8]| {
    let place = tempfile::tempdir().unwrap();
    let (file, into) = (place.path().join("a.tar.gz"), place.path().join("into"));
    // The compression is a library's: without it, inputs reach the names and kinds of members.
    File::create(&file).unwrap().write_all(&switchman::sys::releases::fuzz_compress(archive)).unwrap();
    std::fs::create_dir(&into).unwrap();
    switchman::sys::releases::fuzz_unpack(&file, &into);
    check_dir(&into, &into.canonicalize().unwrap());
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
});
