//! Archives over a pipe: whole and unpacked at the other end, or nothing of them.

use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchman::model::deployment::Digest;
use switchman::model::failure::ErrorCode;
use switchman::model::name::ServiceName;
use switchman::sys::archive::TarArchives;
use switchman::world::archives::ArchivePacker;
use switchman::world::link::LinkError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{OnStdio, Place, SWITCHMAN, raw, until};
use crate::testing::run_in_namespace;

fn shop() -> ServiceName {
    "shop".parse().unwrap()
}

/// A gzip file of one member, as big as its contents.
fn archive(place: &Place, name: &str, contents: &[u8]) -> std::path::PathBuf {
    let path = place.path(name);
    let file = std::fs::File::create(&path).unwrap();
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::none()));
    let mut header = tar::Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", contents).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    path
}

impl Place {
    async fn with_releases(&mut self) -> Pid {
        let (socket, state, releases) = (self.text("agent.sock"), self.text("state"), self.text("srv"));
        let flags = ["--state-dir", &state, "--releases-dir", &releases, "agent", "--socket", &socket];
        let pid = self.start("agent", SWITCHMAN, &flags);
        until(async || UnixStream::connect(&socket).await.is_ok()).await;
        pid
    }

    fn left(&self) -> Vec<String> {
        let names = |dir: &Path| -> Vec<String> {
            let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let mut left = names(&self.path("srv"));
        left.extend(names(&self.path("srv/shop/releases")));
        left.retain(|name| name != ".lock");
        left.sort();
        left
    }
}

/// KiB that a process ever had in memory.
fn peak(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn archive_of_64_mib_is_streamed() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let agent = place.with_releases().await;
        let link = place.over_socket();
        link.greet().await.unwrap();
        let contents: Vec<u8> = (0..16_u32 << 20).flat_map(u32::to_le_bytes).collect();
        let archive = archive(&place, "big.tar.gz", &contents);
        let before = peak(agent);
        let digest = link.upload_release(&shop(), "1.0.0", &archive).await.unwrap();
        assert_eq!(digest, TarArchives.pack(&archive).unwrap().digest);
        assert!(std::fs::read(place.path("srv/shop/releases/1.0.0/file")).unwrap() == contents);
        assert!(peak(agent) - before < 16 << 10, "from {before} to {} KiB", peak(agent));
        // The connection is used again, and the same again is done already.
        assert_eq!(link.upload_release(&shop(), "1.0.0", &archive).await, Ok(digest.clone()));
        let placed = link.list_releases(&shop()).await.unwrap();
        assert_eq!(
            placed.iter().map(|one| (one.name.as_str(), &one.digest)).collect::<Vec<_>>(),
            [("1.0.0", &digest)]
        );
        assert_eq!(link.list_releases(&"other".parse().unwrap()).await, Ok(vec![]));
    });
}

#[test]
fn archive_arrives_over_standard_input() {
    run_in_namespace(|| async {
        for handed_over in [false, true] {
            let mut place = Place::new();
            if handed_over {
                place.with_releases().await;
            }
            let archive = std::fs::read(archive(&place, "a.tar.gz", &vec![7; 3 << 20])).unwrap();
            let srv = place.text("srv");
            let mut agent = OnStdio::with(&place, &["--releases-dir", &srv]).await;
            let head = "PUT /v1/services/shop/releases/1.0.0~2 HTTP/1.1\r\nhost: x\r\ncontent-length";
            let stdin = agent.stdin.as_mut().unwrap();
            stdin.write_all(format!("{head}: {}\r\n\r\n", archive.len()).as_bytes()).await.unwrap();
            stdin.write_all(&archive).await.unwrap();
            agent.line("HTTP/1.1 200").await;
            assert_eq!(
                std::fs::read(place.path("srv/shop/releases/1.0.0~2/file")).unwrap(),
                vec![7; 3 << 20]
            );
        }
    });
}

/// Half of an archive, and the connection that brings it.
async fn half(place: &Place) -> UnixStream {
    let mut stream = UnixStream::connect(place.path("agent.sock")).await.unwrap();
    let head = "PUT /v1/services/shop/releases/1.0.0 HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![0x1f; 4_000_000]).await.unwrap();
    stream
}

/// Nameless files that a process has open.
fn incoming(pid: Pid) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().ends_with("(deleted)")).count()
}

#[test]
fn cut_upload_leaves_nothing() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let agent = place.with_releases().await;
        let stream = half(&place).await;
        until(async || incoming(agent) == 1).await;
        assert_eq!(place.left(), [""; 0]);
        drop(stream);
        until(async || incoming(agent) == 0).await;
        let link = place.over_socket();
        assert_eq!(link.list_releases(&shop()).await, Ok(vec![]));
        // So does an agent that is killed.
        let mut stream = half(&place).await;
        until(async || incoming(agent) == 1).await;
        kill(agent, Signal::SIGKILL).unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(place.left(), [""; 0]);
        let archive = archive(&place, "a.tar.gz", &vec![0; 8 << 20]);
        match link.upload_release(&shop(), "1.0.0", &archive).await {
            Err(LinkError::Unreachable { .. }) => {}
            other => panic!("{other:?}"),
        }
        place.with_releases().await;
        link.upload_release(&shop(), "1.0.0", &archive).await.unwrap();
        assert_eq!(place.left(), [".1.0.0.digest", ".1.0.0.mtree", "1.0.0", "shop"]);
    });
}

/// Rows: D24.
#[test]
fn refused_upload_has_an_error_code() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.with_releases().await;
        let request = async |name: &str, body: &str| {
            let length = body.len();
            let stream = UnixStream::connect(place.path("agent.sock")).await.unwrap();
            let head =
                format!("PUT /v1/services/shop/releases/{name} HTTP/1.1\r\nhost: x\r\nconnection: close");
            let (status, error) =
                raw(stream, &format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}")).await;
            (
                status,
                error["code"].as_str().unwrap().to_owned(),
                error["message"].as_str().unwrap().to_owned(),
            )
        };
        let cases = [
            ("1.0.0", "hello", 422, "bad-archive", "the archive is damaged: "),
            (".hidden", "hello", 400, "bad-request", "`.hidden` is not a release: "),
            ("%2e%2e", "hello", 400, "bad-request", "`..` is not a release: "),
            ("a%2Fb", "hello", 400, "bad-request", "`a/b` is not a release: "),
        ];
        for (name, body, status, code, text) in cases {
            let told = request(name, body).await;
            assert!(
                (told.0, told.1.as_str()) == (status, code) && told.2.starts_with(text),
                "{name}: {told:?}"
            );
        }
        assert!(place.left().is_empty() || place.left() == ["shop"], "{:?}", place.left());
        // A sender that goes on sending receives the refusal nevertheless.
        let sparse = place.path("sparse.tar.gz");
        std::fs::File::create(&sparse).unwrap().set_len((1 << 30) + 1).unwrap();
        for _ in 0..50 {
            match place.over_socket().upload_release(&shop(), "1.0.0", &sparse).await {
                Err(LinkError::Refused { code: ErrorCode::BadRequest, message }) => {
                    assert_eq!(message, "the archive has more than 1073741824 bytes");
                }
                other => panic!("{other:?}"),
            }
        }
        let missing = place.over_socket().upload_release(&shop(), "1.0.0", Path::new("/nowhere")).await;
        assert!(
            matches!(missing, Err(LinkError::Refused { code: ErrorCode::BadArchive, .. })),
            "{missing:?}"
        );
        let one = archive(&place, "one.tar.gz", b"1");
        let other = archive(&place, "other.tar.gz", b"2");
        let digest: Digest = place.over_socket().upload_release(&shop(), "1.0.0", &one).await.unwrap();
        assert_eq!(digest.0.len(), 64);
        // Nothing runs from the first: it makes way.
        let replaced = place.over_socket().upload_release(&shop(), "1.0.0", &other).await.unwrap();
        assert_ne!(replaced, digest);
    });
}

#[test]
fn upload_to_full_disk_has_an_error_code_and_leaves_nothing() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        std::fs::create_dir(place.path("srv")).unwrap();
        let script = "mount -t tmpfs -o size=6m none \"$1\" && exec \"$0\" --state-dir \"$2\" --releases-dir \"$1\" agent --socket \"$3\"";
        let (srv, state, socket) = (place.text("srv"), place.text("state"), place.text("agent.sock"));
        place.start("agent", "unshare", &["--mount", "sh", "-c", script, SWITCHMAN, &srv, &state, &socket]);
        until(async || UnixStream::connect(&socket).await.is_ok()).await;
        let link = place.over_socket();
        // The one has no room for the archive, the other none for what is in it.
        for size in [64 << 20, 8 << 20, 4 << 20] {
            let archive = archive(&place, "a.tar.gz", &vec![7; size]);
            match link.upload_release(&shop(), "1.0.0", &archive).await {
                Err(LinkError::Refused { code: ErrorCode::DiskFull, .. }) => {}
                other => panic!("{size}: {other:?}"),
            }
        }
        link.upload_release(&shop(), "1.0.0", &archive(&place, "a.tar.gz", &vec![7; 2 << 20])).await.unwrap();
    });
}
