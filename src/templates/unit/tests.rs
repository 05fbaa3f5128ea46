use super::*;
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
        resources: InstanceLimits::default(),
        grace: Duration::from_secs(10),
        stop_signal: StopSignal::Term,
    }
}

fn lines(spec: &InstanceSpec, keys: &[&str]) -> Vec<String> {
    let text = render_unit(spec, Path::new("/bin/app")).unwrap();
    text.lines().filter(|line| keys.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect()
}

#[test]
fn minimal_unit_is_rendered() {
    let text = render_unit(&spec(), Path::new("/srv/switchman/shop/releases/1.2.0/./server")).unwrap();
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
    let text = render_unit(&spec, Path::new("/usr/bin/app")).unwrap();
    assert_eq!(text, include_str!("../../../tests/golden/units/everything.service"));
}

#[test]
fn unit_refuses_line_breaks() {
    let refused = |change: fn(&mut InstanceSpec)| {
        let mut spec = spec();
        change(&mut spec);
        render_unit(&spec, Path::new("/bin/app")).unwrap_err().subject
    };
    assert_eq!(refused(|spec| spec.argv.push("a\nExecStartPre=/bin/evil".into())), "an argument");
    assert_eq!(refused(|spec| drop(spec.env.insert("A".into(), "b\r\nUser=root".into()))), "the environment");
    assert_eq!(refused(|spec| spec.user = Some("root\n".into())), "the user");
    assert_eq!(refused(|spec| spec.dir = "/srv/a\\".into()), "the directory");
    assert_eq!(refused(|spec| spec.dir = "/srv/a\nb".into()), "the directory");
}

#[test]
fn main_process_signal_uses_mixed_kill_mode() {
    let mut spec = spec();
    spec.stop_signal = StopSignal::Winch;
    assert_eq!(lines(&spec, &["Kill"]), ["KillMode=mixed", "KillSignal=SIGWINCH"]);
}

#[test]
fn different_grace_is_the_same_command() {
    let text = render_unit(&spec(), Path::new("/bin/app")).unwrap();
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
