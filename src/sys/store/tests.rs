use super::*;
use crate::model::caller::{Caller, CallerIdentity};
use crate::model::deployment::DeploymentId;
use crate::model::example::{self, make_actor as actor, make_intent};
use crate::model::forward::{Route, RouteChange, Routes, Trial};
use crate::model::history::Phase;
use crate::model::port_forward::Switch;

fn intent(switch: Switch) -> Intent {
    make_intent(switch, "disable-forward")
}

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

fn new_store() -> (tempfile::TempDir, SqliteStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::new(dir.path());
    (dir, store)
}

fn done() -> ChangeOutcome {
    ChangeOutcome::Done { detail: "DOWN on lb1".into() }
}

#[test]
fn read_creates_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::new(dir.path().join("state"));
    assert_eq!(store.load_records(), Ok(vec![]));
    assert_eq!(store.load_history(None, 10), Ok(vec![]));
    assert!(!dir.path().join("state").exists());
}

#[test]
fn change_is_recorded_with_begin_and_end() {
    let (dir, store) = new_store();
    let (operation, _) = store.begin(&intent(Switch::Off), at(1)).unwrap();
    store.end(operation, &actor(), &done(), at(2)).unwrap();

    let reopened = SqliteStore::new(dir.path());
    let recorded = reopened.load_records().unwrap();
    assert_eq!(recorded.len(), 1);
    assert_eq!((recorded[0].switch, recorded[0].generation, recorded[0].changed_at), (Switch::Off, 1, at(1)));
    let history = reopened.load_history(None, 10).unwrap();
    let phases: Vec<_> = history.iter().map(|entry| (entry.operation, entry.phase, entry.at)).collect();
    assert_eq!(phases, [(operation, Phase::Began, at(1)), (operation, Phase::Done, at(2))]);
}

#[test]
fn owner_and_operator_machine_are_recorded() {
    let (_dir, store) = new_store();
    let alice = Actor { machine: "ops1".into(), purpose: "new disk".into(), ..Actor::new("alice", 9) };
    store.begin(&Intent { actor: alice.clone(), ..intent(Switch::Off) }, at(1)).unwrap();
    let owner = store.load_records().unwrap().remove(0).owner.unwrap();
    assert_eq!(owner.to_string(), "alice on ops1, by hand, since 1970-01-01T00:00:01Z: new disk");
    let entry = store.load_history(None, 1).unwrap().remove(0);
    assert_eq!(entry.actor, alice);
    let roll = Some("r20261127-230812-2ae7".parse().unwrap());
    let rolling = Actor { roll, purpose: "./deploy.sh".into(), ..alice.clone() };
    let (operation, _) =
        store.begin(&Intent { actor: rolling.clone(), ..intent(Switch::Off) }, at(1)).unwrap();
    store.end(operation, &rolling, &done(), at(2)).unwrap();
    assert_eq!(store.load_history(None, 1).unwrap().remove(0).actor, rolling);
    let identity = CallerIdentity::Token { name: "ci".into() };
    let caller = Caller::new(identity, Some("10.0.0.9:7".parse().unwrap()));
    let observed = Actor { caller: Some(caller.clone()), ..alice.clone() };
    let (operation, _) =
        store.begin(&Intent { actor: observed.clone(), ..intent(Switch::Off) }, at(1)).unwrap();
    store.end(operation, &observed, &done(), at(2)).unwrap();
    let entries = store.load_history(None, 2).unwrap();
    assert!(entries.iter().all(|entry| entry.caller.as_ref() == Some(&caller)), "{entries:?}");
    store.begin(&Intent { actor: alice, ..intent(Switch::On) }, at(2)).unwrap();
    assert_eq!(store.load_records().unwrap()[0].owner, None);
}

#[test]
fn undone_change_restores_state_and_increments_generation() {
    let (_dir, store) = new_store();
    let undo = |previous: Option<ServiceRecord>| ChangeOutcome::RolledBack {
        previous: previous.map(Box::new),
        reason: "no lock".into(),
    };
    let (first, _) = store.begin(&intent(Switch::Off), at(1)).unwrap();
    store.end(first, &actor(), &undo(None), at(2)).unwrap();
    assert_eq!(store.load_records(), Ok(vec![]));

    store.begin(&intent(Switch::On), at(3)).unwrap();
    let on = store.load_records().unwrap().remove(0);
    let (second, _) = store.begin(&intent(Switch::Off), at(4)).unwrap();
    store.end(second, &actor(), &undo(Some(on.clone())), at(5)).unwrap();
    assert_eq!(store.load_records(), Ok(vec![ServiceRecord { generation: 3, ..on }]));
    assert_eq!(store.load_history(None, 1).unwrap()[0].detail, "no lock");
}

#[test]
fn history_is_append_only() {
    let (_dir, store) = new_store();
    store.begin(&intent(Switch::Off), at(1)).unwrap();
    let connection = Connection::open(store.dir.join("state.db")).unwrap();
    for sql in ["UPDATE history SET user = 'me'", "DELETE FROM history"] {
        assert!(connection.execute(sql, []).unwrap_err().to_string().contains("append-only"), "{sql}");
    }
}

/// As the first switchman made it.
const VERSION_1: &str = "
    CREATE TABLE forwards (
        service TEXT PRIMARY KEY, check_port INTEGER NOT NULL, target_port INTEGER NOT NULL,
        switch TEXT NOT NULL CHECK (switch IN ('on', 'off')), from_self INTEGER NOT NULL,
        generation INTEGER NOT NULL, changed_at TEXT NOT NULL) STRICT;
    CREATE TABLE history (
        id INTEGER PRIMARY KEY AUTOINCREMENT, operation INTEGER NOT NULL, at TEXT NOT NULL, user TEXT NOT NULL,
        pid INTEGER NOT NULL, service TEXT NOT NULL, action TEXT NOT NULL,
        phase TEXT NOT NULL CHECK (phase IN ('began', 'done', 'failed')), detail TEXT NOT NULL) STRICT;
    INSERT INTO history (operation, at, user, pid, service, action, phase, detail) VALUES
        (1, '2026-11-21T10:00:00Z', 'ops', 7, 'shop', 'disable-forward', 'began', '');
    INSERT INTO forwards VALUES ('shop', 8888, 8080, 'off', 0, 7, '2026-11-21T10:00:00Z');
    PRAGMA user_version = 1;";

#[test]
fn upgrade_from_version_1_keeps_maintenance() {
    let dir = tempfile::tempdir().unwrap();
    Connection::open(dir.path().join("state.db")).unwrap().execute_batch(VERSION_1).unwrap();
    for _ in 0..2 {
        let store = SqliteStore::new(dir.path());
        let found = store.load_records().unwrap();
        assert_eq!((found[0].switch, found[0].generation, &found[0].routes), (Switch::Off, 7, &None));
        assert_eq!((&found[0].owner, store.all()), (&None, Ok(vec![])));
        let history = store.load_history(None, 10).unwrap();
        assert_eq!((history[0].actor.clone(), history.len()), (actor(), 1));
    }
}

#[test]
fn store_refuses_newer_schema() {
    let (dir, store) = new_store();
    store.begin(&intent(Switch::Off), at(1)).unwrap();
    Connection::open(store.dir.join("state.db")).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = SqliteStore::new(dir.path()).load_records().unwrap_err();
    assert_eq!(error, StoreError::Newer { path: store.dir.join("state.db"), found: 9, known: 8 });
}

#[test]
fn agent_polling_queries_use_partial_indexes() {
    let (_dir, store) = new_store();
    store.begin(&intent(Switch::On), at(1)).unwrap();
    let connection = Connection::open(store.dir.join("state.db")).unwrap();
    for (select, index) in [(rows::SELECT_TRIALS, "trials"), (rows::SELECT_PROXIED, "places")] {
        let plan: String =
            connection.query_row(&format!("EXPLAIN QUERY PLAN {select}"), [], |row| row.get(3)).unwrap();
        assert_eq!(plan, format!("SCAN forwards USING INDEX {index}"));
    }
}

#[test]
fn store_reports_damaged_file() {
    let (_dir, store) = new_store();
    std::fs::write(
        store.dir.join("state.db"),
        "this is no database, and long enough to be looked at as one".repeat(20),
    )
    .unwrap();
    assert!(matches!(store.load_records(), Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn store_lock_is_exclusive() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (SqliteStore::new(dir.path()), SqliteStore::new(dir.path()));
    let held = one.lock("disable-forward", Duration::ZERO).await.unwrap();
    let error = two.lock("enable-forward", Duration::from_millis(50)).await.err().unwrap();
    let holder = format!("pid {}: disable-forward", std::process::id());
    assert_eq!(error, StoreError::Busy { holder, waited: Duration::from_millis(50) });
    drop(held);
    assert!(two.lock("enable-forward", Duration::ZERO).await.is_ok());
}

#[test]
fn concurrent_writers_lose_no_changes() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = SqliteStore::new(dir.path());
                for _ in 0..10 {
                    let (operation, _) = store.begin(&intent(Switch::Off), at(1)).unwrap();
                    store.end(operation, &actor(), &done(), at(2)).unwrap();
                }
            });
        }
    });
    let store = SqliteStore::new(dir.path());
    assert_eq!(store.load_records().unwrap()[0].generation, 80);
    assert_eq!(store.load_history(None, 1000).unwrap().len(), 160);
}

#[test]
fn history_counts_done_actions_per_service() {
    let (_dir, store) = new_store();
    assert_eq!(store.done("repair"), Ok(BTreeMap::new()));
    let note = |service: &str, action| HistoryNote {
        service: service.parse().unwrap(),
        actor: actor(),
        action,
        detail: String::new(),
    };
    for (service, action) in [("shop", "repair"), ("shop", "restore"), ("blog", "repair"), ("shop", "repair")]
    {
        store.add_note(&note(service, action), at(1)).unwrap();
    }
    // One that began is not done.
    store.begin(&Intent { action: "repair".into(), ..intent(Switch::Off) }, at(2)).unwrap();
    let counts = store.done("repair").unwrap();
    assert_eq!(counts, [("blog".parse().unwrap(), 1), ("shop".parse().unwrap(), 2)].into());
}

#[test]
fn rename_replaces_the_id_everywhere_at_once() {
    let (dir, store) = new_store();
    let deployment = example::deployment("shop", "1.0.0", 20000);
    store.put(&deployment).unwrap();
    let route = |port| Route::new(port, deployment.id.clone(), example::port(20000));
    let routes = Routes {
        previous: Some(deployment.id.clone()),
        ..Routes::new(route(example::port(8080)), route(example::port(80)))
    };
    let trial = Some(Trial { until: at(9), previous: deployment.id.clone() });
    let set = Intent { route_change: RouteChange::Set { routes, trial }, ..intent(Switch::On) };
    store.begin(&set, at(1)).unwrap();

    let id = DeploymentId::new(at(5), 5);
    let renamed =
        Deployment { id: id.clone(), started_as: Some(deployment.id.clone()), ..deployment.clone() };
    store.rename(&deployment.id, &renamed).unwrap();
    let reopened = SqliteStore::new(dir.path());
    assert_eq!(reopened.all().unwrap(), [renamed]);
    let records = reopened.load_records().unwrap();
    assert!(!serde_json::to_string(&records).unwrap().contains(deployment.id.as_str()), "{records:?}");
    assert_eq!(records[0].routes.as_ref().unwrap().main.deployment, id);
    assert_eq!(records[0].generation, 1, "no command that waits is overtaken");
}
