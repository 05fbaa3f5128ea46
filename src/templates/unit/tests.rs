use super::*;
use crate::model::account::{Permission, Sandbox};
use crate::model::deployment::InstanceLimits;

fn spec() -> InstanceSpec {
    InstanceSpec {
        id: "dp_0123456789-2".parse().unwrap(),
        service: "shop".parse().unwrap(),
        version: "1.2.0".parse().unwrap(),
        argv: vec!["./server".into()],
        env: [("PORT".into(), "9001".into())].into(),
        dir: "/srv/switchman/shop/releases/1.2.0".into(),
        user: None,
        account: None,
        sandbox: None,
        resources: InstanceLimits::default(),
        grace: Duration::from_secs(10),
        stop_signal: StopSignal::Term,
    }
}

const FILE: &str = "/var/lib/switchman/environment/50%/dp_0123456789-2";

fn render(spec: &InstanceSpec, program: &str) -> Result<String, UnitError> {
    render_unit(spec, Path::new(program), ValueLocation::File(Path::new(FILE)))
}

fn lines(spec: &InstanceSpec, keys: &[&str]) -> Vec<String> {
    let text = render(spec, "/bin/app").unwrap();
    text.lines().filter(|line| keys.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect()
}

#[test]
fn minimal_unit_is_rendered() {
    let text = render(&spec(), "/srv/switchman/shop/releases/1.2.0/./server").unwrap();
    assert_eq!(text, include_str!("../../../tests/golden/units/plain.service"));
}

#[test]
fn full_unit_is_rendered() {
    let mut spec = spec();
    spec.argv.extend(["--greeting".into(), "50% off; \"$HOME\" 'a\\b' \u{fc}\t;".into(), String::new()]);
    spec.env.insert("MESSAGE".into(), "50% of $HOME \"quoted\" \\ end ".into());
    spec.user = Some("www-data".into());
    spec.resources =
        InstanceLimits { memory_bytes: Some(536_870_912), tasks: Some(64), open_files: Some(4096) };
    spec.grace = Duration::from_millis(1500);
    spec.stop_signal = StopSignal::Quit;
    let text = render(&spec, "/usr/bin/app").unwrap();
    assert_eq!(text, include_str!("../../../tests/golden/units/everything.service"));
    // As 0.1.0 wrote it: such a unit is recognized.
    let old = render_unit(&spec, Path::new("/usr/bin/app"), ValueLocation::Unit).unwrap();
    assert_eq!(old, include_str!("../../../tests/golden/units/values_in_unit.service"));
}

fn confined(allow: &[Permission]) -> InstanceSpec {
    let sandbox = Some(Sandbox { allow: allow.iter().copied().collect() });
    InstanceSpec { user: Some("switchman-shop".to_owned()), sandbox, ..spec() }
}

#[test]
fn program_with_an_account_has_a_sandbox() {
    let text = render(&confined(&[]), "/srv/switchman/shop/releases/1.2.0/./server").unwrap();
    assert_eq!(text, include_str!("../../../tests/golden/units/sandbox.service"));
    let both = confined(&[Permission::NewPrivileges, Permission::Devices]);
    let text = render(&both, "/srv/switchman/shop/releases/1.2.0/./server").unwrap();
    assert_eq!(text, include_str!("../../../tests/golden/units/sandbox_with_exceptions.service"));
}

/// systemd.exec(5) of 252: each of these implies `NoNewPrivileges=yes` where a unit has a user.
#[test]
fn new_privileges_are_not_taken_away_by_another_setting() {
    let implying = "NoNewPrivileges LockPersonality MemoryDenyWriteExecute PrivateDevices ProtectClock ProtectHostname \
                    ProtectKernelLogs ProtectKernelModules ProtectKernelTunables RestrictAddressFamilies RestrictNamespaces \
                    RestrictRealtime RestrictSUIDSGID SystemCallArchitectures SystemCallFilter SystemCallLog DynamicUser \
                    CapabilityBoundingSet";
    let keys: Vec<&str> = implying.split_whitespace().collect();
    assert_eq!(lines(&confined(&[Permission::NewPrivileges]), &keys), Vec::<String>::new());
    assert_eq!(lines(&confined(&[Permission::NewPrivileges]), &["DevicePolicy"]), ["DevicePolicy=closed"]);
    let root = InstanceSpec { user: Some("root".to_owned()), ..confined(&[Permission::NewPrivileges]) };
    assert_eq!(lines(&root, &["NoNew", "Restrict", "Lock"]), Vec::<String>::new());
}

#[test]
fn devices_are_closed_unless_they_are_allowed() {
    let keys = ["PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"];
    assert_eq!(lines(&confined(&[]), &keys), ["PrivateDevices=yes", "ProtectClock=yes"]);
    assert_eq!(lines(&confined(&[Permission::Devices]), &keys), Vec::<String>::new());
    assert_eq!(lines(&confined(&[Permission::Devices]), &["NoNew"]), ["NoNewPrivileges=yes"]);
}

#[test]
fn root_and_releases_in_homes_keep_what_they_need() {
    let root = InstanceSpec { user: Some("root".to_owned()), ..confined(&[]) };
    assert_eq!(lines(&root, &["Capability", "SystemCall", "ProtectSystem", "Private"]), Vec::<String>::new());
    assert_eq!(lines(&root, &["NoNew"]), ["NoNewPrivileges=yes"]);
    assert_eq!(lines(&confined(&[]), &["ProtectHome"]), ["ProtectHome=yes"]);
    let at_home = InstanceSpec { dir: "/home/ops/releases/1.2.0".into(), ..confined(&[]) };
    assert_eq!(lines(&at_home, &["ProtectHome"]), Vec::<String>::new());
    let named = InstanceSpec { user: Some("deploy".to_owned()), ..confined(&[]) };
    assert_eq!(lines(&named, &["ProtectHome"]), Vec::<String>::new());
}

#[test]
fn unit_refuses_line_breaks() {
    let refused = |change: fn(&mut InstanceSpec)| {
        let mut spec = spec();
        change(&mut spec);
        render(&spec, "/bin/app").unwrap_err().subject
    };
    assert_eq!(refused(|spec| spec.argv.push("a\nExecStartPre=/bin/evil".into())), "an argument");
    assert_eq!(refused(|spec| spec.user = Some("root\n".into())), "the user");
    assert_eq!(refused(|spec| spec.dir = "/srv/a\\".into()), "the directory");
    assert_eq!(refused(|spec| spec.dir = "/srv/a\nb".into()), "the directory");
}

/// systemd shows a unit and its `Environment=` to every user (systemd.exec(5)).
#[test]
fn values_of_the_operator_are_in_the_file_alone() {
    let mut spec = spec();
    spec.env.insert("KEY".into(), "-----BEGIN\nhunter2\nUser=root\n".into());
    let text = render(&spec, "/bin/app").unwrap();
    assert!(!text.contains("hunter2") && !text.contains("KEY") && !text.contains("User="), "{text}");
    assert_eq!(
        lines(&spec, &["Environment"]),
        [
            "Environment=\"LANG=C.UTF-8\"",
            "Environment=\"HOME=%h\"",
            "Environment=\"PORT=9001\"",
            "EnvironmentFile=/var/lib/switchman/environment/50%%/dp_0123456789-2",
        ]
    );
    let private = render_private_environment(&spec);
    assert_eq!(private.as_deref(), Some("KEY=\"-----BEGIN\nhunter2\nUser=root\n\"\n"));
    spec.env.remove("KEY");
    assert_eq!(render_private_environment(&spec), None);
    assert_eq!(lines(&spec, &["EnvironmentFile"]), Vec::<String>::new());
}

#[test]
fn main_process_signal_uses_mixed_kill_mode() {
    let mut spec = spec();
    spec.stop_signal = StopSignal::Winch;
    assert_eq!(lines(&spec, &["Kill"]), ["KillMode=mixed", "KillSignal=SIGWINCH"]);
}

#[test]
fn different_grace_is_the_same_command() {
    let text = render(&spec(), "/bin/app").unwrap();
    let other = replace_grace(&text, Duration::from_millis(1500));
    assert!(other.contains("\nTimeoutStopSec=1500ms\n") && other != text && is_same_command(&text, &other));
    assert!(!is_same_command(&text, &text.replace("/bin/app", "/bin/other")));
}

#[test]
fn unit_names_round_trip_and_foreign_names_are_ignored() {
    let id = spec().id;
    assert_eq!(format_unit_name(&id), "switchman-dp_0123456789-2.service");
    assert_eq!(parse_unit_name(&format_unit_name(&id)), Some(id));
    for other in ["switchman-agent.service", "switchman.service", "switchman-dp_0123456789-2.timer"] {
        assert_eq!(parse_unit_name(other), None);
    }
}
