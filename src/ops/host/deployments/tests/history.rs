//! The history has what was deployed and killed, and nothing that was refused.

use super::*;
use crate::model::history::Phase;
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
