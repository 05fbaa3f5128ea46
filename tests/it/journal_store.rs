//! The journal stores against the real servers, all by one suite; and a cluster that loses a server.

pub mod conformance;
mod secured;
pub mod servers;

use std::sync::Arc;
use std::time::Duration;

use conformance::{Store, check_store, make_entry, make_holder};
use futures_util::future::join_all;
use servers::Servers;
use switchman::model::journal_record::Log;
use switchman::sys::journal::consul::{Consul, ConsulSettings};
use switchman::sys::journal::etcd::{Etcd, EtcdSettings};
use switchman::sys::journal::kv::KvJournal;
use switchman::sys::journal::postgres::{PostgresJournal, PostgresSettings};
use switchman::sys::journal::sqlite::SqliteJournal;
use switchman::world::journal_store::{Acquisition, JournalError};

use crate::testing::run_in_namespace;

fn open_etcd(nodes: u16, fleet: &str) -> Store {
    let endpoints = (0..nodes).map(|node| format!("http://127.0.0.1:{}", 2379 + 10 * node)).collect();
    let etcd = Etcd::new(EtcdSettings { endpoints, ..EtcdSettings::default() }).unwrap();
    Arc::new(KvJournal::new(Arc::new(etcd), fleet))
}

fn open_consul(nodes: u16, fleet: &str) -> Store {
    let endpoints = (0..nodes).map(|node| format!("http://127.0.0.1:{}", 8500 + 10 * node)).collect();
    let consul = Consul::new(ConsulSettings { endpoints, ..ConsulSettings::default() }).unwrap();
    Arc::new(KvJournal::new(Arc::new(consul), fleet))
}

fn open_postgres(fleet: &str) -> Store {
    let config = "host=127.0.0.1 user=postgres sslmode=disable connect_timeout=2".parse().unwrap();
    Arc::new(PostgresJournal::new(
        PostgresSettings::new(config, rustls::RootCertStore::empty()).unwrap(),
        fleet,
    ))
}

#[tokio::test]
async fn sqlite_file_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        |service: &str| -> Store { Arc::new(SqliteJournal::new(dir.path().join(format!("{service}.db")))) };
    check_store(&open).await;
}

#[test]
fn postgres_conforms() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::postgres().await else { return };
        check_store(&open_postgres).await;
    });
}

#[test]
fn etcd_conforms() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::etcd(1).await else { return };
        check_store(&|fleet: &str| open_etcd(1, fleet)).await;
    });
}

#[test]
fn consul_conforms() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::consul(1).await else { return };
        check_store(&|fleet: &str| open_consul(1, fleet)).await;
    });
}

#[test]
fn etcd_of_three_loses_nothing_with_a_server_killed() {
    run_in_namespace(|| async {
        let Some(servers) = Servers::etcd(3).await else { return };
        write_while_a_server_is_killed(servers, &|fleet: &str| open_etcd(3, fleet)).await;
    });
}

#[test]
fn consul_of_three_loses_nothing_with_a_server_killed() {
    run_in_namespace(|| async {
        let Some(servers) = Servers::consul(3).await else { return };
        write_while_a_server_is_killed(servers, &|fleet: &str| open_consul(3, fleet)).await;
    });
}

/// The server at which the lock was acquired fails, and the cluster marks its node as failed: the operator still has the lock.
#[test]
#[ignore = "waits half a minute for the cluster to notice: `make soak`"]
fn lock_outlives_the_consul_server_of_its_session() {
    run_in_namespace(|| async {
        let Some(mut servers) = Servers::consul(3).await else { return };
        let (store, me) = (open_consul(3, "shop"), make_holder(1));
        assert_eq!(store.acquire(&me, None).await, Ok(Acquisition::Acquired));
        servers.kill(0);
        let deadline = std::time::Instant::now() + Duration::from_mins(2);
        loop {
            store.renew(&me).await.unwrap();
            #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
            let answer = std::process::Command::new("curl")
                .args(["-s", "http://127.0.0.1:8510/v1/health/state/critical"])
                .output()
                .unwrap();
            if String::from_utf8_lossy(&answer.stdout).contains("serfHealth") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the cluster does not notice its server");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // The leader ends sessions of a failed node at once.
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.renew(&me).await.unwrap();
        store.append(Some(&me), Log::Rolls, &make_entry("r1", "after")).await.unwrap();
    });
}

/// The lock of a process that ends without a word is free after its lease; a person's is kept.
#[test]
fn lease_of_a_dead_process_ends() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::etcd(1).await else { return };
        let (store, me) = (open_etcd(1, "shop"), make_holder(1));
        assert_eq!(store.acquire(&me, None).await, Ok(Acquisition::Acquired));
        let seen = store.read_lock().await.unwrap();
        // Its limit is longer than the lease: without the lease the lock would be there still.
        store.wait_for_lock_change(seen.as_ref(), Duration::from_mins(1)).await.unwrap();
        assert_eq!(store.read_lock().await, Ok(None));
        let refused = store.append(Some(&me), Log::Rolls, &make_entry("r1", "late")).await;
        assert_eq!(refused, Err(JournalError::LockLost { holder: None }));
        assert_eq!(store.renew(&me).await, refused);
    });
}

#[test]
fn server_that_is_not_there_is_named_in_time() {
    run_in_namespace(|| async {
        for store in [open_etcd(2, "shop"), open_consul(1, "shop"), open_postgres("shop")] {
            let error = tokio::time::timeout(Duration::from_mins(1), store.read_lock()).await.unwrap();
            let text = error.unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("cannot read the lock in {}: no answer: ", store.label())),
                "{text}"
            );
            assert!(text.contains("refused"), "{text}");
        }
    });
}

/// Two hundred operators race for the lock, the winner writes, and a server is killed under both.
async fn write_while_a_server_is_killed(mut servers: Servers, open: &dyn Fn(&str) -> Store) {
    let mut clients = (0..200).map(|pid| (open("shop"), make_holder(pid))).collect::<Vec<_>>();
    let race = join_all(clients.iter().map(async |(store, me)| store.acquire(me, None).await.unwrap()));
    let watcher = open("shop");
    let kill = async {
        // In the middle of the race: one operator has the lock, and the others have not read it yet.
        while watcher.read_lock().await.unwrap().is_none() {}
        servers.kill(0);
    };
    let (taken, ()) = tokio::join!(race, kill);
    let winners: Vec<usize> =
        (0..taken.len()).filter(|index| taken[*index] == Acquisition::Acquired).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    let (store, me) = clients.swap_remove(winners[0]);
    assert_eq!(store.read_lock().await.unwrap().unwrap().holder, me);
    let entries: Vec<_> = (0..50).map(|number| make_entry("r1", &number.to_string())).collect();
    for entry in &entries {
        store.append(Some(&me), Log::Rolls, entry).await.unwrap();
    }
    assert_eq!(open("shop").load(Log::Rolls, "r1", 0).await, Ok(entries));
    store.release(&me).await.unwrap();
    follow_each_other(open).await;
}

/// Forty operators want the lock one after the other, with two of three servers left: each sees all that the ones before it
/// have written, and writes under its own lock.
async fn follow_each_other(open: &dyn Fn(&str) -> Store) {
    let written = std::sync::Mutex::new(Vec::new());
    let work = async |pid: u32| {
        let (store, me) = (open("shop"), make_holder(1000 + pid));
        while let Acquisition::Busy(lock) = store.acquire(&me, None).await.unwrap() {
            store.wait_for_lock_change(Some(&lock), Duration::from_mins(1)).await.unwrap();
        }
        let before = written.lock().unwrap().clone();
        assert_eq!(store.load(Log::Rolls, "r2", 0).await, Ok(before), "operator {pid} sees every entry");
        let entry = make_entry("r2", &pid.to_string());
        store.append(Some(&me), Log::Rolls, &entry).await.unwrap();
        written.lock().unwrap().push(entry);
        store.release(&me).await.unwrap();
        let late = store.append(Some(&me), Log::Rolls, &make_entry("r2", "late")).await;
        assert!(matches!(late, Err(JournalError::LockLost { .. })), "{late:?}");
    };
    join_all((0..40).map(work)).await;
    let written = written.into_inner().unwrap();
    assert_eq!(written.len(), 40);
    assert_eq!(open("shop").load(Log::Rolls, "r2", 0).await, Ok(written));
}
