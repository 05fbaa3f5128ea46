use crate::world::link::HostLink;
use std::sync::Arc;

use super::*;
use crate::model::balancer::{ServerCounters, ServerState};
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::forward::ServiceRecord;
use crate::model::history::Phase;
use crate::model::rules::Family;
use crate::model::socket::{Socket, TcpInfo};
use crate::ops::fleet::status::read_status;
use crate::ops::host::api::LocalHost;
use crate::ops::host::restore::restore;
use crate::plan::firewall::read_forwards;
use crate::world::balancer::BalancerError;
use crate::world::fake::balancer::{FakeBalancer, spec};
use crate::world::fake::firewall::FakeFirewall;
use crate::world::fake::{self, FakeWorld, MS};
use crate::world::probe::ProbeError;
use crate::world::store::StoreError;

const BOTH: [Family; 2] = [Family::V4, Family::V6];

struct Scene {
    fake: FakeWorld,
    fleet: Fleet,
    host: Host,
}

/// A host and two balancers that see a switch after 700 ms and 1200 ms; the forward is on and recorded.
async fn scene() -> Scene {
    let scene = fresh_scene();
    scene.enable(&options()).await.unwrap();
    scene
}

fn fresh_scene() -> Scene {
    let firewall = Arc::new(FakeFirewall::new(&BOTH));
    let balancers =
        vec![FakeBalancer::new("lb1", &firewall, MS * 700), FakeBalancer::new("lb2", &firewall, MS * 1200)];
    let fleet = Fleet { balancers: vec![spec("lb1"), spec("lb2")], ..example::fleet() };
    let host = Host { address: None, ..example::host("web1", "10.0.0.1") };
    Scene { fake: fake::world(balancers, firewall), fleet, host }
}

fn options() -> SwitchOptions {
    let actor = Actor::new("ops", 1);
    SwitchOptions { actor, wait: true, drain: false, force: false, timeout: None }
}

impl Scene {
    /// An operator on the host itself.
    fn world(&self) -> FleetWorld {
        let world = &self.fake.world;
        let link: Arc<dyn HostLink> = Arc::new(LocalHost::new(world.clone()));
        let site = crate::ops::testing::site::site(0, 0).world;
        FleetWorld {
            archives: std::sync::Arc::new(crate::world::fake::deployments::FakeArchives),
            links: [(self.host.name.clone(), link)].into(),
            balancers: world.balancers.clone(),
            reporter: world.reporter.clone(),
            stop: world.stop.clone(),
            ..site
        }
    }

    async fn enable(&self, options: &SwitchOptions) -> Result<SwitchReport, SwitchError> {
        enable(&self.world(), &self.fleet, &self.host, options).await
    }

    async fn disable(&self, options: &SwitchOptions) -> Result<SwitchReport, SwitchError> {
        disable(&self.world(), &self.fleet, &self.host, options).await
    }

    /// The states of kernel and record, family by family: they must agree.
    fn state(&self) -> ([bool; 2], Option<Switch>) {
        let kernel = BOTH.map(|family| !read_forwards(&self.fake.firewall.table(family)).is_empty());
        (kernel, self.fake.store.records.lock().unwrap().first().map(|record| record.switch))
    }

    fn phases(&self) -> Vec<Phase> {
        self.fake.store.history.lock().unwrap().iter().map(|entry| entry.phase).collect()
    }
}

const ON: ([bool; 2], Option<Switch>) = ([true; 2], Some(Switch::On));
const OFF: ([bool; 2], Option<Switch>) = ([false; 2], Some(Switch::Off));

/// The host refused the switch with this code.
fn assert_refused(ended: &Result<SwitchReport, SwitchError>, expected: ErrorCode) {
    let Err(SwitchError::NotChanged { source: LinkError::Refused { code, .. }, .. }) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(*code, expected, "{ended:?}");
}

/// Rows: H1.
#[tokio::test(start_paused = true)]
async fn disable_and_enable_wait_for_every_balancer() {
    let scene = scene().await;
    let off = scene.disable(&options()).await.unwrap();
    assert_eq!(scene.state(), OFF);
    assert!(off.changed);
    assert!(
        off.observed[0].elapsed >= MS * 700 && off.observed[1].elapsed >= MS * 1200,
        "{:?}",
        off.observed
    );
    assert_eq!(off.observed[1].outcome, balancer_wait::WaitOutcome::Reported { status: "DOWN".into() });
    let on = scene.enable(&options()).await.unwrap();
    assert_eq!((on.changed, scene.state()), (true, ON));
    assert_eq!(scene.phases().last(), Some(&Phase::Done));
}

/// Rows: Z16.
#[tokio::test(start_paused = true)]
async fn repeated_switch_changes_nothing() {
    let scene = scene().await;
    scene.disable(&options()).await.unwrap();
    let (commits, rows) = (scene.fake.firewall.committed.lock().unwrap().len(), scene.phases().len());
    // Not even a floor that is broken by now is a reason to refuse what is so already.
    scene.fake.balancers[0].state.lock().unwrap().other_main = Some(ServerState::Down);
    assert!(!scene.disable(&options()).await.unwrap().changed);
    assert_eq!((scene.fake.firewall.committed.lock().unwrap().len(), scene.phases().len()), (commits, rows));
}

#[tokio::test(start_paused = true)]
async fn switch_commits_one_transaction_per_family() {
    let scene = scene().await;
    scene.fake.firewall.committed.lock().unwrap().clear();
    scene.disable(&options()).await.unwrap();
    let committed = scene.fake.firewall.committed.lock().unwrap();
    assert_eq!(committed.iter().map(|step| step.family).collect::<Vec<_>>(), BOTH);
}

#[tokio::test(start_paused = true)]
async fn refusal_changes_nothing_and_force_reports_overrides() {
    let scene = scene().await;
    scene.fake.balancers[1].state.lock().unwrap().backup = Some(ServerState::Down);
    let error = scene.disable(&options()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot turn the forward of `web1` off: the backup vhost is not UP: `lb2` reports `backup-web1` as DOWN"
    );
    assert_eq!(scene.state(), ON);
    let forced = scene.disable(&SwitchOptions { force: true, ..options() }).await.unwrap();
    assert_eq!(forced.overridden.len(), 1);
    let history = scene.fake.store.history.lock().unwrap();
    assert!(history[history.len() - 2].detail.starts_with("overrode: the backup vhost is not UP"));
}

#[tokio::test(start_paused = true)]
async fn disable_refuses_when_balancer_is_unreachable() {
    let scene = scene().await;
    let silent = BalancerError::TimedOut { address: "tcp://lb2:9".into(), waited: MS * 2000 };
    scene.fake.balancers[1].state.lock().unwrap().error = Some(silent);
    let error = scene.disable(&options()).await.unwrap_err().to_string();
    assert!(error.ends_with("`lb2` cannot be read: no answer from `tcp://lb2:9` within 2s"), "{error}");
    assert_eq!(scene.state(), ON);
    let forced = scene.disable(&SwitchOptions { force: true, ..options() }).await.unwrap_err();
    assert!(
        matches!(forced, SwitchError::NotObserved { source: BalancerWaitError::TimedOut { .. }, .. }),
        "{forced}"
    );
    assert_eq!(scene.state(), OFF, "the switch is made; only its effect is not known");
}

#[tokio::test(start_paused = true)]
async fn enable_refuses_unhealthy_main_vhost() {
    let scene = fresh_scene();
    let why = ProbeError::TimedOut { address: "127.0.0.1:8080".parse().unwrap(), waited: MS * 500 };
    *scene.fake.host.probe_error.lock().unwrap() = Some(why);
    let error = scene.enable(&options()).await.unwrap_err().to_string();
    assert!(
        error.ends_with("the main vhost is not healthy: no answer from 127.0.0.1:8080 within 500ms"),
        "{error}"
    );
    assert_eq!(scene.state(), ([false; 2], None));
}

#[tokio::test(start_paused = true)]
async fn switch_is_undone_when_one_family_fails() {
    for (start, command) in [(Switch::On, Switch::Off), (Switch::Off, Switch::On)] {
        let scene = scene().await;
        if start == Switch::Off {
            scene.disable(&options()).await.unwrap();
        }
        let before = scene.state();
        scene.fake.firewall.failures_left.lock().unwrap().insert(Family::V6, 1);
        let ended = if command == Switch::Off {
            scene.disable(&options()).await
        } else {
            scene.enable(&options()).await
        };
        assert_refused(&ended, ErrorCode::RulesFailed);
        assert_eq!(scene.state(), before);
        assert_eq!(scene.phases().last(), Some(&Phase::Failed));
    }
}

#[tokio::test(start_paused = true)]
async fn failed_first_switch_leaves_no_forward() {
    let scene = fresh_scene();
    scene.fake.firewall.failures_left.lock().unwrap().insert(Family::V6, 1);
    scene.enable(&options()).await.unwrap_err();
    assert_eq!(scene.state(), ([false; 2], None));
}

#[tokio::test(start_paused = true)]
async fn failed_undo_reports_possible_disagreement() {
    let scene = scene().await;
    scene.fake.firewall.failures_left.lock().unwrap().extend([(Family::V4, 0), (Family::V6, 9)]);
    scene.fake.firewall.tamper(Family::V6, |table| table.rules.clear());
    assert_refused(&scene.disable(&options()).await, ErrorCode::RevertFailed);
}

#[tokio::test(start_paused = true)]
async fn full_disk_stops_switch_before_kernel_change() {
    let scene = scene().await;
    *scene.fake.store.next_error.lock().unwrap() =
        Some(StoreError::Full { path: "/var/lib/switchman/state.db".into() });
    let error = scene.disable(&options()).await.unwrap_err().to_string();
    assert!(error.ends_with("the disk that holds `/var/lib/switchman/state.db` is full"), "{error}");
    assert_eq!(scene.state(), ON);
}

/// Rows: H2.
#[tokio::test(start_paused = true)]
async fn drain_waits_for_last_request() {
    let scene = scene().await;
    let balancer = scene.fake.balancers[0].clone();
    balancer.state.lock().unwrap().work = ServerCounters { sessions: 1, ..ServerCounters::default() };
    let ends = tokio::spawn(async move {
        tokio::time::sleep(MS * 3000).await;
        balancer.state.lock().unwrap().work = ServerCounters::default();
    });
    let drained = scene.disable(&SwitchOptions { drain: true, ..options() }).await.unwrap();
    ends.await.unwrap();
    assert!(drained.drained_after.is_some_and(|after| after >= MS * 1800), "{drained:?}");
}

#[tokio::test(start_paused = true)]
async fn drain_timeout_restores_host() {
    let scene = scene().await;
    scene.fake.balancers[0].state.lock().unwrap().work =
        ServerCounters { sessions: 3, ..ServerCounters::default() };
    let error = scene.disable(&SwitchOptions { drain: true, ..options() }).await.unwrap_err();
    let text = "cannot drain `web1`: 3 in flight after 5s: HAProxy still counts sessions (scur); \
                still sending: lb1 servers/main-web1 (3); its forward is back on";
    assert_eq!(error.to_string(), text);
    assert_eq!(scene.state(), ON);

    let forced = scene.disable(&SwitchOptions { drain: true, force: true, ..options() }).await.unwrap();
    assert_eq!(forced.not_drained, Some(3));
    assert_eq!(scene.state(), OFF);
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_sockets_of_unreadable_balancer() {
    let drained = async |readable: usize| {
        let mut scene = scene().await;
        scene.fake.world.balancers.truncate(readable);
        // Request and response are within one tick of the kernel's clock.
        let info = TcpInfo { bytes_received: 9, bytes_sent: 9, ..TcpInfo::default() };
        let peer = "192.0.2.1:1".parse().unwrap();
        let tied = Socket { cookie: 1, peer, receive_queue: 0, send_queue: 0, info };
        scene.fake.host.sockets.lock().unwrap().push(tied);
        scene.disable(&SwitchOptions { drain: true, ..options() }).await
    };
    assert!(drained(2).await.is_ok(), "every balancer reports that nothing is in flight");
    assert!(matches!(drained(1).await, Err(SwitchError::NotDrained { .. })), "it may come through the other");
}

/// Requests a stop while the command waits.
async fn stop_later(scene: &Scene) {
    tokio::time::sleep(MS * 300).await;
    scene.fake.stopper.stop();
}

#[tokio::test(start_paused = true)]
async fn stop_request_ends_wait_and_keeps_switch() {
    let scene = scene().await;
    let options = options();
    let (ended, ()) = tokio::join!(scene.disable(&options), stop_later(&scene));
    let error = ended.unwrap_err();
    assert!(
        matches!(error, SwitchError::NotObserved { source: BalancerWaitError::Interrupted { .. }, .. }),
        "{error}"
    );
    assert_eq!(scene.state(), OFF, "kernel and record agree");
}

#[tokio::test(start_paused = true)]
async fn wait_ends_when_another_command_switches() {
    let scene = scene().await;
    let options_of_the_first = options();
    let (off, on) = tokio::join!(scene.disable(&options_of_the_first), async {
        tokio::time::sleep(MS * 300).await;
        scene.enable(&options()).await
    });
    let overtaken =
        matches!(&off, Err(SwitchError::NotObserved { source: BalancerWaitError::Overtaken, .. }));
    assert!(overtaken, "{off:?}");
    on.unwrap();
    assert_eq!(scene.state(), ON);
}

#[tokio::test(start_paused = true)]
async fn wait_uses_computed_timeout_for_unreadable_balancer() {
    let mut scene = scene().await;
    scene.fake.world.balancers.remove(1);
    let began = tokio::time::Instant::now();
    let off = scene.disable(&options()).await.unwrap();
    assert_eq!(off.observed[1].outcome, balancer_wait::WaitOutcome::TimeElapsed);
    assert_eq!(began.elapsed().as_secs(), 8, "(3-1) x 2s + 2s + 2s");
}

/// Rows: D27, D34.
#[tokio::test(start_paused = true)]
async fn restore_repairs_drift_and_keeps_maintenance() {
    let scene = scene().await;
    let actor = options().actor;
    let flush = |scene: &Scene| {
        for family in BOTH {
            scene.fake.firewall.tamper(family, |table| table.rules.clear());
        }
    };
    flush(&scene);
    let before = read_status(&scene.world(), &scene.fleet, &scene.host).await;
    assert_eq!((before.switch(), before.view.as_ref().unwrap().drift.len()), (Some(Switch::Off), 2));
    assert_eq!(restore(&scene.fake.world, &actor).await.unwrap().transactions.len(), 2);
    assert_eq!(scene.state(), ON);
    scene.disable(&options()).await.unwrap();
    flush(&scene);
    restore(&scene.fake.world, &actor).await.unwrap();
    assert_eq!(scene.state(), OFF);
    assert_eq!(restore(&scene.fake.world, &actor).await.unwrap().transactions, []);
    let generations: Vec<ServiceRecord> = scene.fake.store.records.lock().unwrap().clone();
    assert_eq!(generations[0].generation, 2, "a repair overtakes no switch");
}

#[tokio::test(start_paused = true)]
async fn disable_checks_again_after_external_enable() {
    let scene = scene().await;
    scene.disable(&options()).await.unwrap();
    let stranger = "-A SWITCHMAN -p tcp -m tcp --dport 8888 -j REDIRECT --to-ports 8080";
    scene.fake.firewall.tamper(Family::V4, |table| {
        table.rules.push(crate::model::rules::Rule::parse(stranger).unwrap());
    });
    scene.fake.balancers[0].state.lock().unwrap().other_main = Some(ServerState::Down);
    let error = scene.disable(&options()).await.unwrap_err();
    assert!(matches!(error, SwitchError::Refused { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stop_request_ends_wait_for_rules_lock() {
    let scene = scene().await;
    let held = scene.fake.world.store.lock("another operator", MS).await.unwrap();
    let options = options();
    let (ended, ()) = tokio::join!(scene.disable(&options), stop_later(&scene));
    assert_refused(&ended, ErrorCode::Interrupted);
    drop(held);
    assert_eq!(scene.state(), ON);
}

#[tokio::test(start_paused = true)]
async fn undo_restores_kernel_when_disk_fills_up() {
    let scene = scene().await;
    let full = StoreError::Full { path: "/var/lib/switchman/state.db".into() };
    scene.fake.firewall.failures_left.lock().unwrap().insert(Family::V6, 1);
    *scene.fake.store.later_error.lock().unwrap() = Some(full);
    assert_refused(&scene.disable(&options()).await, ErrorCode::RevertFailed);
    assert_eq!(
        scene.state().0,
        [true, true],
        "the rules are as before; only the record differs, as the error states"
    );
}

#[tokio::test(start_paused = true)]
async fn full_disk_after_switch_is_a_warning() {
    let scene = scene().await;
    *scene.fake.store.later_error.lock().unwrap() = Some(StoreError::Full { path: "/state.db".into() });
    assert!(scene.disable(&options()).await.unwrap().changed);
    let events = scene.fake.host.events.lock().unwrap();
    assert!(events.iter().any(|event| matches!(event, Event::Warning { text } if text.contains("is full"))));
    assert_eq!(scene.state(), OFF);
}

/// The operator's file has another check port than the host.
#[tokio::test(start_paused = true)]
async fn switch_with_other_ports_is_refused() {
    let mut scene = scene().await;
    scene.fleet.ports.check = example::port(8889);
    let text = "`web1` has check port 8888, and this configuration has `ports.check: 8889`";
    for ended in [scene.disable(&options()).await, scene.enable(&options()).await] {
        let error = ended.unwrap_err();
        let SwitchError::Refused { refusals, .. } = &error else { panic!("{error}") };
        assert_eq!(refusals.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);
    }
    assert_eq!(scene.state(), ON);
    let status = read_status(&scene.world(), &scene.fleet, &scene.host).await;
    assert_eq!(status.port_conflicts.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);
    let forced = scene.disable(&SwitchOptions { force: true, wait: false, ..options() }).await.unwrap();
    assert_eq!(forced.overridden.len(), 1);
}

/// The forward is as requested, so the error must not read as if it were not.
#[tokio::test(start_paused = true)]
async fn contradicted_switch_states_what_kernel_and_record_have() {
    let site = crate::ops::testing::site::site(1, 1);
    let message = "kernel and record have the forward on, and packets find otherwise: a cause".to_owned();
    let contradicted = LinkError::Refused { code: ErrorCode::ForwardContradicted, message };
    site.site.with_host("web1", |host| host.switch_error = Some(contradicted));
    let error = enable(&site.world, &site.fleet, &site.fleet.hosts[0], &options()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot confirm the switch of `web1`: kernel and record have the forward on, and packets find otherwise: a cause"
    );
}

/// The kernel has no rule for a private service: HAProxy would never see it UP.
#[tokio::test(start_paused = true)]
async fn enable_refuses_a_private_service_at_once() {
    let scene = scene().await;
    scene.disable(&options()).await.unwrap();
    scene.fake.store.records.lock().unwrap()[0].access = crate::model::deployment::Access::Private;
    let started_at = tokio::time::Instant::now();
    let error = scene.enable(&options()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot turn the forward of `web1` on: `shop` is private on `web1`: no port is forwarded before `switchman access shop public \
         --host web1`"
    );
    assert!(started_at.elapsed() < MS * 100, "{:?}", started_at.elapsed());
    assert_eq!(scene.state(), OFF);
    assert!(read_status(&scene.world(), &scene.fleet, &scene.host).await.is_private());
}

/// The request came while the command read the host: no change begins after it.
#[tokio::test(start_paused = true)]
async fn stop_request_before_the_change_leaves_the_forward() {
    for switch in [Switch::On, Switch::Off] {
        let fake = crate::ops::testing::site::site(2, 0);
        fake.site.with_host("web1", |host| host.forward = switch == Switch::Off);
        fake.stopper.stop();
        let options = SwitchOptions {
            actor: crate::model::example::make_actor(),
            wait: true,
            drain: false,
            force: true,
            timeout: None,
        };
        let (world, fleet) = (&fake.world, &fake.fleet);
        let ended = match switch {
            Switch::On => enable(world, fleet, &fleet.hosts[0], &options).await,
            Switch::Off => disable(world, fleet, &fleet.hosts[0], &options).await,
        };
        let error = ended.unwrap_err();
        assert!(error.to_string().ends_with("interrupted before the change"), "{error}");
        assert_eq!(fake.site.with_host("web1", |host| host.forward), switch == Switch::Off);
    }
}
