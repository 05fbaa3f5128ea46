use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{EntryType, Header};

use super::*;

mod altered;

/// A member as its header has it, allowed or not.
#[derive(Debug, Clone)]
struct Raw {
    name: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    mode: u32,
    contents: Vec<u8>,
}

fn raw(kind: u8, name: &str, link: &str, contents: &[u8]) -> Raw {
    let (name, link) = (name.as_bytes().to_vec(), link.as_bytes().to_vec());
    Raw { name, kind, link, mode: 0o644, contents: contents.to_vec() }
}

fn file(name: &str, contents: &str) -> Raw {
    raw(b'0', name, "", contents.as_bytes())
}

fn dir(name: &str) -> Raw {
    raw(b'5', name, "", b"")
}

fn soft(name: &str, target: &str) -> Raw {
    raw(b'2', name, target, b"")
}

fn hard(name: &str, target: &str) -> Raw {
    raw(b'1', name, target, b"")
}

fn append(into: &mut Vec<u8>, member: &Raw) {
    let mut header = Header::new_gnu();
    header.set_size(member.contents.len() as u64);
    header.set_mode(member.mode);
    header.set_uid(12345);
    header.set_gid(12345);
    header.set_mtime(1_600_000_000);
    header.set_entry_type(EntryType::new(member.kind));
    let old = header.as_old_mut();
    old.name[..member.name.len()].copy_from_slice(&member.name);
    old.linkname[..member.link.len()].copy_from_slice(&member.link);
    header.set_cksum();
    into.extend_from_slice(header.as_bytes());
    into.extend_from_slice(&member.contents);
    into.resize(into.len().next_multiple_of(512), 0);
}

fn tar_of(members: &[Raw]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for member in members {
        append(&mut bytes, member);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Scene {
    home: tempfile::TempDir,
    releases: DirReleases,
}

fn shop() -> ServiceName {
    "shop".parse().unwrap()
}

impl Scene {
    fn new() -> Self {
        Self::with(ReleaseLimits { entries: 1000, bytes: 1 << 20 })
    }

    fn with(limits: ReleaseLimits) -> Self {
        // In memory: hundreds of releases, each synced, are a matter of minutes on a busy disk.
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let releases = DirReleases::with_limits(home.path().join("srv"), limits);
        Self { home, releases }
    }

    fn archive(&self, bytes: &[u8]) -> PathBuf {
        let path = self.home.path().join("archive.tar.gz");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn place_bytes(&self, bytes: &[u8]) -> Result<Digest, ReleaseError> {
        self.releases.place(&shop(), "1.0.0", &self.archive(bytes))
    }

    fn place(&self, members: &[Raw]) -> Result<Digest, ReleaseError> {
        self.place_bytes(&gzip(&tar_of(members)))
    }

    fn in_release(&self, name: &str) -> PathBuf {
        self.releases.dir(&shop(), "1.0.0").join(name)
    }

    /// Nothing but the lock.
    fn left(&self) -> Vec<String> {
        let mut names = list_names(&self.releases.releases_dir(&shop())).unwrap();
        names.retain(|name| name != ".lock");
        names.sort();
        names
    }

    fn refuses(&self, members: &[Raw], why: &str) {
        let told = self.place(members).unwrap_err();
        assert!(matches!(&told, ReleaseError::Refused(text) if text.contains(why)), "{told} ({why})");
        assert_eq!(self.left(), [""; 0], "{told}");
        assert!(!self.home.path().join("srv/shop/evil").exists());
    }
}

#[test]
fn place_unpacks_release_as_packed() {
    let scene = Scene::new();
    let mut program = file("./bin/run", "#!/bin/sh\n");
    program.mode = 0o6711;
    let mut dir = dir("./bin/");
    dir.mode = 0o1700;
    let members = [
        self::dir("./"),
        dir,
        program,
        file("./ö/naïve 日本", "text"),
        soft("./current", "ö/../bin"),
        hard("./again", "./bin/run"),
    ];
    let digest = scene.place(&members).unwrap();
    assert_eq!(digest, compute_digest(&scene.home.path().join("archive.tar.gz")).unwrap());
    assert_eq!(fs::read_to_string(scene.in_release("ö/naïve 日本")).unwrap(), "text");
    assert_eq!(fs::read_to_string(scene.in_release("current/run")).unwrap(), "#!/bin/sh\n");
    let seen = fs::metadata(scene.in_release("bin/run")).unwrap();
    assert_eq!((seen.mode() & 0o7777, seen.nlink(), seen.mtime()), (0o755, 2, 1_600_000_000));
    assert_eq!((seen.uid(), seen.gid()), (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
    assert_eq!(fs::metadata(scene.in_release("bin")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(scene.in_release("ö/naïve 日本")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(scene.releases.list(&shop()).unwrap(), ["1.0.0"]);
    assert_eq!(scene.releases.digest(&shop(), "1.0.0").unwrap(), Some(digest));
}

#[test]
fn place_accepts_same_archive_and_refuses_another() {
    let scene = Scene::new();
    let digest = scene.place(&[file("a", "1")]).unwrap();
    fs::write(scene.in_release("added"), "touched").unwrap();
    assert_eq!(scene.place(&[file("a", "1")]).unwrap(), digest);
    assert_eq!(fs::read_to_string(scene.in_release("added")).unwrap(), "touched");
    let told = scene.place(&[file("a", "2")]).unwrap_err().to_string();
    assert_eq!(told, "the release `1.0.0` exists already, made of another archive");
    scene.releases.remove(&shop(), "1.0.0").unwrap();
    scene.releases.remove(&shop(), "1.0.0").unwrap();
    assert_eq!((scene.left(), scene.releases.digest(&shop(), "1.0.0").unwrap()), (vec![], None));
    scene.place(&[file("a", "2")]).unwrap();
}

#[test]
fn place_refuses_paths_outside_release() {
    let scene = Scene::new();
    let file = |name: &str| file(name, "evil");
    scene.refuses(&[file("/etc/evil")], "`/etc/evil` has an absolute path");
    scene.refuses(&[file("../evil")], "`../evil` has `..` in its path");
    scene.refuses(&[file("a/../../evil")], "has `..`");
    scene.refuses(&[file("././a")], "has `.`");
    scene.refuses(&[file("a//b")], "has an empty part");
    scene.refuses(&[file("a\x1b[2Jb")], r"`a\u{1b}[2Jb` has a control character");
    scene.refuses(&[Raw { name: b"\xff".to_vec(), ..file("") }], "is not UTF-8");
    scene.refuses(&[file("")], "has no name");
    scene.refuses(&[file("./")], "is a file named like a directory");
    scene.refuses(&[file("a/")], "is a file named like a directory");
    scene.refuses(&[soft(".", "x")], "is the release itself");
    scene.refuses(&[soft("a", "..")], "`a` -> `..` is a symbolic link that leads out of the release");
    scene.refuses(&[soft("a", "/etc/passwd")], "absolute path");
    scene.refuses(&[soft("a/b", "../../evil")], "leads out");
    scene.refuses(&[soft("a", "a")], "round in a circle");
    scene.refuses(&[soft("a", "")], "to nothing");
    scene.refuses(&[soft("a", "b\nc")], "to a name that is no text");
    // One that is harmless by itself, and one that goes on from where the first leads.
    scene.refuses(&[dir("x"), dir("x/y"), soft("in", "x/y"), soft("out", "in/../../..")], "leads out");
    scene.refuses(&[soft("out", "later/../../.."), dir("d"), soft("later", "d/e")], "leads out");
    scene.refuses(&[soft("a", "b"), file("a/evil")], "`a/evil` leads through a symbolic link");
    scene.refuses(&[soft("a", "."), soft("a/b", "..")], "leads through a symbolic link");
    scene.refuses(&[file("a"), file("a/b")], "leads through a file");
    scene.refuses(&[soft("a", "b"), file("a")], "`a` is there twice");
    scene.refuses(&[file("a"), file("./a")], "is there twice");
    scene.refuses(&[dir("a"), dir("a/")], "is there twice");
    scene.refuses(&[file("a"), dir("a")], "is there twice");
    scene.refuses(&[hard("a", "/etc/passwd")], "absolute path");
    scene.refuses(&[hard("a", "../archive.tar.gz")], "has `..`");
    scene.refuses(&[hard("a", "b"), file("b")], "no earlier file");
    scene.refuses(&[soft("b", "c"), hard("a", "b")], "no earlier file");
    scene.refuses(&[dir("b"), hard("a", "b")], "no earlier file");
    scene.refuses(&[raw(b'1', "a", "b", b"x")], "has contents");
    scene.refuses(&[raw(b'5', "a", "", b"x")], "has contents");
}

#[test]
fn place_refuses_a_release_without_a_file() {
    let scene = Scene::new();
    scene.refuses(&[], "it has no file");
    scene.refuses(&[raw(b'5', "a/", "", b"")], "it has no file");
}

#[test]
fn place_refuses_special_files() {
    let scene = Scene::new();
    for (kind, why) in [
        (b'3', "`a` is a device"),
        (b'4', "is a device"),
        (b'6', "is a named pipe"),
        (b'7', "of type `7`"),
        (b'S', "is a sparse file"),
        (b'D', "of type `D`"),
        (b'M', "of type `M`"),
        (b's', "of type `s`"),
    ] {
        scene.refuses(&[raw(kind, "a", "", b"")], why);
    }
}

fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = (1..10).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
    [format!("{} {key}=", rest + digits).as_bytes(), value, b"\n"].concat()
}

#[test]
fn place_refuses_repeated_extended_headers() {
    let scene = Scene::new();
    let x = |records: &[Vec<u8>]| raw(b'x', "pax", "", &records.concat());
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
    let members = [
        raw(b'g', "pax", "", &pax("comment", b"of git archive")),
        x(&[
            pax("path", long.as_bytes()),
            pax("uid", b"0"),
            pax("uname", b"root"),
            pax("SCHILY.xattr.user.a", b"1\n2\0"),
            pax("size", b"4"),
        ]),
        file("short", "pax!"),
        raw(b'L', "././@LongLink", "", format!("{long}2\0").as_bytes()),
        file("short", "gnu!"),
        raw(b'K', "././@LongLink", "", format!("{long}\0").as_bytes()),
        soft("link", "short"),
    ];
    scene.place(&members).unwrap();
    assert_eq!(fs::read_to_string(scene.in_release(&long)).unwrap(), "pax!");
    assert_eq!(fs::read_to_string(scene.in_release(&format!("{long}2"))).unwrap(), "gnu!");
    assert_eq!(fs::read_to_string(scene.in_release("link")).unwrap(), "pax!");
    scene.releases.remove(&shop(), "1.0.0").unwrap();
    let a = || file("a", "evil");
    scene.refuses(&[x(&[pax("path", b"../evil")]), a()], "has `..`");
    scene.refuses(&[x(&[pax("linkpath", b"/etc")]), soft("a", "b")], "absolute path");
    scene.refuses(&[x(&[pax("path", b"a\0b")]), a()], "control character");
    scene.refuses(&[raw(b'L', "", "", b"/etc/evil\0"), a()], "absolute path");
    scene.refuses(&[raw(b'L', "", "", b"b\0"), x(&[pax("path", b"c")]), a()], "given twice");
    scene.refuses(&[x(&[pax("size", b"1")]), a()], "has two sizes");
    scene.refuses(&[x(&[pax("GNU.sparse.major", b"1")]), a()], "is sparse");
    scene.refuses(&[raw(b'g', "", "", &pax("path", b"../evil")), a()], "global");
    scene.refuses(&[raw(b'L', "", "", &vec![b'a'; 2 << 20]), a()], "has 2097152 bytes");
    scene.refuses(&[raw(b'L', "", "", &[b'a'; 1100]), a()], "more than 1024 bytes");
    for garbage in ["x", "5 a=", "999 a=b\n", "6 a=bcd\n", "5 abc\n", "-1 a=b\n", "0 a=b\n"] {
        let told = scene.place(&[raw(b'x', "", "", garbage.as_bytes()), a()]);
        assert!(matches!(told, Err(ReleaseError::Damaged(_))), "{garbage}: {told:?}");
    }
}

#[test]
fn place_enforces_limits() {
    let scene = Scene::new();
    let big = vec![0; 600 * 1024];
    let bomb = |name| raw(b'0', name, "", &big);
    scene.refuses(&[bomb("a"), bomb("b")], "it has more than 1048576 bytes of files");
    let many: Vec<Raw> = (0..1000).map(|number| file(&format!("{number}"), "")).collect();
    scene.place(&many).unwrap();
    scene.releases.remove(&shop(), "1.0.0").unwrap();
    let more = [many.as_slice(), &[soft("x", "y")]].concat();
    scene.refuses(&more, "it has more than 1000 files and directories");
    // Directories that are only named count too.
    let deep: Vec<Raw> = (0..25).map(|number| file(&format!("{number}{}/f", "/d".repeat(45)), "")).collect();
    scene.refuses(&deep, "more than 1000 files");
    // Nothing in it counts as a file or as bytes of one.
    let empty = tar_of(&[]);
    let endless = [empty, vec![0; 16 << 20]].concat();
    let told = scene.place_bytes(&gzip(&endless)).unwrap_err().to_string();
    assert_eq!(told, "the archive is refused: it unpacks to more than is allowed");
    // A header that promises what is not there, and more than there can be.
    let mut lie = tar_of(&[file("a", "x")]);
    let mut header = Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&lie[..512]);
    for (size, why) in
        [(1 << 19, "breaks off"), (1 << 40, "more than 1048576 bytes"), (u64::MAX - 3, "overflow")]
    {
        header.set_size(size);
        header.set_cksum();
        lie[..512].copy_from_slice(header.as_bytes());
        let told = scene.place_bytes(&gzip(&lie)).unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
        assert_eq!(scene.left(), [""; 0]);
    }
}

#[test]
fn place_reports_damaged_archive() {
    let scene = Scene::new();
    let tar = tar_of(&[file("a", "text"), file("b", "more")]);
    let whole = gzip(&tar);
    let damaged = |bytes: &[u8]| {
        let told = scene.place_bytes(bytes);
        assert!(matches!(told, Err(ReleaseError::Damaged(_))), "{told:?}");
        assert_eq!(scene.left(), [""; 0]);
    };
    for cut in 0..whole.len() {
        damaged(&whole[..cut]);
    }
    damaged(b"no archive at all");
    damaged(&tar);
    damaged(&gzip(&tar[..2048]));
    damaged(&gzip(&tar[..700]));
    damaged(&[&whole[..], b"trailing garbage"].concat());
    let mut checksum = whole.clone();
    let last = checksum.len() - 5;
    checksum[last] ^= 1;
    damaged(&checksum);
    let told = scene.place_bytes(&gzip(&[&tar[..], b"hidden"].concat())).unwrap_err();
    assert_eq!(told, ReleaseError::Refused("something follows its end".to_owned()));
    let told = scene.releases.place(&shop(), "1.0.0", Path::new("/nowhere")).unwrap_err();
    assert!(matches!(told, ReleaseError::Failed { action: "read", .. }), "{told}");
    // gzip files one after the other are one gzip file (RFC 1952, 2.2).
    scene.place_bytes(&[gzip(&tar[..700]), gzip(&tar[700..])].concat()).unwrap();
    assert_eq!(fs::read_to_string(scene.in_release("b")).unwrap(), "more");
}

#[test]
fn place_removes_leftovers_of_killed_process() {
    let scene = Scene::new();
    let all = scene.releases.releases_dir(&shop());
    for left in [".placing-1.0.0/a", ".placing-2.0.0", ".removing-0.9.0/deep/er"] {
        fs::create_dir_all(all.join(left)).unwrap();
    }
    std::os::unix::fs::symlink("/etc", all.join(".placing-2.0.0/out")).unwrap();
    fs::write(all.join(".1.0.0.digest"), "half a di").unwrap();
    assert_eq!(scene.releases.list(&shop()).unwrap(), [""; 0]);
    assert_eq!(scene.releases.digest(&shop(), "1.0.0").unwrap(), None);
    let digest = scene.place(&[file("b", "text")]).unwrap();
    assert_eq!(scene.left(), [".1.0.0.digest", ".1.0.0.mtree", "1.0.0"]);
    assert_eq!(scene.releases.digest(&shop(), "1.0.0").unwrap(), Some(digest));
    assert!(Path::new("/etc/passwd").exists());
    fs::create_dir(all.join(".placing-1.0.0")).unwrap();
    scene.releases.remove(&shop(), "1.0.0").unwrap();
    assert_eq!(scene.left(), [""; 0]);
    assert_eq!(scene.releases.remove(&"other".parse().unwrap(), "1.0.0"), Ok(()));
    assert!(!scene.home.path().join("srv/other").exists());
}

#[test]
fn link_is_replaced_atomically() {
    let scene = Scene::new();
    for release in ["1.0.0", "2.0.0"] {
        let archive = scene.archive(&gzip(&tar_of(&[file("a", release)])));
        scene.releases.place(&shop(), release, &archive).unwrap();
    }
    let seen = scene.home.path().join("srv/shop/main/a");
    scene.releases.link(&shop(), "main", Some("1.0.0")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(["1.0.0", "2.0.0"].contains(&fs::read_to_string(&seen).unwrap().as_str()));
            }
        });
        for _ in 0..100 {
            scene.releases.link(&shop(), "main", Some("2.0.0")).unwrap();
            scene.releases.link(&shop(), "main", Some("1.0.0")).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    for (link, release) in [("main", "3.0.0"), ("releases", "1.0.0"), ("../main", "1.0.0"), ("main", "../..")]
    {
        assert!(scene.releases.link(&shop(), link, Some(release)).is_err(), "{link} {release}");
    }
    assert!(scene.releases.link(&shop(), "releases", None).is_err());
    assert_eq!(fs::read_to_string(&seen).unwrap(), "1.0.0");
    scene.releases.link(&shop(), "main", None).unwrap();
    scene.releases.link(&shop(), "main", None).unwrap();
    assert!(!seen.exists());
}

#[test]
fn release_names_are_validated() {
    let scene = Scene::new();
    let archive = scene.archive(&gzip(&tar_of(&[file("a", "")])));
    for name in ["", "..", ".placing-1", "a/b", "../../evil", "a\n"] {
        assert!(scene.releases.place(&shop(), name, &archive).is_err());
        assert!(scene.releases.remove(&shop(), name).is_err());
        assert!(scene.releases.digest(&shop(), name).is_err());
    }
}

/// The files of what has no times differ between two releases, and not between two hosts.
#[test]
fn file_times_come_from_archive_or_digest() {
    let packed = |text: &str| {
        let mut bytes = tar_of(&[file("a", text)]);
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&bytes[..512]);
        header.set_mtime(0);
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        let scene = Scene::new();
        scene.place_bytes(&gzip(&bytes)).unwrap();
        fs::metadata(scene.in_release("a")).unwrap().mtime()
    };
    assert_eq!(packed("one"), packed("one"));
    assert_ne!(packed("one"), packed("two"));
}

#[test]
fn place_handles_hundred_thousand_files() {
    let scene = Scene::with(ReleaseLimits::default());
    let mut members: Vec<Raw> =
        (0..99_000).map(|number| file(&format!("d{}/{number}", number / 100), "x")).collect();
    members.extend((0..10).map(|number| dir(&format!("e{number}"))));
    scene.place(&members).unwrap();
    assert_eq!(fs::read_dir(scene.in_release("d989")).unwrap().count(), 100);
    scene.releases.remove(&shop(), "1.0.0").unwrap();
    members.push(file("one/more", ""));
    scene.refuses(&members, "it has more than 100000 files");
}

/// In a mount namespace of its own a thread fills a small disk.
#[test]
fn place_leaves_nothing_on_full_disk() {
    let thread = std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        // The working directory and umask stay this thread's own, which a mount namespace wants.
        if unshare(CloneFlags::CLONE_NEWNS).is_err() {
            return false;
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let scene = Scene::with(ReleaseLimits::default());
        let root = scene.home.path().join("srv");
        fs::create_dir(&root).unwrap();
        mount(Some("none"), &root, Some("tmpfs"), MsFlags::empty(), Some("size=256k,nr_inodes=200")).unwrap();
        let big = raw(b'0', "big", "", &vec![7; 512 * 1024]);
        let many: Vec<Raw> = (0..300).map(|number| file(&format!("{number}"), "")).collect();
        for full in [&[file("a", "x"), big][..], &many] {
            let told = scene.place(full).unwrap_err();
            assert!(matches!(told, ReleaseError::Full { .. }), "{told}");
            assert_eq!(scene.left(), [""; 0]);
        }
        scene.place(&[file("a", "x")]).unwrap();
        assert_eq!(scene.left(), [".1.0.0.digest", ".1.0.0.mtree", "1.0.0"]);
        nix::mount::umount(&root).unwrap();
        true
    });
    if !thread.join().unwrap() {
        crate::sys::testing::missing("no mount namespace can be made");
    }
}

fn members() -> impl Strategy<Value = Vec<Raw>> {
    let name = "(\\./)?([abc]|\\.\\.)(/([abc]|\\.)){0,2}/?";
    let kind = proptest::sample::select(&b"0125xLKg36"[..]);
    let member = (kind, name, "(/|\\.\\./)?[abc](/([abc]|\\.\\.)){0,3}", "[a-c0-9 =\n/.]{0,12}");
    let member = member.prop_map(|(kind, name, link, contents)| {
        raw(kind, &name, &link, if b"0xLKg".contains(&kind) { contents.as_bytes() } else { b"" })
    });
    proptest::collection::vec(member, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// An archive of any members is placed whole and inside, or not at all.
    #[test]
    fn place_never_writes_outside_release(members in members(), cut in 0..4096usize, flip in 0..4096usize) {
        let scene = Scene::new();
        let mut bytes = gzip(&tar_of(&members));
        if cut < bytes.len() && cut % 3 == 0 {
            bytes.truncate(cut);
        }
        if let Some(byte) = bytes.get_mut(flip) {
            *byte ^= u8::try_from(flip % 255 + 1).unwrap();
        }
        let placed = scene.place_bytes(&bytes);
        let expected: &[&str] = if placed.is_ok() { &[".1.0.0.digest", ".1.0.0.mtree", "1.0.0"] } else { &[] };
        prop_assert_eq!(scene.left(), expected);
        let outside: Vec<String> = list_names(&scene.home.path().join("srv/shop")).unwrap();
        prop_assert_eq!(outside, ["releases"]);
        for path in walk(&scene.in_release("")) {
            let seen = path.symlink_metadata().unwrap();
            let mode = seen.permissions().mode() & 0o7777;
            prop_assert!(seen.is_symlink() || [0o644, 0o755].contains(&mode), "{mode:o}");
            if let Ok(end) = path.canonicalize() {
                prop_assert!(end.starts_with(scene.in_release("").canonicalize().unwrap()), "{}", end.display());
            }
        }
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let deeper = paths.iter().filter(|path| !path.is_symlink() && path.is_dir()).flat_map(|path| walk(path));
    paths.iter().cloned().chain(deeper).collect()
}
