use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::HostDeployError;
use super::*;
use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignScope, DeployRequest, DeploymentRef, HostNetwork, KillRequest,
    RollbackRequest, TrialOutcome, UpdateRequest, WatchRequest,
};
use crate::model::deployment::{
    Deployment, DeploymentId, DeploymentStatus, Digest, InstanceId, Role, RunSpec, Stage, Workload,
};
use crate::model::example::{self, make_actor as actor, port};
use crate::model::failure::ErrorCode;
use crate::model::forward::Intent;
use crate::model::name::ServiceName;
use crate::model::port_forward::Switch;
use crate::model::ports::Ports;
use crate::model::rules::Family;
use crate::model::socket::Socket;
use crate::ops::host::rules::{self, ChangeError};
use crate::plan::firewall::read_redirects;
use crate::plan::versions::{self, DeployRefusal};
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::paused::wait_until;
use crate::world::fake::{FakeWorld, MS, world};
use crate::world::probe::ProbeError;
use crate::world::releases::ReleaseStore as _;
use crate::world::reporter::Event;
use crate::world::store::StoreError;

mod altered;
mod backup_connections;
mod dry_run;
mod history;
mod instances;
mod owner;
mod ports;
mod proxy;
mod races;
mod unreadable;
mod update;

fn shop() -> ServiceName {
    "shop".parse().unwrap()
}

fn fake() -> FakeWorld {
    world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])))
}

/// A host with these versions: the first is main, on 20000.
async fn with_versions(versions: &[&str]) -> FakeWorld {
    let fake = fake();
    for version in versions {
        deploy(&fake.world, &request(&fake, version)).await.unwrap();
    }
    fake
}

fn site() -> HostNetwork {
    example::make_network(10)
}

/// A request whose release is placed.
fn request(fake: &FakeWorld, version: &str) -> DeployRequest {
    let digest = Some(fake.versions.place(&shop(), version, Path::new(version)).unwrap());
    DeployRequest { digest, ..example::make_deploy_request(version, site()) }
}

/// Another service, of its own ports: main 8.0.0, and 9.0.0.
async fn beside(fake: &FakeWorld) -> ServiceName {
    let cart: ServiceName = "cart".parse().unwrap();
    let ports = Ports { check: port(8889), main: port(8081), backup: port(81) };
    for version in ["8.0.0", "9.0.0"] {
        let new = example::deployment("cart", version, 20000);
        let digest = Some(fake.versions.place(&cart, version, Path::new(version)).unwrap());
        let site = HostNetwork { ports, ..site() };
        let request =
            DeployRequest { id: new.id, service: cart.clone(), digest, site, ..request(fake, version) };
        deploy(&fake.world, &request).await.unwrap();
    }
    cart
}

fn which(version: &str) -> DeploymentRef {
    DeploymentRef::Version { service: shop(), version: version.parse().unwrap() }
}

fn to(version: &str) -> AssignRequest {
    AssignRequest {
        which: which(version),
        scope: AssignScope::MainAndBackup,
        trial: Duration::ZERO,
        actor: actor(),
        detail: String::new(),
        dry_run: false,
    }
}

fn id_of(fake: &FakeWorld, version: &str) -> DeploymentId {
    let all = fake.world.deployments.all().unwrap();
    crate::plan::versions::find_deployment(&all, &which(version)).unwrap().id.clone()
}

fn kill_of(fake: &FakeWorld, version: &str) -> KillRequest {
    let id = id_of(fake, version);
    KillRequest {
        id,
        force: false,
        drain_timeout: MS * 1000,
        keep_files: false,
        actor: actor(),
        dry_run: false,
    }
}

fn update_of(fake: &FakeWorld, version: &str) -> UpdateRequest {
    let release = format!("{version}~2");
    let digest = fake.versions.place(&shop(), &release, Path::new("new code")).unwrap();
    UpdateRequest {
        id: id_of(fake, version),
        how: None,
        digest: Some(digest),
        health_timeout: MS * 2000,
        drain_timeout: MS * 1000,
        site: Some(site()),
        actor: actor(),
        dry_run: false,
        expected_instances: 1,
    }
}

fn back() -> RollbackRequest {
    RollbackRequest { actor: actor(), reason: String::new(), from: None, dry_run: false }
}

/// A connection with a request on it.
fn busy() -> Socket {
    Socket {
        cookie: 1,
        peer: "10.0.0.2:40000".parse().unwrap(),
        receive_queue: 10,
        send_queue: 0,
        info: crate::model::socket::TcpInfo::default(),
    }
}

/// Kind and target of every rule.
fn rules(fake: &FakeWorld) -> BTreeSet<(&'static str, u16)> {
    let found = read_redirects(&fake.firewall.table(Family::V4));
    found.into_iter().map(|one| (one.kind.as_str(), one.target.get())).collect()
}

fn all_to(main: u16, backup: u16) -> BTreeSet<(&'static str, u16)> {
    BTreeSet::from([("forward", main), ("route", main), ("backup", backup)])
}

/// Everything that must hold whenever no command is at work: rules route only to instances that run, everything that runs
/// and every release belongs to a deployment, the links match the rules.
fn is_sound(fake: &FakeWorld) -> Result<(), String> {
    let all = fake.world.deployments.all().unwrap();
    if let Some(one) = all.iter().find(|one| one.stage != Stage::Ready || one.other_instance.is_some()) {
        return Err(format!("{} is {:?}", one.version, one.stage));
    }
    let active = all.iter().flat_map(Deployment::active_instances);
    let ports: BTreeSet<u16> = active.map(|instance| instance.port.get()).collect();
    if let Some(rule) = rules(fake).iter().find(|(_, target)| !ports.contains(target)) {
        return Err(format!("a rule leads nowhere: {rule:?}"));
    }
    let instances: BTreeSet<InstanceId> =
        all.iter().flat_map(|one| one.active_instances().map(|instance| one.instance_id(instance))).collect();
    let running: BTreeSet<InstanceId> = fake.versions.running.lock().unwrap().keys().cloned().collect();
    if instances != running {
        return Err(format!("{instances:?} should run, {running:?} do"));
    }
    let releases: BTreeSet<String> =
        fake.versions.releases.lock().unwrap().keys().map(|(_, name)| name.clone()).collect();
    if let Some(one) = all.iter().find(|one| !releases.contains(&one.release_name(one.instance.build))) {
        return Err(format!("the release of {} is missing", one.version));
    }
    if !all.is_empty() && !rules(fake).iter().any(|(kind, _)| *kind == "route") {
        return Err("no main".to_owned());
    }
    Ok(())
}

/// Rows: D2, Z6.
#[tokio::test(start_paused = true)]
async fn host_lifecycle_from_deploy_to_kill() {
    let fake = fake();
    let world = &fake.world;
    let deployed = deploy(world, &request(&fake, "1.0.0")).await.unwrap();
    assert_eq!((deployed.role, deployed.deployment.revision), (Role::Main, 1));
    assert_eq!(rules(&fake), all_to(20000, 20000));
    let deployed = deploy(world, &request(&fake, "2.0.0")).await.unwrap();
    assert_eq!((deployed.role, deployed.deployment.revision), (Role::Shadow, 2));
    assert_eq!(rules(&fake), all_to(20000, 20000), "deploying never moves traffic");
    // Again: it is so already.
    assert!(deploy(world, &request(&fake, "2.0.0")).await.unwrap().known);

    assign(world, &to("2.0.0")).await.unwrap();
    assert_eq!(rules(&fake), all_to(20001, 20001), "without a watch window it is good at once");
    let link = |name: &str| fake.versions.links.lock().unwrap()[&(shop(), name.to_owned())].clone();
    assert_eq!((link("main"), link("backup")), ("2.0.0".to_owned(), "2.0.0".to_owned()));

    rollback(world, &shop(), &back()).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
    kill(world, &kill_of(&fake, "2.0.0")).await.unwrap();
    assert_eq!(is_sound(&fake), Ok(()));
    kill(world, &kill_of(&fake, "1.0.0")).await.unwrap();
    assert_eq!(rules(&fake), BTreeSet::new());
    assert!(fake.versions.running.lock().unwrap().is_empty());
    assert!(fake.versions.releases.lock().unwrap().is_empty());
}

/// Links are for people, old releases only for rollbacks: a main that has changed has changed.
#[tokio::test(start_paused = true)]
async fn failed_release_link_is_a_warning() {
    let fake = fake();
    for release in ["0.7.0", "0.8.0"] {
        fake.versions.place(&shop(), release, Path::new(release)).unwrap();
    }
    *fake.versions.is_read_only.lock().unwrap() = true;
    let told = |text: &str| {
        let events = std::mem::take(&mut *fake.host.events.lock().unwrap());
        let found =
            |event: &Event| matches!(event, Event::Warning { text: found } if found.starts_with(text));
        assert!(events.iter().any(found), "{text}: {events:?}");
    };
    deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    told("shop: old releases stay: ");
    deploy(&fake.world, &request(&fake, "2.0.0")).await.unwrap();
    told("shop: the links `main` and `backup` may be old: ");
    assign(&fake.world, &to("2.0.0")).await.unwrap();
    told("shop: the links");
    rollback(&fake.world, &shop(), &back()).await.unwrap();
    told("shop: the links");
    assert_eq!(rules(&fake), all_to(20000, 20000));
}

/// A kill that was to keep the release is not ended by one that takes it away.
/// Rows: D36.
#[tokio::test(start_paused = true)]
async fn interrupted_kill_keeps_release() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    let mut killing =
        fake.world.deployments.all().unwrap().into_iter().find(|one| one.revision == 2).unwrap();
    killing.stage = Stage::Killing;
    fake.world.deployments.put(&killing).unwrap();
    let done = restore_instances(&fake.world).await.unwrap();
    assert_eq!(done, ["shop 2.0.0: an unfinished kill is finished"]);
    assert_eq!(is_sound(&fake), Ok(()));
    assert!(fake.versions.digest(&shop(), "2.0.0").unwrap().is_some());
}

/// R7: what is killed is a deployment, by its id; the service's others stay.
/// Rows: R7.
#[tokio::test(start_paused = true)]
async fn kill_removes_only_named_deployment() {
    let fake = with_versions(&["1.0.0", "2.0.0", "3.0.0"]).await;
    let killed = kill(&fake.world, &kill_of(&fake, "2.0.0")).await.unwrap();
    assert_eq!(killed.deployment.version.to_string(), "2.0.0");
    let left: Vec<String> =
        fake.world.deployments.all().unwrap().iter().map(|one| one.version.to_string()).collect();
    assert_eq!((left.len(), left.contains(&"2.0.0".to_owned())), (2, false));
    assert_eq!(is_sound(&fake), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn deploy_removes_version_that_never_becomes_healthy() {
    let fake = fake();
    let address = "127.0.0.1:20000".parse().unwrap();
    *fake.host.probe_error.lock().unwrap() =
        Some(ProbeError::Status { address, path: "/health".into(), found: 500, expected: 200 });
    let error = deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unhealthy);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "shop 1.0.0 does not answer its health check within 2s: 127.0.0.1:20000/health answered 500"
        ),
        "{text}"
    );
    assert!(text.ends_with("| a line"), "the end of its log is shown: {text}");
    assert_eq!(rules(&fake), BTreeSet::new());
    assert_eq!(is_sound(&fake), Ok(()));
}

/// A program that has ended is not waited for, and the error does not claim so.
#[tokio::test(start_paused = true)]
async fn failed_start_names_the_time_that_was_waited() {
    let fake = fake();
    let address = "127.0.0.1:20000".parse().unwrap();
    *fake.host.probe_error.lock().unwrap() =
        Some(ProbeError::Status { address, path: "/health".into(), found: 500, expected: 200 });
    *fake.versions.exit.lock().unwrap() = Some("exit status 7".to_owned());
    let request = DeployRequest { health_timeout: MS * 60_000, ..request(&fake, "1.0.0") };
    let text = deploy(&fake.world, &request).await.unwrap_err().to_string();
    assert!(text.contains("health check within 0s: it ended with exit status 7"), "{text}");
}

/// R5, R9: work in flight holds a kill; when it is refused, everything is as before.
/// Rows: R5, R8, R9.
#[tokio::test(start_paused = true)]
async fn kill_refuses_busy_version_unless_forced() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    assign(&fake.world, &AssignRequest { trial: MS * 5000, ..to("2.0.0") }).await.unwrap();
    *fake.host.sockets.lock().unwrap() = vec![busy()];
    let error = kill(&fake.world, &kill_of(&fake, "1.0.0")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotDrained);
    assert_eq!(rules(&fake), all_to(20001, 20000), "the backup vhost is routed back");
    assert_eq!(is_sound(&fake), Ok(()));
    let request = KillRequest { force: true, ..kill_of(&fake, "1.0.0") };
    assert_eq!(kill(&fake.world, &request).await.unwrap().aborted_requests, Some(1));
    assert_eq!(rules(&fake), all_to(20001, 20001));
}

/// R10: the id, the revision and the port's meaning stay; the old instance goes when it has drained.
/// Rows: R10.
#[tokio::test(start_paused = true)]
async fn update_keeps_the_id() {
    let fake = fake();
    deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    let before = id_of(&fake, "1.0.0");
    let updated = update(&fake.world, &update_of(&fake, "1.0.0")).await.unwrap();
    assert_eq!((updated.id, updated.revision, updated.instance.build), (before, 1, 2));
    assert_eq!(rules(&fake), all_to(20001, 20001));
    assert_eq!(is_sound(&fake), Ok(()));
    // The same again changes nothing.
    let again = UpdateRequest { digest: Some(Digest("new code".into())), ..update_of(&fake, "1.0.0") };
    assert_eq!(update(&fake.world, &again).await.unwrap().instance.build, 2);
}

/// R11: what runs already may be replaced at its own address, and has nothing to drain then.
#[tokio::test(start_paused = true)]
async fn update_at_same_address_skips_drain() {
    let fake = fake();
    let runs = |uri: &str| RunSpec::new(Workload::External { uri: uri.to_owned() });
    let how = runs("http://127.0.0.1:9000");
    let external = DeployRequest { how, digest: None, ..request(&fake, "1.0.0") };
    deploy(&fake.world, &external).await.unwrap();
    *fake.host.sockets.lock().unwrap() = vec![busy()];
    let hour = Duration::from_hours(1);
    for (uri, waits) in [("http://localhost:9000", false), ("http://127.0.0.1:9001", true)] {
        let began = Instant::now();
        let how = Some(runs(uri));
        let request = UpdateRequest { how, digest: None, drain_timeout: hour, ..update_of(&fake, "1.0.0") };
        update(&fake.world, &request).await.unwrap();
        assert_eq!(began.elapsed() >= hour, waits, "{uri}");
    }
}

/// R12: the draining one is fixed first, then the active one; each keeps its id, its revision and its place.
/// Rows: R12.
#[tokio::test(start_paused = true)]
async fn update_works_on_draining_then_active_version() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    // The first drains behind the backup vhost while the second is on trial.
    assign(&fake.world, &AssignRequest { trial: MS * 5000, ..to("2.0.0") }).await.unwrap();
    *fake.host.sockets.lock().unwrap() = vec![busy()];
    let status = async |version: &str| {
        let views = read_view(&fake.world).await.unwrap().deployments;
        let found = views.into_iter().find(|view| view.deployment.version.to_string() == version).unwrap();
        (found.status, found.backup, found.deployment.id, found.deployment.revision)
    };
    let (draining, active) = (status("1.0.0").await, status("2.0.0").await);
    assert_eq!((draining.0, active.0), (DeploymentStatus::Draining, DeploymentStatus::Active));
    let updated = update(&fake.world, &update_of(&fake, "1.0.0")).await.unwrap();
    assert_eq!(updated.instance.build, 2);
    assert_eq!(rules(&fake), all_to(20001, updated.instance.port.get()), "main is not touched");
    let updated = update(&fake.world, &update_of(&fake, "2.0.0")).await.unwrap();
    assert_eq!(rules(&fake).len(), 3);
    assert!(rules(&fake).contains(&("route", updated.instance.port.get())));
    assert_eq!((status("1.0.0").await, status("2.0.0").await), (draining, active));
    assert_eq!(is_sound(&fake), Ok(()));
}

/// R13: a version keeps its state by the names in its environment, and both builds of an update get the same.
/// Rows: R13.
#[tokio::test(start_paused = true)]
async fn update_gives_both_builds_the_same_environment() {
    let fake = fake();
    let mut first = request(&fake, "1.0.0");
    first.how.env = [("STATE".to_owned(), "/var/lib/shop".to_owned())].into();
    deploy(&fake.world, &first).await.unwrap();
    let told = || {
        let running = fake.versions.running.lock().unwrap();
        assert_eq!(running.len(), 1);
        let mut env = running.values().next().unwrap().env.clone();
        let (port, release) = (env.remove("PORT").unwrap(), env.remove("SWITCHMAN_RELEASE").unwrap());
        (env, port, release)
    };
    let before = told();
    assert_eq!(before.0["STATE"], "/var/lib/shop");
    update(&fake.world, &update_of(&fake, "1.0.0")).await.unwrap();
    let after = told();
    assert_eq!(before.0, after.0, "its id among it");
    assert_ne!((before.1, before.2), (after.1, after.2), "it is another instance");
    // The operator knows the placeholders of the host's answer alone.
    let how = Some(first.how.redact());
    update(&fake.world, &UpdateRequest { how, ..update_of(&fake, "1.0.0") }).await.unwrap();
    assert_eq!(told().0, before.0);
}

/// R8, R27: private means that no port leads there, and public brings back what was.
/// Rows: R8, R27.
#[tokio::test(start_paused = true)]
async fn private_service_has_no_rule() {
    let fake = fake();
    deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    let ask = |public| AccessRequest { public, actor: actor(), dry_run: false };
    set_access(&fake.world, &shop(), &ask(false)).await.unwrap();
    assert_eq!(rules(&fake), BTreeSet::new());
    set_access(&fake.world, &shop(), &ask(true)).await.unwrap();
    assert_eq!(rules(&fake), all_to(20000, 20000));
}

#[tokio::test(start_paused = true)]
async fn assign_keeps_maintenance() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    rules::change_with(&fake.world, "disable-forward", |records| {
        let intent = crate::plan::versions::end_trial(&records[0], &id_of(&fake, "1.0.0"), &actor());
        assert_eq!(intent, None);
        let intent = records[0].build_intent(&actor(), "disable-forward", "");
        Ok::<_, ChangeError>(Intent { switch: Switch::Off, ..intent })
    })
    .await
    .unwrap();
    assign(&fake.world, &to("2.0.0")).await.unwrap();
    assert_eq!(rules(&fake), BTreeSet::from([("route", 20001), ("backup", 20001)]));
}

#[tokio::test(start_paused = true)]
async fn watch_rolls_back_failing_main() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    // The clock of the fake does not move: the window ends only by what happens in it.
    let trial = AssignRequest { trial: MS * 5000, ..to("2.0.0") };
    assign(&fake.world, &trial).await.unwrap();
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20001));
    let ended = watched(&fake, "2.0.0").await;
    assert!(
        matches!(ended, TrialOutcome::RolledBack { ref previous, .. } if previous.version.to_string() == "1.0.0"),
        "{ended:?}"
    );
    assert_eq!(rules(&fake), all_to(20000, 20000));
    // Nothing is on trial any more, and a late caller gets the result all the same.
    match watched(&fake, "2.0.0").await {
        TrialOutcome::RolledBack { previous, reason: why } => {
            assert_eq!(previous.version.to_string(), "1.0.0");
            assert!(why.starts_with("by itself: "), "{why}");
        }
        ended => panic!("{ended:?}"),
    }
    assert_eq!(watched(&fake, "1.0.0").await, TrialOutcome::Passed);
}

/// The agent's rollback, with no operator there.
#[tokio::test(start_paused = true)]
async fn reconciler_watches_new_mains_concurrently() {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    let cart = beside(&fake).await;
    let main_of = |service: &ServiceName| {
        let recorded = fake.store.records.lock().unwrap();
        let record = recorded.iter().find(|one| one.forward.service == *service).unwrap();
        record.forward.target.get()
    };
    let old = main_of(&cart);
    let actor = actor();
    let looking = async {
        assign(&fake.world, &AssignRequest { trial: MS * 600_000, ..to("2.0.0") }).await.unwrap();
        tokio::time::sleep(MS * 60_000).await;
        let which = DeploymentRef::Version { service: cart.clone(), version: "9.0.0".parse().unwrap() };
        assign(&fake.world, &AssignRequest { which, trial: MS * 20_000, ..to("2.0.0") }).await.unwrap();
        assert_ne!(main_of(&cart), old);
        *fake.versions.unhealthy_port.lock().unwrap() = Some(port(main_of(&cart)));
        wait_until(MS * 100, || main_of(&cart) == old).await;
        // The other one is watched still, and its agent receives a stop all the same.
        assert!(!fake.world.store.load_trials().unwrap().is_empty());
        fake.stopper.stop();
    };
    let both = Box::pin(async { tokio::join!(run(&fake.world, &actor), looking) });
    tokio::time::timeout(MS * 120_000, both)
        .await
        .expect("the window of one service is over before the other one's");
    let told = fake.host.events.lock().unwrap();
    assert!(told.iter().all(|event| !format!("{event:?}").contains("cannot be watched")), "{told:?}");
}

async fn watched(fake: &FakeWorld, version: &str) -> TrialOutcome {
    let request = WatchRequest { id: id_of(fake, version), actor: actor() };
    watch(&fake.world, &shop(), &request).await.unwrap()
}

/// A person goes back in the window, or goes on to another version.
#[tokio::test(start_paused = true)]
async fn watch_reports_how_main_was_replaced() {
    let fake = with_versions(&["1.0.0", "2.0.0", "3.0.0"]).await;
    assign(&fake.world, &to("2.0.0")).await.unwrap();
    assert_eq!(watched(&fake, "2.0.0").await, TrialOutcome::Passed, "it has no window");
    rollback(&fake.world, &shop(), &back()).await.unwrap();
    let ended = watched(&fake, "2.0.0").await;
    let TrialOutcome::RolledBack { reason: why, .. } = ended else { panic!("{ended:?}") };
    assert_eq!(why, "ops (pid 7) took it back");
    // The one on trial is not the one of the request.
    assign(&fake.world, &AssignRequest { trial: MS * 5000, ..to("3.0.0") }).await.unwrap();
    let ended = watched(&fake, "2.0.0").await;
    let TrialOutcome::Overtaken { main, actor: by } = ended else { panic!("{ended:?}") };
    assert_eq!((main.unwrap().version.to_string().as_str(), by), ("3.0.0", Some(actor())));
}

type Pending<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
/// A story that a process may be killed in; whether it came to its end.
type Story = fn(&FakeWorld) -> Pending<'_, bool>;

/// Plays a story with a process that is killed before its first deed, then before its second, and so on, and checks each time
/// what is left.
async fn kill_at_every_deed(
    name: &str,
    prepare: impl AsyncFn() -> FakeWorld,
    story: Story,
    check: impl AsyncFn(&FakeWorld, &str),
) {
    let mut deeds = 0;
    loop {
        let fake = prepare().await;
        fake.failure_point.set_limit(Some(deeds));
        // One that ended well may have been killed all the same, before a deed that no caller waits for.
        let done = story(&fake).await && fake.failure_point.try_proceed();
        fake.failure_point.set_limit(None);
        check(&fake, &format!("{name}, killed after {deeds}")).await;
        if done {
            break;
        }
        deeds += 1;
        assert!(deeds < 100, "{name} never ends");
    }
    assert!(deeds > 3, "{name}: {deeds} deeds");
}

/// The ports of the instances that run.
fn running_ports(fake: &FakeWorld) -> BTreeSet<u16> {
    let running = fake.versions.running.lock().unwrap();
    running.values().map(|spec| spec.env["PORT"].parse().unwrap()).collect()
}

/// A killed process at every deed of every story: the state found afterwards is recovered into the old state or the new
/// one, and no rule ever routes to what does not run.
#[tokio::test(start_paused = true)]
async fn recovery_repairs_kill_at_any_step() {
    let stories: [(&str, &[&str], Story); 5] = [
        ("deploy the first", &[], |fake| {
            Box::pin(async { deploy(&fake.world, &request(fake, "3.0.0")).await.is_ok() })
        }),
        ("assign", &["1.0.0", "2.0.0"], |fake| {
            Box::pin(async { assign(&fake.world, &to("2.0.0")).await.is_ok() })
        }),
        ("update main", &["1.0.0", "2.0.0"], |fake| {
            Box::pin(async { update(&fake.world, &update_of(fake, "1.0.0")).await.is_ok() })
        }),
        ("update a shadow", &["1.0.0", "2.0.0"], |fake| {
            Box::pin(async { update(&fake.world, &update_of(fake, "2.0.0")).await.is_ok() })
        }),
        ("kill the backup", &["1.0.0", "2.0.0"], |fake| {
            Box::pin(async {
                let assigned = assign(&fake.world, &to("2.0.0")).await.is_ok();
                assigned && kill(&fake.world, &kill_of(fake, "1.0.0")).await.is_ok()
            })
        }),
    ];
    for (name, versions, story) in stories {
        kill_at_every_deed(
            name,
            async || with_versions(versions).await,
            story,
            async |fake, at| {
                // At every moment, recovered or not.
                let known = running_ports(fake);
                // A dead process's rules match its record as soon as they are looked at.
                rules::reconcile(&fake.world, "repair").await.unwrap();
                let led = rules(fake);
                assert!(led.iter().all(|(_, target)| known.contains(target)), "{at}: {led:?}");
                restore_instances(&fake.world).await.unwrap();
                assert_eq!(is_sound(fake), Ok(()), "{at}");
            },
        )
        .await;
    }
}
