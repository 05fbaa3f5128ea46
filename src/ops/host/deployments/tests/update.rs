//! Updates in place.

use super::*;

/// A release that is left would refuse the code of the next update.
#[tokio::test(start_paused = true)]
async fn update_with_the_same_code_changes_nothing_and_leaves_no_release() {
    let fake = fake();
    deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    let mut again = update_of(&fake, "1.0.0");
    let updated = update(&fake.world, &again).await.unwrap();
    let release = "1.0.0~3";
    again.digest = Some(fake.versions.place(&shop(), release, Path::new("new code")).unwrap());
    let is_there = || fake.versions.digest(&shop(), release).unwrap().is_some();
    let trial = UpdateRequest { dry_run: true, ..again.clone() };
    assert_eq!((update(&fake.world, &trial).await.unwrap(), is_there()), (updated.clone(), true));
    assert_eq!((update(&fake.world, &again).await.unwrap(), is_there()), (updated, false));
}
