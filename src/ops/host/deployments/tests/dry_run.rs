//! A dry run changes nothing, also where a change was interrupted, and returns what the change itself would return.

use super::*;
use crate::model::api::deployments::MergeRequest;
use crate::model::deployment::Deployment;
use crate::world::store::Store as _;

/// Everything of a host that a command can change.
fn snapshot(fake: &FakeWorld) -> String {
    let all = fake.world.deployments.all().unwrap();
    let records = fake.store.load_records().unwrap();
    let history = fake.store.load_history(None, 500).unwrap();
    let running: Vec<String> =
        fake.versions.running.lock().unwrap().keys().map(ToString::to_string).collect();
    let releases = format!("{:?}", fake.versions.releases.lock().unwrap());
    format!("{all:?}\n{records:?}\n{:?}\n{history:?}\n{running:?}\n{releases}", rules(fake))
}

/// A host on which a change of 2.0.0 was interrupted at this stage.
async fn interrupted(stage: Stage) -> FakeWorld {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    let mut left = fake.world.deployments.all().unwrap().into_iter().find(|one| one.revision == 2).unwrap();
    left.stage = stage;
    fake.world.deployments.put(&left).unwrap();
    fake
}

#[tokio::test(start_paused = true)]
async fn dry_run_does_not_finish_an_interrupted_change() {
    for stage in [Stage::Killing, Stage::Starting, Stage::Updating, Stage::Retiring] {
        let fake = interrupted(stage).await;
        let kill_request = KillRequest { dry_run: true, ..kill_of(&fake, "2.0.0") };
        let deploy_request = DeployRequest { dry_run: true, ..request(&fake, "3.0.0") };
        let update_request = UpdateRequest { dry_run: true, ..update_of(&fake, "1.0.0") };
        let (id, into) = (id_of(&fake, "2.0.0"), "dp_0000000000zz".parse().unwrap());
        let merge_request = MergeRequest { id, into, revision: 2, actor: actor(), dry_run: true };
        let before = snapshot(&fake);
        let killed = kill(&fake.world, &kill_request).await;
        deploy(&fake.world, &deploy_request).await.unwrap();
        update(&fake.world, &update_request).await.unwrap();
        let merged = merge(&fake.world, &merge_request).await;
        assert_eq!(snapshot(&fake), before, "{stage:?}");
        // A version that the repair removes cannot be killed or merged any more.
        let is_removed = matches!(stage, Stage::Killing | Stage::Starting);
        assert_eq!((killed.is_err(), merged.is_err()), (is_removed, is_removed), "{stage:?}");
    }
}

/// What a dry run of a deploy returns is what the deploy returns, but for ports that a repair frees.
#[tokio::test(start_paused = true)]
async fn dry_run_of_deploy_counts_with_the_repair() {
    let fake = with_versions(&["1.0.0"]).await;
    // The kill of the only version was interrupted: the next one is main.
    let all = fake.world.deployments.all().unwrap();
    fake.world.deployments.put(&Deployment { stage: Stage::Killing, ..all[0].clone() }).unwrap();
    let planned =
        deploy(&fake.world, &DeployRequest { dry_run: true, ..request(&fake, "2.0.0") }).await.unwrap();
    assert_eq!(planned.role, Role::Main);
    let port = all[0].instance.port;
    let same_port = DeployRequest { dry_run: true, port: Some(port), ..request(&fake, "2.0.0") };
    assert_eq!(deploy(&fake.world, &same_port).await.unwrap().deployment.instance.port, port);
    let deployed = deploy(&fake.world, &request(&fake, "2.0.0")).await.unwrap();
    assert_eq!(deployed.role, Role::Main);
}
