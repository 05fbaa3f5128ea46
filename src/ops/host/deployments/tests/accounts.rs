//! The users that programs run as.

use super::*;
use crate::model::account::{Account, Permission, ReleaseShare, Sandbox};
use crate::model::deployment::{InstanceSpec, WebServer};
use crate::world::deployments::DeploymentStore as _;

const ACCOUNT: Account = Account { uid: 90_000, gid: 90_000 };

fn running(fake: &FakeWorld) -> InstanceSpec {
    fake.versions.running.lock().unwrap().values().last().unwrap().clone()
}

fn shared(fake: &FakeWorld, release: &str) -> Option<(Account, ReleaseShare)> {
    fake.versions.shared.lock().unwrap().get(&(shop(), release.to_owned())).copied()
}

fn recorded(fake: &FakeWorld, version: &str) -> Deployment {
    let all = fake.world.deployments.all().unwrap();
    versions::find_deployment(&all, &which(version)).unwrap().clone()
}

/// A version that switchman 0.1.0 has deployed, and that runs.
async fn with_old_record() -> FakeWorld {
    let fake = fake();
    deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    let mut old = recorded(&fake, "1.0.0");
    old.instance.how.sandbox = None;
    fake.versions.put(&old).unwrap();
    fake.versions.running.lock().unwrap().clear();
    fake.versions.shared.lock().unwrap().clear();
    fake
}

#[tokio::test(start_paused = true)]
async fn new_program_runs_as_the_account_of_its_service() {
    let fake = fake();
    deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    assert_eq!(recorded(&fake, "1.0.0").instance.how.sandbox, Some(Sandbox::default()));
    let spec = running(&fake);
    assert_eq!((spec.user.as_deref(), spec.account), (Some("switchman-shop"), Some(ACCOUNT)));
    assert_eq!(spec.env["HOME"], "/srv/fake/shop/home");
    assert_eq!(shared(&fake, "1.0.0"), Some((ACCOUNT, ReleaseShare::Directories)));
    assert!(spec.find_sandbox().is_some());
}

#[tokio::test(start_paused = true)]
async fn named_user_gets_only_closed_files_and_root_no_sandbox() {
    let fake = fake();
    let mut named = request(&fake, "1.0.0");
    named.how.user = Some("www-data".to_owned());
    deploy(&fake.world, &named).await.unwrap();
    let spec = running(&fake);
    assert_eq!((spec.user.as_deref(), spec.account), (Some("www-data"), None));
    assert!(spec.find_sandbox().is_some() && !spec.env.contains_key("HOME"));
    assert_eq!(shared(&fake, "1.0.0"), Some((ACCOUNT, ReleaseShare::Closed)));
    let mut root = request(&fake, "2.0.0");
    root.how.user = Some("root".to_owned());
    deploy(&fake.world, &root).await.unwrap();
    let spec = fake
        .versions
        .running
        .lock()
        .unwrap()
        .values()
        .find(|one| one.version.to_string() == "2.0.0")
        .cloned();
    assert!(spec.is_some_and(|spec| spec.find_sandbox().is_none()));
}

#[tokio::test(start_paused = true)]
async fn old_record_keeps_its_user_over_restart_redeploy_and_update() {
    let fake = with_old_record().await;
    let old = recorded(&fake, "1.0.0");
    restore_instances(&fake.world).await.unwrap();
    let spec = running(&fake);
    assert_eq!((spec.user, spec.account, spec.sandbox), (None, None, None));
    assert_eq!(shared(&fake, "1.0.0"), None);
    let again = deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    assert!(again.known && again.deployment == old);
    let updated = update(&fake.world, &update_of(&fake, "1.0.0")).await.unwrap();
    assert_eq!((updated.instance.build, updated.instance.how.sandbox), (2, None));
    assert_eq!(running(&fake).user, None);
}

#[tokio::test(start_paused = true)]
async fn update_with_a_user_gives_an_old_record_its_account() {
    let fake = with_old_record().await;
    let mut how = recorded(&fake, "1.0.0").instance.how;
    how.user = Some("switchman-shop".to_owned());
    let mut again = request(&fake, "1.0.0");
    again.how = how.clone();
    let refused = deploy(&fake.world, &again).await.unwrap_err();
    assert!(refused.to_string().ends_with("already exists!"), "{refused}");
    let request = UpdateRequest { how: Some(how), ..update_of(&fake, "1.0.0") };
    let updated = update(&fake.world, &request).await.unwrap();
    assert_eq!((updated.instance.how.user, updated.instance.how.sandbox), (None, Some(Sandbox::default())));
    assert_eq!(running(&fake).user.as_deref(), Some("switchman-shop"));
    // Requests without a user accept it, also those that name its account.
    let mut again = self::request(&fake, "1.0.0");
    again.digest.clone_from(&recorded(&fake, "1.0.0").instance.digest);
    assert!(deploy(&fake.world, &again).await.unwrap().known);
    again.how.user = Some("switchman-shop".to_owned());
    assert!(deploy(&fake.world, &again).await.unwrap().known);
}

/// An older operator's switchman sends back what it knows of the record.
#[tokio::test(start_paused = true)]
async fn update_of_an_older_client_keeps_sandbox_and_exceptions() {
    let fake = fake();
    let mut new = request(&fake, "1.0.0");
    new.how.sandbox = Some(Sandbox { allow: [Permission::Devices].into() });
    deploy(&fake.world, &new).await.unwrap();
    let mut how = recorded(&fake, "1.0.0").instance.how;
    let kept = how.sandbox.take();
    let request = UpdateRequest { how: Some(how), ..update_of(&fake, "1.0.0") };
    let updated = update(&fake.world, &request).await.unwrap();
    assert_eq!(updated.instance.how.sandbox, kept);
    assert!(running(&fake).find_sandbox().unwrap().allows(Permission::Devices));
}

#[tokio::test(start_paused = true)]
async fn program_of_a_host_without_root_runs_as_its_user_and_that_is_reported() {
    let fake = fake();
    *fake.versions.has_no_accounts.lock().unwrap() = true;
    deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    let spec = running(&fake);
    assert_eq!((spec.user, spec.account), (None, None));
    assert!(spec.sandbox.is_some());
    let events = fake.host.events.lock().unwrap();
    let warned = |event: &Event| matches!(event, Event::Warning { text } if text.contains("not as the account `switchman-shop`"));
    assert!(events.iter().any(warned), "{events:?}");
}

/// Its workers are not root, and read files of the release.
#[tokio::test(start_paused = true)]
async fn web_server_has_no_account_and_gets_closed_files() {
    let fake = fake();
    let mut pages = request(&fake, "1.0.0");
    pages.how.workload = Workload::Vhost { server: WebServer::Nginx };
    deploy(&fake.world, &pages).await.unwrap();
    let spec = running(&fake);
    assert_eq!((spec.user, spec.sandbox), (None, None));
    assert_eq!(shared(&fake, "1.0.0"), Some((ACCOUNT, ReleaseShare::Closed)));
}

#[tokio::test(start_paused = true)]
async fn low_port_of_a_program_without_root_is_explained() {
    let fake = fake();
    let request =
        DeployRequest { port: Some(port(443)), health_timeout: MS * 100, ..request(&fake, "1.0.0") };
    *fake.versions.exit.lock().unwrap() = Some("status 1".to_owned());
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(443));
    let error = deploy(&fake.world, &request).await.unwrap_err().to_string();
    assert!(error.contains("a program that is not root cannot listen on a port below 1024"), "{error}");
}
