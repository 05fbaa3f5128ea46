use crate::model::example::{self, make_actor as actor};
use crate::model::journal::HostOutcome;
use crate::model::roll::{NewMain, Work};
use crate::ops::fleet::roll::*;
use crate::ops::testing::site::{FakeSite, site};
use crate::world::fake::MS;
use crate::world::fake::paused::ready;
use crate::world::reporter::Event;

fn to_2(hosts: &[&str]) -> RollSpec {
    let work = Work::Assign(NewMain { version: "2.0.0".parse().unwrap(), trial: MS * 1000 });
    RollSpec { work, ..example::make_roll_spec(hosts) }
}

fn versions(fake: &FakeSite) -> Vec<(String, String)> {
    fake.site.lock().hosts.values().map(|host| (host.main.clone(), host.backup.clone())).collect()
}

fn both(main: &str, backup: &str) -> (String, String) {
    (main.to_owned(), backup.to_owned())
}

#[tokio::test(start_paused = true)]
async fn assign_changes_main_only_during_maintenance() {
    let fake = site(3, 2);
    let report = run(&fake.world, &fake.fleet, &to_2(&["web1", "web2", "web3"]), &actor()).await.unwrap();
    assert_eq!(report.progress.result, Some(RollResult::Done));
    assert_eq!(versions(&fake), vec![both("2.0.0", "1.0.0"); 3]);
    let state = fake.site.lock();
    let well = state.hosts.values().all(|host| !host.was_assigned_in_service && host.commands.is_empty());
    assert!(well, "{:?}", state.hosts);
    assert_eq!(state.min_up_observed, 2);
}

#[tokio::test(start_paused = true)]
async fn assign_of_unhealthy_version_rolls_back() {
    let fake = site(3, 1);
    fake.site.with_host("web2", |host| host.new_main_unhealthy = true);
    let report = run(&fake.world, &fake.fleet, &to_2(&["web1", "web2", "web3"]), &actor()).await.unwrap();
    assert!(!report.is_complete());
    assert_eq!(report.progress.hosts[1].end, Some(HostOutcome::Restored));
    assert_eq!(versions(&fake), [both("2.0.0", "1.0.0"), both("1.0.0", "1.0.0"), both("1.0.0", "1.0.0")]);
    assert!(fake.site.lock().hosts.values().all(|host| host.forward && host.is_healthy));

    // After the repair the same roll goes on.
    fake.site.with_host("web2", |host| host.new_main_unhealthy = false);
    let report = resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert!(report.is_complete());
    assert_eq!(versions(&fake), vec![both("2.0.0", "1.0.0"); 3]);
}

#[tokio::test(start_paused = true)]
async fn failure_before_assign_does_not_roll_back() {
    let fake = site(3, 1);
    let (work, actor) = (to_2(&["web1", "web2", "web3"]), actor());
    let (report, ()) = tokio::join!(run(&fake.world, &fake.fleet, &work, &actor), async {
        fake.wait_for_host(MS * 10, "web1", |host| !host.forward).await;
        fake.site.with_host("web1", |host| {
            host.drain_duration = None;
            host.is_healthy = false;
        });
    });
    assert!(!report.unwrap().is_complete());
    assert_eq!(versions(&fake), vec![both("1.0.0", "1.0.0"); 3]);
}

fn warnings(fake: &FakeSite) -> Vec<String> {
    let events = fake.events.lock().unwrap();
    let warning = |event: &Event| match event {
        Event::Warning { text } => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(warning).collect()
}

/// An assign over three hosts that stops with the first one done.
async fn stopped_after_web1() -> FakeSite {
    let fake = site(3, 1);
    fake.site.with_host("web2", |host| host.new_main_unhealthy = true);
    let report = run(&fake.world, &fake.fleet, &to_2(&["web1", "web2", "web3"]), &actor()).await.unwrap();
    assert!(!report.is_complete());
    fake.site.with_host("web2", |host| host.new_main_unhealthy = false);
    fake
}

#[tokio::test(start_paused = true)]
async fn aborted_assign_names_the_mains_and_the_commands_to_one_main() {
    let fake = stopped_after_web1().await;
    let open = warnings(&fake);
    let text = "hosts have different mains: 1.0.0 on web2, web3; 2.0.0 on web1";
    assert!(open.iter().any(|open| open.starts_with(text) && open.contains("is not finished")), "{open:?}");
    fake.events.lock().unwrap().clear();
    let report = abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(report.progress.result, Some(RollResult::Aborted));
    let warned = warnings(&fake);
    let next = "next: `switchman assign shop 1.0.0 --host web1` makes 1.0.0 main on every host, `switchman assign shop 2.0.0 --host \
                web2 --host web3` makes 2.0.0 main on every host; `switchman ls --wide` shows which hosts have a version, `switchman \
                deploy` adds it to the others first";
    assert_eq!(warned, [format!("{text}; {next}")]);
}

#[tokio::test(start_paused = true)]
async fn aborted_roll_of_a_command_reads_no_mains() {
    let fake = site(2, 1);
    fake.site.with_host("web1", |host| {
        host.command_status = 9;
        host.main = "2.0.0".to_owned();
    });
    run(&fake.world, &fake.fleet, &example::make_roll_spec(&["web1", "web2"]), &actor()).await.unwrap();
    fake.events.lock().unwrap().clear();
    abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    assert_eq!(warnings(&fake), [""; 0]);
}

/// A rollback between stop and resume: the roll must not report a host as done that has another version.
#[tokio::test(start_paused = true)]
async fn resume_refuses_when_main_of_a_done_host_changed() {
    let fake = stopped_after_web1().await;
    fake.site.with_host("web1", |host| host.main = "1.0.0".to_owned());
    let error = resume(&fake.world, &fake.fleet, &actor()).await.unwrap_err();
    let RollError::MainChanged { hosts, .. } = &error else { panic!("{error}") };
    assert_eq!(hosts.len(), 1);
    assert!(error.to_string().ends_with("another command changed that: `web1` has main 1.0.0"), "{error}");
    assert_eq!(versions(&fake), vec![both("1.0.0", "1.0.0"); 3], "no host was touched");
    assert_eq!(ready(fake.world.lock.read_holder()), Ok(None), "the lock is given back");
    // It can be ended, and a new one begins.
    abort(&fake.world, &fake.fleet, &actor()).await.unwrap();
    let report = run(&fake.world, &fake.fleet, &to_2(&["web1", "web2", "web3"]), &actor()).await.unwrap();
    assert_eq!(report.progress.result, Some(RollResult::Done));
}

/// Unknown is not changed: the host is named, and the others are finished.
#[tokio::test(start_paused = true)]
async fn resume_warns_when_main_of_a_done_host_is_unknown() {
    let fake = stopped_after_web1().await;
    fake.site.with_host("web1", |host| host.is_reachable = false);
    fake.events.lock().unwrap().clear();
    // The balancers know web1, the link is cut.
    resume(&fake.world, &fake.fleet, &actor()).await.unwrap();
    let warned = warnings(&fake);
    let text = "web1: it is not known whether 2.0.0 is still main: ";
    assert!(warned.iter().any(|warned| warned.starts_with(text)), "{warned:?}");
}

fn with_check_port(fake: &FakeSite, check: u16) -> Fleet {
    let mut fleet = fake.fleet.clone();
    fleet.ports.check = example::port(check);
    fleet
}

/// The ports of the configuration were changed between stop and resume.
#[tokio::test(start_paused = true)]
async fn resume_and_abort_compare_ports_as_a_new_roll_does() {
    let fake = stopped_after_web1().await;
    fake.site.with_host("web2", |host| host.new_main_unhealthy = true);
    let other = with_check_port(&fake, 8889);
    let new = run(&fake.world, &other, &to_2(&["web3"]), &actor()).await.unwrap_err();
    assert!(matches!(new, RollError::Unfinished { .. }), "{new}");
    let error = resume(&fake.world, &other, &actor()).await.unwrap_err();
    let text =
        "cannot resume the roll: `web2` has check port 8888, and this configuration has `ports.check: 8889`";
    assert!(error.to_string().starts_with(text), "{error}");
    assert!(fake.site.lock().hosts.values().all(|host| host.forward), "no host was touched");
}

#[tokio::test(start_paused = true)]
async fn forced_roll_reports_and_records_the_ports_it_overrides() {
    let fake = site(1, 1);
    let mut other = with_check_port(&fake, 8889);
    other.limits.min_up = 0;
    let spec = RollSpec { force: true, ..example::make_roll_spec(&["web1"]) };
    let report = run(&fake.world, &other, &spec, &actor()).await.unwrap();
    let text = "`web1` has check port 8888, and this configuration has `ports.check: 8889`".to_owned();
    assert!(report.progress.overridden.contains(&text), "{:?}", report.progress.overridden);
    let events = fake.events.lock().unwrap().clone();
    assert!(events.contains(&Event::Overridden { refusal: text.clone() }), "{events:?}");
    let history = fake.world.links[&other.hosts[0].name].load_history(None, 50).await.unwrap();
    let off = history.iter().find(|entry| entry.action == "disable-forward").unwrap();
    assert!(off.detail.contains(&format!("overrode: {text}")), "{}", off.detail);
}
