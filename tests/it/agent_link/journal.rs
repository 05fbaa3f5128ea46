//! The journal that another machine keeps: over a real sshd, a unix socket and TLS; with answers that are lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use switchman::model::journal_record::Log;
use switchman::sys::journal::host::{Connect, HostJournal, HostJournalSettings};
use switchman::world::journal_store::JournalError;
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::journal_store::conformance::{Store, check_store, make_entry, make_holder};

fn open_journal(way: &Transport, reach: &ConnectConfig, fleet: &str) -> Store {
    let (way, reach) = (way.clone(), reach.clone());
    let connect: Connect = Arc::new(move || connect(&"lb1".parse().unwrap(), &way, &reach));
    let service = fleet.parse().unwrap();
    let settings = HostJournalSettings { machine: "lb1".to_owned(), service, directory: None, connect };
    Arc::new(HostJournal::new(settings))
}

#[test]
fn journal_over_ssh_conforms() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        // The racers of the suite log in at the same time.
        place.sshd("MaxStartups 100").await;
        let reach = ConnectConfig {
            ssh_options: place.ssh_options(""),
            remote_switchman: place.remote().to_vec(),
            ..ConnectConfig::default()
        };
        check_store(&|fleet: &str| open_journal(&Transport::Ssh("lb1".to_owned()), &reach, fleet)).await;
        let kept = std::fs::metadata(place.path("state/journals")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&kept.permissions()) & 0o777, 0o700);
    });
}

#[test]
fn journal_of_an_agent_conforms_over_tls() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let token = place.write("token", "a token that is long enough").display().to_string();
        place.tls_agent(&["--token-file", &token]).await;
        let reach = ConnectConfig {
            ca: Some(place.path("ca.pem")),
            token_file: Some(place.path("token")),
            ..ConnectConfig::default()
        };
        check_store(&|fleet: &str| open_journal(&Transport::Tls(tls::TLS.to_owned()), &reach, fleet)).await;
    });
}

/// Relays connections to the agent. Where one carries the numbered request of all, its answer is lost.
async fn relay(front: UnixListener, agent: PathBuf, lost: usize) {
    let requests = Arc::new(AtomicUsize::new(0));
    loop {
        let (mut client, _) = front.accept().await.unwrap();
        let (agent, requests) = (agent.clone(), requests.clone());
        tokio::spawn(async move {
            let mut agent = UnixStream::connect(agent).await.unwrap();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = client.read(&mut buffer).await.unwrap_or(0);
                if read == 0 || agent.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
                let is_lost = String::from_utf8_lossy(&buffer[..read]).contains("\"operation\"")
                    && requests.fetch_add(1, Ordering::Relaxed) == lost;
                // A small request and its answer come in one piece each, over a unix socket.
                let answered = agent.read(&mut buffer).await.unwrap_or(0);
                if is_lost || client.write_all(&buffer[..answered]).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[test]
fn write_whose_answer_is_lost_happens_once() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.agent(&[]).await;
        let me = make_holder(1);
        // Acquire, append, append, release.
        for lost in 0..4 {
            let path = place.path(&format!("relay{lost}"));
            let relaying =
                tokio::spawn(relay(UnixListener::bind(&path).unwrap(), place.path("agent.sock"), lost));
            let fleet = format!("lost{lost}");
            let store = open_journal(&Transport::Socket(path), &ConnectConfig::default(), &fleet);
            store.acquire(&me, None).await.unwrap();
            for _ in 0..2 {
                store.append(Some(&me), Log::Rolls, &make_entry("r1", "same")).await.unwrap();
            }
            store.release(&me).await.unwrap();
            let direct =
                open_journal(&Transport::Socket(place.path("agent.sock")), &ConnectConfig::default(), &fleet);
            let entries = direct.load(Log::Rolls, "r1", 0).await.unwrap();
            assert_eq!((entries.len(), direct.read_lock().await), (2, Ok(None)), "answer {lost} is lost");
            relaying.abort();
        }
    });
}

/// Answers as an agent that knows no journal.
async fn serve_older_agent(front: UnixListener) {
    loop {
        let (mut client, _) = front.accept().await.unwrap();
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while client.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                let hello = r#"{"api":2,"oldest_api":2,"version":"0.1.0","machine":"lb1"}"#;
                let refusal = r#"{"message":"there is no such route","code":"not-found"}"#;
                let is_hello = buffer.starts_with(b"GET /v1 ");
                let (status, body) = if is_hello { ("200 OK", hello) } else { ("404 Not Found", refusal) };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if client.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[test]
fn older_agent_is_named_with_both_versions() {
    run_in_namespace(|| async {
        let place = Place::new();
        let path = place.path("older.sock");
        tokio::spawn(serve_older_agent(UnixListener::bind(&path).unwrap()));
        let store = open_journal(&Transport::Socket(path), &ConnectConfig::default(), "shop");
        let error = store.read_lock().await.unwrap_err();
        assert!(matches!(error, JournalError::OtherVersion { .. }), "{error:?}");
        let text = format!(
            "cannot read the lock in the journal on lb1: switchman 0.1.0 there does not know the operation `read-lock` of \
             switchman {} here (there is no such route)",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(error.to_string(), text);
    });
}

#[test]
fn machine_that_refuses_is_named_at_once_with_what_to_do() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        let reach = |config: &str, remote: &str| ConnectConfig {
            ssh_options: place.ssh_options(config),
            remote_switchman: vec![remote.to_owned()],
            ..ConnectConfig::default()
        };
        let way = Transport::Ssh("lb1".to_owned());
        let stranger = open_journal(&way, &reach(" User swm-nobody", SWITCHMAN), "shop").read_lock().await;
        let missing = open_journal(&way, &reach("", "/no/such/switchman"), "shop").read_lock().await;
        for (refused, words, action) in [
            (stranger, "Permission denied (publickey)", "let the host accept a key of yours"),
            (missing, "switchman is not installed there", "install switchman there"),
        ] {
            let Err(JournalError::NotConnected { reason, advice, .. }) = refused else {
                panic!("{refused:?}")
            };
            assert!(reason.contains(words), "{reason}");
            assert!(advice.contains(action), "{advice}");
        }
    });
}
