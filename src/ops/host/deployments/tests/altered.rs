//! A release whose files were changed on the host is neither started nor made main.

use super::*;
use crate::model::release::{FileChange, FileChangeKind};

fn change_file(fake: &FakeWorld, release: &str, kind: FileChangeKind) {
    let change = FileChange { path: "app.py".into(), kind };
    fake.versions.changed_files.lock().unwrap().insert(release.to_owned(), vec![change]);
}

fn refusal(release: &str) -> String {
    format!(
        "the release shop/{release} was changed on this host since it was placed: `app.py` has other contents"
    )
}

#[tokio::test(start_paused = true)]
async fn changed_release_is_refused_by_deploy_update_and_assign() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    let before = (fake.world.deployments.all().unwrap(), rules(&fake));
    for release in ["2.0.0", "2.0.0~2", "3.0.0"] {
        change_file(&fake, release, FileChangeKind::Contents);
    }
    let new = request(&fake, "3.0.0");
    let error = deploy(&fake.world, &new).await.unwrap_err();
    assert_eq!((error.code(), error.to_string()), (ErrorCode::ReleaseAltered, refusal("3.0.0")));
    let error = update(&fake.world, &update_of(&fake, "2.0.0")).await.unwrap_err();
    assert_eq!(error.to_string(), refusal("2.0.0~2"));
    let error = assign(&fake.world, &to("2.0.0")).await.unwrap_err();
    assert_eq!(error.to_string(), refusal("2.0.0"));
    assert_eq!((fake.world.deployments.all().unwrap(), rules(&fake)), before);
    // The same code again replaces the changed release.
    let mut same = update_of(&fake, "2.0.0");
    same.digest.clone_from(&fake.world.deployments.all().unwrap()[1].instance.digest);
    let key = (shop(), "2.0.0~2".to_owned());
    fake.versions.releases.lock().unwrap().insert(key, same.digest.clone().unwrap());
    let error = update(&fake.world, &same).await.unwrap_err();
    assert_eq!(error.to_string(), refusal("2.0.0~2"), "a new build is started");
    // A dry run finds it too.
    let dry_run = AssignRequest { dry_run: true, ..to("2.0.0") };
    assert_eq!(assign(&fake.world, &dry_run).await.unwrap_err().to_string(), refusal("2.0.0"));
}

/// What a program wrote beside its files is no reason to refuse it, and a rollback does not wait for the disk.
#[tokio::test(start_paused = true)]
async fn added_files_are_allowed_and_rollback_does_not_compare() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    change_file(&fake, "2.0.0", FileChangeKind::Added);
    assign(&fake.world, &to("2.0.0")).await.unwrap();
    change_file(&fake, "1.0.0", FileChangeKind::Contents);
    let to_old = rollback(&fake.world, &shop(), &back()).await.unwrap();
    assert_eq!(to_old.deployment.version.to_string(), "1.0.0");
}
