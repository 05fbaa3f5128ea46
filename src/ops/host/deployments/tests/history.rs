//! The history has what was deployed and killed, and nothing that was refused.

use super::*;
use crate::model::api::StatusRequest;
use crate::model::history::Phase;
use crate::ops::host::status::read_view;
use crate::world::store::Store as _;

fn list_done(fake: &FakeWorld, action: &str) -> Vec<String> {
    let rows = fake.store.load_history(None, 1000).unwrap();
    let done = rows.into_iter().filter(|row| row.action == action && row.phase == Phase::Done);
    done.map(|row| row.detail).collect()
}

#[tokio::test(start_paused = true)]
async fn history_has_every_deploy() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    let details = list_done(&fake, "deploy");
    assert_eq!(details.len(), 2, "{details:?}");
    assert!(details[1].starts_with("shop 2.0.0 (dp_") && details[1].ends_with("is a shadow"), "{details:?}");
    // The same again is no deploy.
    deploy(&fake.world, &request(&fake, "2.0.0")).await.unwrap();
    assert_eq!(list_done(&fake, "deploy").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn history_has_no_refused_kill_as_done() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    assign(&fake.world, &AssignRequest { trial: MS * 5000, ..to("2.0.0") }).await.unwrap();
    *fake.host.sockets.lock().unwrap() = vec![busy()];
    kill(&fake.world, &kill_of(&fake, "1.0.0")).await.unwrap_err();
    assert_eq!(list_done(&fake, "kill"), Vec::<String>::new());
    assert_eq!(list_done(&fake, "kill: refused").len(), 1, "its routes are back");
    *fake.host.sockets.lock().unwrap() = vec![];
    kill(&fake.world, &kill_of(&fake, "1.0.0")).await.unwrap();
    let killed = list_done(&fake, "kill");
    assert!(killed.len() == 1 && killed[0].ends_with("was killed"), "{killed:?}");
}

/// `status` shows who changed the host last, and since when its forward is as it is.
#[tokio::test(start_paused = true)]
async fn refused_kill_is_no_change() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    assign(&fake.world, &AssignRequest { trial: MS * 5000, ..to("2.0.0") }).await.unwrap();
    let before = read_last_change(&fake).await;
    assert_eq!(before.1.as_deref(), Some("assign"));
    *fake.host.sockets.lock().unwrap() = vec![busy()];
    tokio::time::advance(MS * 3000).await;
    kill(&fake.world, &kill_of(&fake, "1.0.0")).await.unwrap_err();
    assert_eq!(read_last_change(&fake).await, before);
    *fake.host.sockets.lock().unwrap() = vec![];
    kill(&fake.world, &kill_of(&fake, "1.0.0")).await.unwrap();
    assert_eq!(read_last_change(&fake).await.1.as_deref(), Some("kill"));
}

async fn read_last_change(fake: &FakeWorld) -> (jiff::Timestamp, Option<String>) {
    let fleet = example::fleet();
    let request = StatusRequest {
        service: shop(),
        ports: fleet.ports,
        main: "127.0.0.1:8080".parse().unwrap(),
        health: fleet.health,
        send_packet: false,
        addresses: vec![],
    };
    let view = read_view(&fake.world, &request).await;
    (view.record.unwrap().unwrap().changed_at, view.last_entry.map(|entry| entry.action))
}
