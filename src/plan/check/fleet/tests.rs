use super::*;
use crate::model::balancer::ServerState;
use crate::model::deployment::Access;
use crate::model::example::{self, make_host_view as view, make_server};
use crate::model::journal::{RollEntry, RollEntryKind};
use crate::model::lock::{Holder, LockPurpose};
use crate::model::observation::ObservationError;
use crate::model::packet_proof::{FamilyProof, PacketVerdict};
use crate::model::port_conflict::{PortSetting, PortSide};
use crate::model::registration::RegistrationState;
use crate::model::roll::{Batch, RollId};
use crate::model::rules::Family;
use crate::model::ssh::SshFailure;
use crate::plan::roll::progress::build_progress;

fn fleet() -> Fleet {
    let mut hosts = vec![example::host("web1", "10.0.0.1"), example::host("web2", "10.0.0.2")];
    for host in &mut hosts {
        host.transport = Transport::Ssh(format!("deploy@{}", host.name));
    }
    Fleet { hosts, balancers: vec![example::balancer("lb1", None)], ..example::fleet() }
}

fn hello(version: &str) -> Hello {
    Hello {
        api: 1,
        oldest_api: 1,
        version: version.into(),
        machine: "x".into(),
        addresses: vec![],
        now: None,
    }
}

fn good() -> FleetFacts {
    let host = |host: Host| HostFacts {
        transport: host.transport.to_string(),
        host,
        hello: Ok(hello("1.0.0")),
        view: Some(Ok(view(Switch::On))),
        clock_offset: None,
        port_conflicts: vec![],
        address_conflicts: vec![],
    };
    let lines = ["main-web1", "backup-web1", "main-web2", "backup-web2"];
    let servers = lines.map(|name| make_server(name, ServerState::Up)).to_vec();
    FleetFacts {
        hosts: fleet().hosts.into_iter().map(host).collect(),
        balancers: vec![Some(Ok(BackendView::new(servers)))],
        missing: vec![],
        roll: Ok(None),
        lock: Ok(None),
        promotion: None,
        version: "1.0.0",
    }
}

/// Lists the findings above `Ok`: severity, subject, id.
fn bad(fleet: &Fleet, facts: &FleetFacts) -> Vec<String> {
    let all = collect_findings(fleet, facts).into_iter().filter(|one| one.severity > Severity::Ok);
    all.map(|one| {
        assert!(!one.fix.is_empty(), "{one:?}");
        format!("{:?} {} {}", one.severity, one.subject, one.id)
    })
    .collect()
}

fn with(change: impl FnOnce(&mut FleetFacts)) -> Vec<String> {
    let mut facts = good();
    change(&mut facts);
    bad(&fleet(), &facts)
}

#[test]
fn healthy_fleet_has_one_finding_per_host_and_balancer() {
    assert_eq!(with(|_| {}), Vec::<String>::new());
    let reasons: Vec<String> =
        collect_findings(&fleet(), &good()).into_iter().map(|one| one.reason).collect();
    assert_eq!(
        reasons,
        [
            "switchman 1.0.0 answers (ssh deploy@web1)",
            "switchman 1.0.0 answers (ssh deploy@web2)",
            "its 4 server lines are there, every backup vhost is UP",
        ]
    );
}

#[test]
fn unreachable_host_finding_has_a_fix() {
    let lost = |facts: &mut FleetFacts| {
        facts.hosts[1].hello = Err(make_ssh_failure());
        facts.hosts[1].view = None;
    };
    assert_eq!(with(lost), ["Problem web2 host-unreachable"]);
    let mut facts = good();
    lost(&mut facts);
    let found =
        collect_findings(&fleet(), &facts).into_iter().find(|one| one.id == "host-unreachable").unwrap();
    let command =
        "ssh -o BatchMode=yes -F /home/ops/fleet deploy@web2 sudo -n switchman agent --stdio </dev/null";
    assert!(found.fix.contains("a key of yours") && found.fix.contains(command), "{}", found.fix);
    let other = |unheard: LinkFailure| with(|facts| facts.hosts[0].hello = Err(unheard))[0].clone();
    assert_eq!(other(LinkFailure::VersionMismatch("x".into())), "Problem web1 version-skew");
    assert_eq!(other(LinkFailure::Refused("x".into())), "Problem web1 host-refuses");
    assert_eq!(with(|facts| facts.hosts[0].hello = Ok(hello("0.9.0"))), ["Note web1 other-version"]);
}

#[test]
fn host_view_problems_are_reported() {
    let seen = |change: fn(&mut HostView), switch| {
        with(|facts| {
            let mut view = view(switch);
            change(&mut view);
            facts.hosts[0].view = Some(Ok(view));
        })
    };
    assert_eq!(
        seen(|view| view.kernel = Err(ObservationError::new("no permission")), Switch::On),
        ["Problem web1 rules-unreadable"]
    );
    assert_eq!(
        seen(|view| view.record = Err(ObservationError::new("no permission")), Switch::On),
        ["Problem web1 state-unreadable"]
    );
    assert_eq!(seen(|view| view.record = Ok(None), Switch::On), ["Note web1 state-empty"]);
    assert_eq!(seen(|view| view.drift = vec!["x".into()], Switch::On), ["Problem web1 drift"]);
    let ill: fn(&mut HostView) = |view| view.main_health = Err(ObservationError::new("status 500"));
    assert_eq!(seen(ill, Switch::On), ["Problem web1 vhost-unhealthy"]);
    assert_eq!(seen(ill, Switch::Off), ["Note web1 in-maintenance", "Note web1 vhost-unhealthy"]);
}

#[test]
fn fleet_check_reports_balancers_and_policy() {
    let server_is = |at: usize, verdict| {
        with(|facts| {
            if let Some(Ok(view)) = &mut facts.balancers[0] {
                let mut servers = view.servers().to_vec();
                servers[at] = make_server(&servers[at].name.clone(), verdict);
                *view = BackendView::new(servers);
            }
        })
    };
    assert_eq!(server_is(3, ServerState::Down), ["Problem lb1 backup-not-up"]);
    assert_eq!(server_is(2, ServerState::Down), ["Problem lb1 main-down"]);
    assert_eq!(with(|facts| facts.balancers = vec![None]), ["Warning lb1 balancer-not-read"]);
    assert_eq!(
        with(|facts| facts.balancers = vec![Some(Err(ObservationError::new("refused")))]),
        ["Problem lb1 balancer-unreadable"]
    );
    let mut greedy = fleet();
    greedy.roll.batch = Batch::Percent(100);
    assert_eq!(bad(&greedy, &good()), ["Warning switchman.yaml batch-below-floor"]);
}

/// The forward of web1 is off, another program changed its rules, or its main vhost fails: each explains DOWN.
#[test]
fn main_that_is_down_for_a_known_reason_is_no_problem_of_the_balancer() {
    let find = |change: fn(&mut HostView), switch| {
        let found = with(|facts| {
            let mut view = view(switch);
            change(&mut view);
            facts.hosts[0].view = Some(Ok(view));
            if let Some(Ok(view)) = &mut facts.balancers[0] {
                let mut servers = view.servers().to_vec();
                servers[0] = make_server("main-web1", ServerState::Down);
                *view = BackendView::new(servers);
            }
        });
        found.contains(&"Problem lb1 main-down".to_owned())
    };
    assert!(find(|_| {}, Switch::On));
    assert!(!find(|_| {}, Switch::Off));
    assert!(!find(|view| view.record = Ok(None), Switch::On));
    assert!(!find(|view| view.drift = vec!["differs".into()], Switch::On));
    assert!(!find(|view| view.main_health = Err(ObservationError::new("status 500")), Switch::On));
}

#[test]
fn missing_operator_files_are_reported() {
    let mut fleet = fleet();
    let lines = ["./warm.sh --all", "curl -fsS http://x/y", "$HOME/bin/x", "A=1 /bin/x", "'/a b/c'"];
    fleet.hooks.before_host = lines.map(str::to_owned).to_vec();
    fleet.hooks.on_failure = vec!["/opt/page.sh".into()];
    fleet.reach.ca = Some("keys/ca.pem".into());
    let files = list_local_files(&fleet);
    let named: Vec<String> =
        files.iter().map(|file| format!("{} {}", file.key, file.path.display())).collect();
    assert_eq!(
        named,
        ["hooks.before_host ./warm.sh", "hooks.on_failure /opt/page.sh", "agents.ca keys/ca.pem"]
    );
    assert_eq!(with(|facts| facts.missing.clone_from(&files))[0], "Problem hooks.before_host file-missing");
}

/// Adds a roll that has begun, and the holder of its lock on a machine.
fn add_unfinished_roll(facts: &mut FleetFacts, holder: Option<Liveness>, machine: &str) {
    let roll = RollId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    let spec = example::make_roll_spec(&["web1", "web2"]);
    let kind = RollEntryKind::Began { spec, actor: example::make_actor(), overridden: vec![] };
    let entry = RollEntry { roll: roll.clone(), at: jiff::Timestamp::UNIX_EPOCH, host: None, kind };
    facts.roll = Ok(build_progress(&[entry]));
    let holder = holder.map(|liveness| {
        let holder = example::make_holder(LockPurpose::Roll { roll });
        LockView { holder: Holder { machine: machine.into(), ..holder }, heartbeats: 0, liveness }
    });
    facts.lock = Ok(holder);
}

#[test]
fn abandoned_roll_is_reported() {
    let found = |holder: Option<Liveness>| with(|facts| add_unfinished_roll(facts, holder, "desk"));
    assert_eq!(found(None), ["Warning journal roll-unfinished"]);
    assert_eq!(found(Some(Liveness::Live)), ["Note lock fleet-held"]);
    assert_eq!(found(Some(Liveness::Dead)), ["Note lock fleet-held", "Warning journal roll-unfinished"]);
    assert_eq!(
        with(|facts| facts.roll = Err(ObservationError::new("x"))),
        ["Problem journal journal-unreadable"]
    );
}

fn make_ssh_failure() -> LinkFailure {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    LinkFailure::Unreachable {
        reason: "ssh reports: deploy@web2: Permission denied (publickey)".into(),
        ssh: Some(Box::new(SshAttempt {
            destination: "deploy@web2".into(),
            options: owned(&["-F", "/home/ops/fleet"]),
            remote: owned(&["sudo", "-n", "switchman", "agent", "--stdio"]),
            failure: SshFailure::AuthDenied,
        })),
    }
}

fn make_contradicted_packet() -> PacketProof {
    let cause = Some(
        "the rule `-A PREROUTING -p tcp --dport 8888 -j REDIRECT --to-ports 9000` takes the port first"
            .into(),
    );
    let fact = "the forward is on, but a packet to port 8888 is answered by `10.0.0.1:9000`".into();
    let verdict = PacketVerdict::Contradicted { fact, cause };
    let families = vec![FamilyProof { family: Family::V4, address: None, verdict }];
    PacketProof { check: example::port(8888), families, data: None }
}

/// Another program takes the port first: `status` sends the same packet.
fn add_contradicted_packet(facts: &mut FleetFacts) {
    if let Some(Ok(view)) = &mut facts.hosts[0].view {
        view.packet = Some(make_contradicted_packet());
    }
}

fn add_slot_problem(facts: &mut FleetFacts) {
    if let Some(Ok(view)) = &mut facts.hosts[0].view {
        let problem = Some("every slot of 1 to 2 is another host's".to_owned());
        view.registration = Some(RegistrationState { problem, ..RegistrationState::default() });
    }
}

fn add_conflicts(facts: &mut FleetFacts) {
    facts.hosts[0].port_conflicts = vec![PortConflict {
        side: PortSide::Host("web1".parse().unwrap()),
        setting: PortSetting::Check,
        configured: example::port(8889),
        found: 8888,
    }];
    facts.hosts[1].address_conflicts = vec![AddressConflict {
        host: "web2".parse().unwrap(),
        balancer: "lb1".parse().unwrap(),
        line: "shop/main-web2".into(),
        found: [10, 0, 0, 1].into(),
        found_on: "web1".parse().ok(),
        known: vec![[10, 0, 0, 2].into()],
    }];
}

fn make_private(facts: &mut FleetFacts) {
    if let Some(Ok(HostView { record: Ok(Some(record)), .. })) = &mut facts.hosts[0].view {
        record.access = Access::Private;
    }
}

#[test]
fn contradicted_packet_is_a_problem() {
    assert_eq!(with(add_contradicted_packet), ["Problem web1 packet-contradicts"]);
}

#[test]
fn host_that_is_not_registered_is_a_problem() {
    assert_eq!(with(add_slot_problem), ["Problem web1 not-registered"]);
}

#[test]
fn what_a_roll_refuses_is_a_problem() {
    assert_eq!(with(add_conflicts), ["Problem web1 ports-differ", "Problem web2 address-differs"]);
}

#[test]
fn private_host_is_a_note_and_different_access_a_warning() {
    assert_eq!(with(make_private), ["Note web1 service-private", "Warning shop access-differs"]);
    let mut facts = good();
    make_private(&mut facts);
    let note =
        collect_findings(&fleet(), &facts).into_iter().find(|one| one.id == "service-private").unwrap();
    assert!(note.fix.contains("`switchman access shop public --host web1`"), "{}", note.fix);
}

/// The host of a roll is not the business of the reader of `check`.
#[test]
fn host_of_a_running_roll_names_its_owner() {
    let mut facts = good();
    add_unfinished_roll(&mut facts, Some(Liveness::Live), "desk");
    let roll = facts.roll.as_ref().unwrap().as_ref().unwrap().roll.clone();
    let mut off = view(Switch::Off);
    if let Ok(Some(record)) = &mut off.record {
        let owner = example::make_actor().become_owner("./deploy.sh", jiff::Timestamp::UNIX_EPOCH);
        record.owner = Some(Owner { roll: Some(roll), ..owner });
    }
    facts.hosts[0].view = Some(Ok(off));
    let find_fix = |facts: &FleetFacts| {
        collect_findings(&fleet(), facts).into_iter().find(|one| one.id == "in-maintenance").unwrap().fix
    };
    assert!(find_fix(&facts).starts_with("wait for "), "{}", find_fix(&facts));
    facts.lock = Ok(None);
    assert!(find_fix(&facts).starts_with("`switchman roll --resume` or `--abort`"), "{}", find_fix(&facts));
    facts.roll = Ok(None);
    assert!(find_fix(&facts).starts_with("`switchman enable-forward --host web1`"), "{}", find_fix(&facts));
}

/// Samples of the findings that only a check of the fleet makes.
pub(in crate::plan::check) fn list_samples() -> Vec<Finding> {
    let collect = |change: &dyn Fn(&mut FleetFacts)| {
        let mut facts = good();
        change(&mut facts);
        collect_findings(&fleet(), &facts)
    };
    let failures = [
        make_ssh_failure(),
        LinkFailure::VersionMismatch(
            "its switchman 0.3.0 speaks API 4..5, this one (0.1.0) speaks 2..2".into(),
        ),
        LinkFailure::Refused("the bearer token is missing or wrong".into()),
    ];
    let mut all = collect(&|_| {});
    all.extend(collect(&add_slot_problem));
    for failure in failures {
        all.extend(collect(&|facts| facts.hosts[0].hello = Err(failure.clone())));
    }
    all.extend(collect(&|facts| facts.hosts[0].hello = Ok(hello("0.9.0"))));
    all.extend(collect(&|facts| {
        facts.hosts[0].view = Some(Err(ObservationError::new("no answer within 15s (ssh deploy@web1)")));
    }));
    all.extend(collect(&|facts| {
        let offset = ClockOffset { by: std::time::Duration::from_secs(97), is_ahead: true };
        facts.hosts[0].clock_offset = Some(offset);
    }));
    all.extend(collect(&|facts| facts.hosts[0].view = Some(Ok(view(Switch::Off)))));
    all.extend(collect(&|facts| {
        if let Some(Ok(view)) = &mut facts.balancers[0] {
            let mut servers = view.servers().to_vec();
            servers[3] = make_server(&servers[3].name.clone(), ServerState::Down);
            *view = BackendView::new(servers);
        }
    }));
    all.extend(collect(&add_contradicted_packet));
    all.extend(collect(&add_conflicts));
    all.extend(collect(&make_private));
    let file = LocalFile { key: "hooks.before_host", path: "./warm.sh".into() };
    all.extend(collect(&|facts| facts.missing = vec![file.clone()]));
    all.extend(collect(&|facts| add_unfinished_roll(facts, Some(Liveness::Dead), "bastion")));
    all.extend(collect(&|facts| {
        facts.roll = Err(ObservationError::new("the journal `.switchman/shop.db` is damaged"));
    }));
    all
}

/// A fleet whose first host has another main than the second.
fn with_two_mains() -> FleetFacts {
    let mut facts = good();
    for (host, version) in facts.hosts.iter_mut().zip(["2.0.0", "1.0.0"]) {
        let Some(Ok(view)) = &mut host.view else { panic!() };
        view.main_version = Some(version.parse().unwrap());
    }
    facts
}

fn find_mains(facts: &FleetFacts) -> Option<Finding> {
    collect_findings(&fleet(), facts).into_iter().find(|one| one.id == "mains-differ")
}

#[test]
fn different_mains_are_a_warning_unless_an_operation_explains_them() {
    assert_eq!(find_mains(&good()), None);
    let mut facts = with_two_mains();
    let found = find_mains(&facts).unwrap();
    assert_eq!(found.severity, Severity::Warning);
    assert_eq!(found.reason, "hosts have different mains: 1.0.0 on web2; 2.0.0 on web1");
    assert!(found.fix.contains("`switchman assign shop 2.0.0 --host web2`"), "{}", found.fix);

    // A roll of a command explains nothing; a rolling assign does.
    let mut rows = example::make_roll_entries(&["web1", "web2"], 0, vec![]);
    facts.roll = Ok(build_progress(&rows));
    assert_eq!(find_mains(&facts).unwrap().severity, Severity::Warning);
    if let RollEntryKind::Began { spec, .. } = &mut rows[0].kind {
        let (version, trial) = ("2.0.0".parse().unwrap(), std::time::Duration::ZERO);
        spec.work = crate::model::roll::Work::Assign(crate::model::roll::NewMain { version, trial });
    }
    facts.roll = Ok(build_progress(&rows));
    let found = find_mains(&facts).unwrap();
    assert_eq!(found.severity, Severity::Note);
    assert!(found.reason.contains("is not finished"), "{}", found.reason);

    // A host that cannot be read has no main that is known.
    let mut facts = with_two_mains();
    facts.hosts[0].view = None;
    assert_eq!(find_mains(&facts), None);
}
