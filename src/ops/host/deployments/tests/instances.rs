//! Versions with several instances on a host.

use super::*;
use crate::model::deployment::Instance;
use crate::model::rules::Redirect;

fn request_three(fake: &FakeWorld, version: &str) -> DeployRequest {
    DeployRequest { instances: Some(3), ..request(fake, version) }
}

/// A host whose main 1.0.0 has three instances, on 20000 to 20002.
async fn with_three() -> FakeWorld {
    let fake = fake();
    deploy(&fake.world, &request_three(&fake, "1.0.0")).await.unwrap();
    fake
}

/// Share and target of each rule of main's data port.
fn route_rules(fake: &FakeWorld) -> Vec<(u32, u16)> {
    let found = read_redirects(&fake.firewall.table(Family::V4));
    let of_main = found.into_iter().filter(|one: &Redirect| one.kind.as_str() == "route");
    of_main.map(|one| (one.one_in, one.target.get())).collect()
}

fn list_builds(fake: &FakeWorld) -> Vec<u32> {
    let all = fake.world.deployments.all().unwrap();
    all[0].active_instances().map(|instance: &Instance| instance.build).collect()
}

#[tokio::test(start_paused = true)]
async fn deploy_starts_instances_with_ports_and_numbers() {
    let fake = with_three().await;
    assert_eq!(route_rules(&fake), [(3, 20002), (2, 20001), (1, 20000)]);
    let environments: BTreeSet<(String, String)> = {
        let running = fake.versions.running.lock().unwrap();
        running
            .values()
            .map(|spec| (spec.env["SWITCHMAN_INSTANCE"].clone(), spec.env["PORT"].clone()))
            .collect()
    };
    let expected = [("1", "20000"), ("2", "20001"), ("3", "20002")];
    assert_eq!(environments, expected.map(|(number, port)| (number.to_owned(), port.to_owned())).into());
    assert_eq!(is_sound(&fake), Ok(()));
    // The same again changes nothing, with the number or without; another number is another deployment.
    for instances in [Some(3), None] {
        let again = DeployRequest { instances, ..request(&fake, "1.0.0") };
        assert!(deploy(&fake.world, &again).await.unwrap().known);
    }
    let other = DeployRequest { instances: Some(2), ..request(&fake, "1.0.0") };
    assert_eq!(deploy(&fake.world, &other).await.unwrap_err().code(), ErrorCode::Exists);
    let view = read_view(&fake.world).await.unwrap();
    assert_eq!(view.deployments[0].instances.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn deploy_refuses_impossible_instances() {
    let fake = fake();
    let refused = async |request: DeployRequest| deploy(&fake.world, &request).await.unwrap_err().code();
    for count in [0, 65] {
        let wanted = DeployRequest { instances: Some(count), ..request(&fake, "1.0.0") };
        assert_eq!(refused(wanted).await, ErrorCode::BadRequest);
    }
    let one_port = DeployRequest { port: Some(port(20005)), ..request_three(&fake, "1.0.0") };
    assert_eq!(refused(one_port).await, ErrorCode::BadRequest);
    let too_few = DeployRequest { site: example::make_network(2), ..request_three(&fake, "1.0.0") };
    assert_eq!(refused(too_few).await, ErrorCode::NoPort);
    *fake.proxy.is_unwatched.lock().unwrap() = true;
    assert_eq!(refused(request_three(&fake, "1.0.0")).await, ErrorCode::NoAgent);
    assert_eq!(is_sound(&fake), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn one_unhealthy_instance_fails_a_deploy_as_a_whole() {
    let fake = fake();
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20001));
    let error = deploy(&fake.world, &request_three(&fake, "1.0.0")).await.unwrap_err();
    assert!(error.to_string().contains("instance 2: "), "{error}");
    assert!(fake.versions.running.lock().unwrap().is_empty());
    assert!(fake.versions.releases.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn update_replaces_one_instance_after_another() {
    let fake = with_three().await;
    update(&fake.world, &update_of(&fake, "1.0.0")).await.unwrap();
    // The port of the instance that ended before is free again: there were never more than four.
    let ports: BTreeSet<u16> = route_rules(&fake).into_iter().map(|(_, target)| target).collect();
    assert_eq!(ports, BTreeSet::from([20000, 20001, 20003]));
    assert_eq!(list_builds(&fake), [2, 2, 2]);
    assert!(!fake.versions.releases.lock().unwrap().contains_key(&(shop(), "1.0.0".to_owned())));
    assert_eq!(is_sound(&fake), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn failed_update_gives_updated_instances_the_old_code_back() {
    let fake = with_three().await;
    // The second new instance gets the port that the first old one had.
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20000));
    let request = update_of(&fake, "1.0.0");
    let is_undone = || {
        let all = fake.world.deployments.all().unwrap();
        all[0]
            .other_instance
            .as_ref()
            .is_some_and(|other| other.build == 1 && all[0].stage == Stage::Updating)
    };
    let heal = async {
        wait_until(MS * 10, is_undone).await;
        *fake.versions.unhealthy_port.lock().unwrap() = None;
    };
    let (result, ()) = tokio::join!(update(&fake.world, &request), heal);
    assert_eq!(result.unwrap_err().code(), ErrorCode::Unhealthy);
    assert_eq!((list_builds(&fake), is_sound(&fake)), (vec![1, 1, 1], Ok(())));
    assert_eq!(route_rules(&fake).len(), 3);
    let releases = fake.versions.releases.lock().unwrap();
    assert!(!releases.contains_key(&(shop(), "1.0.0~2".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn next_update_completes_one_that_could_not_be_taken_back() {
    let fake = with_three().await;
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20000));
    let error = update(&fake.world, &update_of(&fake, "1.0.0")).await.unwrap_err().to_string();
    assert!(error.contains("still run the new code"), "{error}");
    assert_eq!((list_builds(&fake), is_sound(&fake)), (vec![2, 1, 1], Ok(())));
    *fake.versions.unhealthy_port.lock().unwrap() = None;
    fake.versions.place(&shop(), "1.0.0~3", Path::new("new code")).unwrap();
    update(&fake.world, &update_of(&fake, "1.0.0")).await.unwrap();
    assert_eq!((list_builds(&fake), is_sound(&fake)), (vec![2, 3, 3], Ok(())));
}

#[tokio::test(start_paused = true)]
async fn rollback_leaves_unhealthy_instances_out() {
    let fake = with_three().await;
    deploy(&fake.world, &request(&fake, "2.0.0")).await.unwrap();
    assign(&fake.world, &to("2.0.0")).await.unwrap();
    let actor = actor();
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20001));
    let is_recorded = || {
        let record = rules::read_record(&fake.world, &shop()).unwrap().unwrap();
        record.routes.unwrap().unhealthy.contains(&port(20001))
    };
    tokio::select! {
        () = run(&fake.world, &actor) => panic!("the reconciler ended"),
        () = wait_until(MS * 50, is_recorded) => {}
    }
    rollback(&fake.world, &shop(), &back()).await.unwrap();
    assert_eq!(route_rules(&fake), [(2, 20002), (1, 20000)]);
}

#[tokio::test(start_paused = true)]
async fn failing_instance_gets_no_connections_until_it_is_healthy() {
    let fake = with_three().await;
    let actor = actor();
    let story = async {
        *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20001));
        wait_until(MS * 50, || route_rules(&fake) == [(2, 20002), (1, 20000)]).await;
        *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20000));
        wait_until(MS * 50, || route_rules(&fake) == [(2, 20002), (1, 20001)]).await;
        *fake.versions.unhealthy_port.lock().unwrap() = None;
        wait_until(MS * 50, || route_rules(&fake).len() == 3).await;
        // Every instance fails: the rules stay as they are.
        let address = "127.0.0.1:20000".parse().unwrap();
        *fake.host.probe_error.lock().unwrap() =
            Some(ProbeError::NoConnection { address, reason: "refused".to_owned() });
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(!route_rules(&fake).is_empty());
        *fake.host.probe_error.lock().unwrap() = None;
        wait_until(MS * 50, || route_rules(&fake).len() == 3).await;
    };
    tokio::select! {
        () = run(&fake.world, &actor) => panic!("the reconciler ended"),
        () = story => {}
    }
    let history = fake.world.store.load_history(Some(&shop()), 100).unwrap();
    let details: Vec<&str> =
        history.iter().filter(|entry| entry.action == "health").map(|entry| entry.detail.as_str()).collect();
    assert!(
        details[0].starts_with("the instance on port 20001 gets no new connections: cannot connect to"),
        "{details:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn main_on_trial_is_taken_back_when_one_instance_fails() {
    let fake = with_versions(&["1.0.0"]).await;
    deploy(&fake.world, &request_three(&fake, "2.0.0")).await.unwrap();
    assign(&fake.world, &AssignRequest { trial: MS * 60_000, ..to("2.0.0") }).await.unwrap();
    *fake.versions.unhealthy_port.lock().unwrap() = Some(port(20003));
    let request = WatchRequest { id: id_of(&fake, "2.0.0"), actor: actor() };
    let outcome = watch(&fake.world, &shop(), &request).await.unwrap();
    assert!(matches!(outcome, TrialOutcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(rules(&fake), all_to(20000, 20000));
}

#[tokio::test(start_paused = true)]
async fn kill_removes_every_instance() {
    let fake = with_three().await;
    deploy(&fake.world, &request(&fake, "2.0.0")).await.unwrap();
    assign(&fake.world, &to("2.0.0")).await.unwrap();
    kill(&fake.world, &kill_of(&fake, "1.0.0")).await.unwrap();
    assert_eq!(running_ports(&fake), BTreeSet::from([20003]));
    assert_eq!(is_sound(&fake), Ok(()));
}

/// As `recovery_repairs_kill_at_any_step`, with three instances.
#[tokio::test(start_paused = true)]
async fn recovery_repairs_kill_at_any_step_of_several_instances() {
    let stories: [(&str, bool, Story); 3] = [
        ("deploy", false, |fake| {
            Box::pin(async { deploy(&fake.world, &request_three(fake, "1.0.0")).await.is_ok() })
        }),
        ("update", true, |fake| {
            Box::pin(async { update(&fake.world, &update_of(fake, "1.0.0")).await.is_ok() })
        }),
        ("kill", true, |fake| Box::pin(async { kill(&fake.world, &kill_of(fake, "1.0.0")).await.is_ok() })),
    ];
    for (name, is_deployed, story) in stories {
        kill_at_every_deed(
            name,
            async || if is_deployed { with_three().await } else { fake() },
            story,
            async |fake, at| {
                rules::reconcile(&fake.world, "repair").await.unwrap();
                restore_instances(&fake.world).await.unwrap();
                let targets: BTreeSet<u16> = rules(fake).into_iter().map(|(_, target)| target).collect();
                let running = running_ports(fake);
                assert!(targets.is_subset(&running), "{at}: {targets:?}, {running:?}");
                if !fake.world.deployments.all().unwrap().is_empty() {
                    assert_eq!(is_sound(fake), Ok(()), "{at}");
                    assert_eq!(targets.len(), 3, "{at}");
                }
            },
        )
        .await;
    }
}
