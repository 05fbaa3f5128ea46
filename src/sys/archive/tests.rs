use std::os::unix::fs::symlink;

use super::*;
use crate::sys::releases::DirReleases;
use crate::world::releases::ReleaseStore;

fn source() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let deep = home.path().join("d".repeat(60)).join("e".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir(home.path().join("empty")).unwrap();
    fs::write(deep.join("ö b"), "long way").unwrap();
    fs::write(home.path().join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(home.path().join("run"), fs::Permissions::from_mode(0o4710)).unwrap();
    symlink("run", home.path().join("again")).unwrap();
    symlink("../empty/..", home.path().join("empty/up")).unwrap();
    home
}

fn refusal(source: &Path) -> String {
    TarArchives.pack(source).unwrap_err().to_string()
}

#[test]
fn packed_directory_unpacks_unchanged() {
    let (source, srv) = (source(), tempfile::tempdir().unwrap());
    let packed = TarArchives.pack(source.path()).unwrap();
    assert_eq!(packed.bytes, fs::metadata(&packed.path).unwrap().len());
    let (releases, shop) = (DirReleases::new(srv.path()), "shop".parse().unwrap());
    assert_eq!(releases.place(&shop, "1.0.0", &packed.path).unwrap(), packed.digest);
    let release = releases.dir(&shop, "1.0.0");
    let deep = release.join("d".repeat(60)).join("e".repeat(60));
    assert_eq!(fs::read_to_string(deep.join("ö b")).unwrap(), "long way");
    assert_eq!(fs::metadata(release.join("run")).unwrap().permissions().mode() & 0o7777, 0o710);
    assert_eq!(fs::read_link(release.join("again")).unwrap(), Path::new("run"));
    assert!(release.join("empty/up/run").exists());
    let path = packed.path.clone();
    let clone = packed.clone();
    drop(packed);
    assert!(path.exists());
    drop(clone);
    assert!(!path.exists());
}

#[test]
fn packing_is_deterministic() {
    let (one, other) = (source(), source());
    let set_mode = |path: &str, mode| {
        fs::set_permissions(other.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode("empty", 0o775);
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::open(other.path().join("run")).unwrap().set_modified(old).unwrap();
    let digest = |source: &Path| TarArchives.pack(source).unwrap().digest;
    let first = digest(one.path());
    assert_eq!(first, digest(other.path()));
    set_mode("empty", 0o700);
    assert_ne!(first, digest(other.path()));
    set_mode("empty", 0o755);
    set_mode("run", 0o600);
    assert_ne!(first, digest(other.path()));
}

#[test]
fn existing_archive_is_used_unchanged() {
    let source = source();
    let packed = TarArchives.pack(source.path()).unwrap();
    let again = TarArchives.pack(&packed.path).unwrap();
    assert_eq!((&again.path, &again.digest, again.bytes), (&packed.path, &packed.digest, packed.bytes));
    drop(again);
    assert!(packed.path.exists());
}

#[test]
fn pack_refuses_a_directory_without_a_file() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("empty")).unwrap();
    assert_eq!(refusal(source.path()), format!("`{}` has no file", source.path().display()));
    fs::write(source.path().join("empty/index.html"), "").unwrap();
    assert!(TarArchives.pack(source.path()).is_ok());
}

/// Rows: D21.
#[test]
fn pack_refuses_neither_directory_nor_archive() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let missing = path("nothing");
    assert_eq!(refusal(&missing), format!("Could not find anything on the path {}", missing.display()));
    let neither = "Source must be a .tar.gz file or a directory when deploying with --tar.";
    for (name, bytes) in [("a.zip", &b"PK\x03\x04"[..]), ("a.tar.gz", b""), ("b.tar.gz", b"\x1f\x8b")] {
        fs::write(path(name), bytes).unwrap();
        assert_eq!(refusal(&path(name)), neither);
    }
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refusal(&path("fifo")), neither);
}

#[test]
fn pack_refuses_what_hosts_refuse_with_path() {
    let with = |make: &dyn Fn(&Path), name: &str, why: &str| {
        let home = source();
        make(home.path());
        assert_eq!(refusal(home.path()), format!("`{}/{name}` {why}", home.path().display()));
    };
    let out = "is a symbolic link that leads out of the release";
    with(&|home| symlink("..", home.join("out")).unwrap(), "out", out);
    with(&|home| symlink("empty/up/../x", home.join("out")).unwrap(), "out", out);
    with(&|home| symlink("/etc", home.join("etc")).unwrap(), "etc", "is a symbolic link to an absolute path");
    let pipe = |home: &Path| nix::unistd::mkfifo(&home.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    with(&pipe, "pipe", "is no file, directory or symbolic link");
    let socket = |home: &Path| drop(std::os::unix::net::UnixListener::bind(home.join("s")).unwrap());
    with(&socket, "s", "is no file, directory or symbolic link");
    with(&|home| fs::write(home.join("a\nb"), "").unwrap(), r"a\nb", "has a control character in its name");
}
