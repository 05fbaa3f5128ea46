//! A static release that its web server cannot read answers its health check, and no other request.

use super::*;
use crate::model::deployment::WebServer;
use crate::world::releases::UnreadablePath;

fn set_unreadable(fake: &FakeWorld, is_unreadable: bool) {
    let found = UnreadablePath { path: "/root/releases".into(), mode: 0o700 };
    *fake.versions.unreadable.lock().unwrap() = is_unreadable.then_some(found);
}

fn static_request(fake: &FakeWorld, version: &str) -> DeployRequest {
    let mut request = request(fake, version);
    request.how.workload = Workload::Vhost { server: WebServer::Nginx };
    request
}

#[tokio::test(start_paused = true)]
async fn unreadable_release_gets_no_users() {
    let fake = with_versions(&["1.0.0"]).await;
    let before = rules(&fake);
    set_unreadable(&fake, true);
    let error = deploy(&fake.world, &static_request(&fake, "2.0.0")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unhealthy, "{error}");
    assert!(error.to_string().contains("cannot read `/root/releases` (mode 0700)"), "{error}");
    // A program reads its release as its own user.
    deploy(&fake.world, &request(&fake, "3.0.0")).await.unwrap();

    set_unreadable(&fake, false);
    deploy(&fake.world, &static_request(&fake, "2.0.0")).await.unwrap();
    set_unreadable(&fake, true);
    let error = assign(&fake.world, &to("2.0.0")).await.unwrap_err();
    assert!(error.to_string().contains("chmod o+rX /root/releases"), "{error}");
    assert_eq!(rules(&fake), before);
    set_unreadable(&fake, false);
    assign(&fake.world, &to("2.0.0")).await.unwrap();
}
