//! Releases whose files were changed since they were placed.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::model::release::FileChangeKind;

fn verify(scene: &Scene) -> ReleaseCheck {
    scene.releases.verify(&shop(), "1.0.0").unwrap()
}

fn members() -> Vec<Raw> {
    vec![
        file("app.py", "print(1)"),
        file("lib/with space\\", "text"),
        file("lib/other", "same size"),
        soft("current", "lib/other"),
        dir("empty/"),
    ]
}

/// Each change by itself, as the one that it is.
#[test]
fn every_change_of_a_file_is_named() {
    type Change = fn(&Scene);
    let cases: [(Change, &str, FileChangeKind); 10] = [
        (
            |scene| fs::write(scene.in_release("app.py"), "print(2)").unwrap(),
            "app.py",
            FileChangeKind::Contents,
        ),
        (
            |scene| fs::write(scene.in_release("lib/with space\\"), "longer text").unwrap(),
            "lib/with space\\",
            FileChangeKind::Contents,
        ),
        (
            |scene| {
                fs::set_permissions(scene.in_release("app.py"), fs::Permissions::from_mode(0o4755)).unwrap();
            },
            "app.py",
            FileChangeKind::Mode,
        ),
        (
            |scene| fs::set_permissions(scene.in_release("lib"), fs::Permissions::from_mode(0o777)).unwrap(),
            "lib",
            FileChangeKind::Mode,
        ),
        (
            |scene| fs::remove_file(scene.in_release("lib/other")).unwrap(),
            "lib/other",
            FileChangeKind::Missing,
        ),
        (|scene| fs::remove_dir(scene.in_release("empty")).unwrap(), "empty", FileChangeKind::Missing),
        (|scene| fs::write(scene.in_release("lib/cache"), "").unwrap(), "lib/cache", FileChangeKind::Added),
        (
            |scene| {
                fs::remove_file(scene.in_release("current")).unwrap();
                symlink("app.py", scene.in_release("current")).unwrap();
            },
            "current",
            FileChangeKind::Contents,
        ),
        (
            |scene| {
                fs::remove_file(scene.in_release("lib/other")).unwrap();
                symlink("/etc/passwd", scene.in_release("lib/other")).unwrap();
            },
            "lib/other",
            FileChangeKind::Contents,
        ),
        (
            |scene| {
                fs::remove_file(scene.in_release("app.py")).unwrap();
                nix::unistd::mkfifo(
                    &scene.in_release("app.py"),
                    nix::sys::stat::Mode::from_bits_truncate(0o644),
                )
                .unwrap();
            },
            "app.py",
            FileChangeKind::Contents,
        ),
    ];
    for (change, path, kind) in cases {
        let scene = Scene::new();
        scene.place(&members()).unwrap();
        let before = verify(&scene);
        assert!(before.has_manifest && before.changes.is_empty(), "{before:?}");
        change(&scene);
        let check = verify(&scene);
        let found: Vec<_> = check.changes.iter().map(|change| (change.path.as_str(), change.kind)).collect();
        assert_eq!(found, [(path, kind)]);
        assert_eq!(check.is_altered(), kind != FileChangeKind::Added);
    }
}

/// What a program leaves beside its code is named, and not read: the file has 8 TiB, the pipe no writer, and the directory may be
/// large.
#[test]
fn added_files_are_not_read() {
    let scene = Scene::new();
    scene.place(&members()).unwrap();
    let sparse = fs::File::create(scene.in_release("lib/database")).unwrap();
    sparse.set_len(1 << 43).unwrap();
    nix::unistd::mkfifo(&scene.in_release("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    fs::create_dir_all(scene.in_release("cache/a/b")).unwrap();
    let grown = fs::OpenOptions::new().write(true).open(scene.in_release("lib/other")).unwrap();
    grown.set_len(1 << 43).unwrap();
    let check = verify(&scene);
    let found: Vec<_> = check.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "`lib/other` has other contents",
            "`cache` was added",
            "`lib/database` was added",
            "`pipe` was added"
        ]
    );
}

/// What was changed is not taken for the release that is placed again.
#[test]
fn changed_release_is_not_placed_again_and_is_replaced_after_its_removal() {
    let scene = Scene::new();
    scene.place(&members()).unwrap();
    fs::write(scene.in_release("lib/cache"), "").unwrap();
    scene.place(&members()).unwrap();
    fs::write(scene.in_release("app.py"), "evil").unwrap();
    let refused = scene.place(&members()).unwrap_err();
    let changes = "`app.py` has other contents".to_owned();
    assert_eq!(refused, ReleaseError::Altered { release: "1.0.0".into(), changes });
    scene.releases.remove(&shop(), "1.0.0").unwrap();
    assert_eq!(scene.left(), [""; 0]);
    scene.place(&members()).unwrap();
    assert!(!verify(&scene).is_altered());
}

/// A release of switchman 0.1.0 has no manifest, and starts as before. One that cannot be read is no reason to start.
#[test]
fn release_without_manifest_is_unknown_and_a_damaged_one_an_error() {
    let scene = Scene::new();
    scene.place(&members()).unwrap();
    let manifest = scene.releases.releases_dir(&shop()).join(".1.0.0.mtree");
    assert_eq!(fs::metadata(&manifest).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("./lib/with\\040space\\134 type=file mode=0644 size=4 sha256digest="), "{text}");
    fs::write(&manifest, &text[..text.len() - 5]).unwrap();
    let error = scene.releases.verify(&shop(), "1.0.0").unwrap_err();
    assert!(matches!(error, ReleaseError::Failed { action: "read", .. }), "{error}");
    fs::remove_file(&manifest).unwrap();
    fs::write(scene.in_release("app.py"), "evil").unwrap();
    let check = verify(&scene);
    assert!(!check.has_manifest && !check.is_altered());
    scene.place(&members()).unwrap();
}
