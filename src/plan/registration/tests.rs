use super::*;
use crate::model::example;
use crate::model::forward::{Route, Routes};

fn identity() -> HostIdentity {
    HostIdentity { name: "web1".parse().unwrap(), address: [10, 0, 0, 1].into() }
}

fn registered() -> RegisteredService {
    RegisteredService {
        service: "shop".parse().unwrap(),
        catalog_name: "shop".to_owned(),
        ports: example::make_ports(),
        health: example::fleet().health,
    }
}

/// A host with slot 3.
struct Scene {
    record: Option<ServiceRecord>,
    deployments: Vec<Deployment>,
    state: RegistrationState,
    slot: Option<u16>,
    observed: Vec<Registration>,
    health: HealthResults,
}

impl Scene {
    /// A host whose vhosts both answer.
    fn new(switch: Switch) -> Self {
        let healthy = |port: u16| (SocketAddr::from(([10, 0, 0, 1], port)), Ok(()));
        Self {
            record: Some(example::make_record("shop", switch)),
            deployments: vec![],
            state: RegistrationState::default(),
            slot: Some(3),
            observed: vec![],
            health: [healthy(8080), healthy(80)].into(),
        }
    }

    /// One with 1.0.0 as main at 21000 and 2.0.0 beside it at 21001.
    fn managed() -> Self {
        let mut scene = Self::new(Switch::On);
        scene.deployments =
            vec![example::deployment("shop", "1.0.0", 21000), example::deployment("shop", "2.0.0", 21001)];
        for one in &mut scene.deployments {
            one.address = [10, 0, 0, 1].into();
            scene.health.insert(one.endpoint(&one.instance), Ok(()));
        }
        let deployment = scene.deployments[0].id.clone();
        let route = |port| Route {
            port,
            deployment: deployment.clone(),
            target: example::port(21000),
            more_targets: vec![],
        };
        let ports = example::make_ports();
        let routes = Routes::new(route(ports.main), route(ports.backup));
        scene.record.as_mut().unwrap().routes = Some(routes);
        scene
    }

    fn break_port(&mut self, port: u16) {
        self.health.insert(SocketAddr::from(([10, 0, 0, 1], port)), Err("refused".to_owned()));
    }

    fn list(&self) -> Vec<Registration> {
        let (host, registered) = (identity(), registered());
        let facts = ServiceFacts {
            host: &host,
            registered: &registered,
            record: self.record.as_ref(),
            deployments: &self.deployments,
            state: &self.state,
            slot: self.slot,
        };
        list_registrations(&facts, &self.observed, &self.health)
    }

    /// The registrations in short.
    fn describe(&self) -> Vec<String> {
        let describe = |one: &Registration| {
            let check = match &one.check {
                None => "always".to_owned(),
                Some(check) if check.is_passing => "passing".to_owned(),
                Some(check) => check.output.clone(),
            };
            format!("{}:{} [{}] {check}", one.name, one.port, one.tags.join(" "))
        };
        self.list().iter().map(describe).collect()
    }
}

#[test]
fn entry_of_the_slot_follows_neither_forward_nor_health_once_it_is_in_dns() {
    let mut scene = Scene::new(Switch::On);
    assert_eq!(
        scene.describe(),
        ["shop:8080 [3] always", "shop-main:8080 [main] passing", "shop-backup:80 [backup] passing"]
    );
    scene.observed = scene.list();
    scene.record.as_mut().unwrap().switch = Switch::Off;
    assert_eq!(
        scene.describe()[..2],
        ["shop:8080 [3] always", "shop-main:8080 [main] the forward is off: maintenance"]
    );
    scene.break_port(8080);
    scene.break_port(80);
    assert_eq!(scene.describe()[0], "shop:8080 [3] always", "users may be on either");
    scene.observed.clear();
    let not_ready = "shop:8080 [3] neither main nor backup has answered yet";
    assert_eq!(scene.describe()[0], not_ready, "no user can be here");
    scene.observed = scene.list();
    assert_eq!(scene.describe()[0], not_ready);
}

#[test]
fn host_without_slot_and_withdrawn_host_are_listed_and_not_in_dns() {
    let mut scene = Scene::managed();
    scene.observed = scene.list();
    scene.slot = None;
    assert_eq!(scene.describe()[0], "shop:8080 [] the host has no slot yet");
    scene.slot = Some(3);
    scene.state.is_withdrawn = true;
    assert_eq!(scene.describe()[0], "shop:8080 [] taken out of DNS by `disable-forward --deregister`");
    scene.observed = scene.list();
    let deployments = std::mem::take(&mut scene.deployments);
    assert_eq!(scene.describe(), [""; 0], "nothing is left to kill");
    scene.deployments = deployments;
    scene.state.is_withdrawn = false;
    assert_eq!(scene.describe()[0], "shop:8080 [3] always");
}

#[test]
fn vhosts_and_instances_have_versions_roles_and_checks_of_their_own() {
    let mut scene = Scene::managed();
    scene.break_port(21001);
    assert_eq!(
        scene.describe(),
        [
            "shop:8080 [3] always",
            "shop-main:8080 [main 1-0-0] passing",
            "shop-backup:80 [backup 1-0-0] passing",
            "shop-instance:21000 [main 1-0-0] passing",
            "shop-instance:21001 [shadow 2-0-0] refused",
        ]
    );
    let entries = scene.list();
    let main = &entries[0];
    assert_eq!(
        (main.meta["switchman-version"].as_str(), main.meta["switchman-slot"].as_str()),
        ("1.0.0", "3")
    );
    assert_eq!((main.id.as_str(), main.meta[HOST_META].as_str()), ("switchman:web1:shop", "web1"));
    let canary = scene.deployments[1].id.clone();
    let record = scene.record.as_mut().unwrap();
    record.layer7.traffic_split.canary = Some(example::make_canary(&canary, "5"));
    record.access = Access::Private;
    assert_eq!(scene.describe()[4], "shop-instance:21001 [canary 2-0-0] refused");
    assert_eq!(scene.describe()[1], "shop-main:8080 [main 1-0-0] the service is private");
    scene.deployments[1].stage = Stage::Killing;
    assert_eq!(scene.describe().len(), 4);
}

#[test]
fn every_endpoint_is_probed_once() {
    let scene = Scene::managed();
    let (host, registered) = (identity(), registered());
    let facts = ServiceFacts {
        host: &host,
        registered: &registered,
        record: scene.record.as_ref(),
        deployments: &scene.deployments,
        state: &scene.state,
        slot: None,
    };
    let ports: Vec<u16> = list_probes(&facts).iter().map(|(address, _)| address.port()).collect();
    assert_eq!(ports, [21000, 21001]);
}

#[test]
fn only_the_difference_is_sent() {
    let mut scene = Scene::managed();
    let all = scene.list();
    let plan = |observed: &[Registration], scene: &Scene, renews| {
        let steps = plan_registration(observed, scene.list(), renews);
        let describe = |step: &RegistrationStep| match step {
            RegistrationStep::Register(one) => format!("register {}", one.name),
            RegistrationStep::RenewCheck(one) => format!("renew {}", one.name),
            RegistrationStep::Deregister { id } => format!("deregister {id}"),
        };
        steps.iter().map(describe).collect::<Vec<_>>()
    };
    scene.observed.clone_from(&all);
    assert_eq!(plan(&all, &scene, false), [""; 0]);
    let renewed = ["renew shop-main", "renew shop-backup", "renew shop-instance", "renew shop-instance"];
    assert_eq!(plan(&all, &scene, true), renewed);
    assert_eq!(plan(&[], &scene, false).len(), 5, "the catalogue was lost");
    scene.record.as_mut().unwrap().switch = Switch::Off;
    assert_eq!(plan(&all, &scene, false), ["renew shop-main"]);
    let removed = scene.deployments.remove(1);
    assert_eq!(
        plan(&all, &scene, false),
        ["renew shop-main".to_owned(), format!("deregister switchman:web1:shop-instance:{}-1", removed.id)]
    );
    scene.state.is_withdrawn = true;
    assert_eq!(plan(&all, &scene, false)[0], "register shop");
}

#[test]
fn each_instance_of_a_version_has_an_entry_and_a_check() {
    let mut scene = Scene::managed();
    let one = &mut scene.deployments[0];
    let second = Instance { number: 2, port: example::port(21007), ..one.instance.clone() };
    one.more_instances = vec![second];
    scene.break_port(21007);
    let listed = scene.list();
    let instances: Vec<_> = listed.iter().filter(|one| one.name.ends_with("-instance")).collect();
    let states: Vec<_> =
        instances.iter().map(|one| (one.port.get(), one.check.as_ref().unwrap().is_passing)).collect();
    assert_eq!(states, [(21000, true), (21007, false), (21001, true)]);
    let mut ids: Vec<_> = listed.iter().map(|one| &one.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), listed.len(), "{ids:?}");
}
