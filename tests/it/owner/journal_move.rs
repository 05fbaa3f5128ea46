//! `journal move` with the real program: from SQLite to each store and back, with an unfinished roll.

use std::path::Path;
use std::sync::Arc;

use switchman::model::journal_record::{Log, StoredEntry};
use switchman::model::lock::LockNote;
use switchman::sys::journal::sqlite::SqliteJournal;
use switchman::world::journal_store::JournalStore;

use super::shared_journal::SharedStore;
use super::*;
use crate::journal_store::servers::Servers;

/// Everything in a SQLite journal but the lock.
async fn read_all(dir: &Path) -> (Vec<StoredEntry>, Vec<LockNote>) {
    let store: Arc<dyn JournalStore> = Arc::new(SqliteJournal::new(dir.join("shop.db")));
    let mut entries = Vec::new();
    for log in [Log::Rolls, Log::Promotions] {
        for id in store.list(log, u32::MAX).await.unwrap() {
            entries.extend(store.load(log, &id, 0).await.unwrap());
        }
    }
    (entries, store.load_notes(u32::MAX).await.unwrap())
}

impl Host {
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn path_yaml(&self, name: &str) -> String {
        format!("journal: {{path: {}}}\n", self.path(name))
    }

    /// A command on a machine whose journal is that of the configuration.
    fn works(&self, machine: &str, args: &[&str]) -> String {
        let (code, text) = self.run_elsewhere(machine, args);
        assert_eq!(code, Some(0), "{args:?}: {text}");
        text
    }

    fn is_refused_elsewhere(&self, machine: &str, args: &[&str], words: &str) {
        let (code, text) = self.run_elsewhere(machine, args);
        assert_eq!(code, Some(1), "{args:?}: {text}");
        assert!(text.contains(words) && text.contains("\n next: "), "{words}: {text}");
    }
}

/// `yaml` is about the store, and its last line is `journal: VALUE`.
async fn check_move(yaml: &str) {
    let value = yaml.trim_end().lines().last().unwrap().strip_prefix("journal: ").unwrap().to_owned();
    let reach = yaml.replace(&format!("journal: {value}\n"), "");
    let host = Host::with_shared_journal("");
    host.write_yaml(&format!("{reach}{}", host.path_yaml("old")));
    host.works("ops1", &["enable-forward"]);
    host.works("ops1", &["roll", "--", "true"]);
    host.works("ops1", &["lock", "acquire", "-m", "a note of mine"]);
    host.works("ops1", &["lock", "release"]);
    // Its first run stays for long; the second one, of the resume, ends at once.
    let again = host.path("again");
    let script = format!("test -e {again} && exit; touch {again}; sleep 600");
    let mut roll = host.start_elsewhere("ops1", &script);
    host.is_refused_elsewhere(
        "ops2",
        &["journal", "move", "--to", &value],
        "the fleet is locked by root on ops1 ",
    );
    roll.kill().unwrap();
    roll.wait().unwrap();
    let old = read_all(&host.0.path().join("old")).await;
    assert!(old.0.len() > 10 && old.1.len() >= 2, "{old:?}");
    let moved = host.works("ops2", &["journal", "move", "--to", &value]);
    assert!(
        moved.contains("2 rolls and 0 promotions with ") && moved.contains(&format!("journal: {value}\n")),
        "{moved}"
    );
    // The old place is locked; moving again finds everything there.
    host.is_refused_elsewhere("ops1", &["roll", "--", "true"], "the journal was moved to ");
    let again = host.works("ops1", &["journal", "move", "--to", &value]);
    assert!(again.contains("(0 copied by this run)"), "{again}");
    host.write_yaml(yaml);
    // Back, before the roll goes on: the same entries in the same order.
    let back = format!("{{path: {}}}", host.path("back"));
    host.works("ops3", &["journal", "move", "--to", &back]);
    assert_eq!(read_all(&host.0.path().join("back")).await, old);
    // And there again, where the lock of the move before is replaced.
    host.write_yaml(&format!("{reach}{}", host.path_yaml("back")));
    host.works("ops3", &["journal", "move", "--to", &value]);
    host.write_yaml(yaml);
    let resumed = host.works("ops2", &["roll", "--resume"]);
    assert!(!resumed.contains("no roll"), "{resumed}");
    let status = host.works("ops3", &["status"]);
    assert!(status.contains("forward   on"), "{status}");
    // The old journal is not the beginning of another one.
    host.write_yaml(&format!("{reach}{}", host.path_yaml("third")));
    host.works("ops3", &["roll", "--", "true"]);
    let to = ["journal", "move", "--to", &value];
    host.is_refused_elsewhere("ops3", &to, " is not empty: it has 2 rolls and 0 promotions with ");
}

#[test]
fn journal_moves_to_another_machine_and_back() {
    run_in_namespace(|| async {
        let store = SharedStore::start_machine().await;
        check_move(&store.yaml()).await;
    });
}

#[test]
fn journal_moves_to_etcd_and_back() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::etcd(1).await else { return };
        check_move("journal: {etcd: ['http://127.0.0.1:2379']}\n").await;
    });
}

#[test]
#[ignore = "as on etcd: `make soak`"]
fn journal_moves_to_consul_and_back() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::consul(1).await else { return };
        check_move("journal: {consul: ['http://127.0.0.1:8500']}\n").await;
    });
}

#[test]
#[ignore = "as on etcd: `make soak`"]
fn journal_moves_to_postgres_and_back() {
    run_in_namespace(|| async {
        let Some(_servers) = Servers::postgres().await else { return };
        check_move("journal: {postgres: 'postgresql://postgres@127.0.0.1/postgres?sslmode=disable'}\n").await;
    });
}

#[test]
fn interrupted_move_continues_where_it_stopped() {
    run_in_namespace(|| async {
        let host = Host::with_shared_journal("");
        host.write_yaml(&host.path_yaml("old"));
        host.works("ops1", &["enable-forward"]);
        host.works("ops1", &["roll", "--", "true"]);
        let old = read_all(&host.0.path().join("old")).await;
        let target: Arc<dyn JournalStore> = Arc::new(SqliteJournal::new(host.0.path().join("new/shop.db")));
        for entry in &old.0[..3] {
            target.append(None, Log::Rolls, entry).await.unwrap();
        }
        let text = host.works("ops1", &["journal", "move", "--to", "{path: new}"]);
        assert!(text.contains(&format!("({} copied by this run)", old.0.len() + old.1.len() - 3)), "{text}");
        assert_eq!(read_all(&host.0.path().join("new")).await, old);
        let (code, text) = host.run_elsewhere("ops1", &["journal", "move", "--to", "{path: old}"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("is where it is"), "{text}");
        for wrong in ["/srv/journal", "{path: a, etcd: ['http://a:1']}", "{"] {
            let (code, text) = host.run_elsewhere("ops1", &["journal", "move", "--to", wrong]);
            assert_eq!(code, Some(2), "{wrong}: {text}");
        }
    });
}
