use super::*;
use crate::model::deployment::Resources;

fn spec() -> InstanceSpec {
    InstanceSpec {
        id: "dp_0123456789-2".parse().unwrap(),
        service: "shop".parse().unwrap(),
        version: "1.2.0".parse().unwrap(),
        argv: vec!["./server".into()],
        env: [("PORT".into(), "9001".into())].into(),
        dir: "/srv/switchman/shop/releases/1.2.0".into(),
        user: None,
        resources: Resources::default(),
        grace: Duration::from_secs(10),
        stop_signal: StopSignal::Term,
    }
}

fn lines(spec: &InstanceSpec, keys: &[&str]) -> Vec<String> {
    let text = text(spec, Path::new("/bin/app")).unwrap();
    text.lines().filter(|line| keys.iter().any(|key| line.starts_with(key))).map(str::to_owned).collect()
}

#[test]
fn a_plain_one() {
    let text = text(&spec(), Path::new("/srv/switchman/shop/releases/1.2.0/./server")).unwrap();
    assert_eq!(text, include_str!("../../../tests/golden/units/plain.service"));
}

#[test]
fn one_with_everything() {
    let mut spec = spec();
    spec.argv.extend(["--greeting".into(), "50% off; \"$HOME\" 'a\\b' \u{fc}\t;".into(), String::new()]);
    spec.env.insert("MESSAGE".into(), "50% of $HOME \"quoted\" \\ end ".into());
    spec.user = Some("www-data".into());
    spec.resources = Resources { memory_bytes: Some(536_870_912), tasks: Some(64), open_files: Some(4096) };
    spec.grace = Duration::from_millis(1500);
    spec.stop_signal = StopSignal::Quit;
    let text = text(&spec, Path::new("/usr/bin/app")).unwrap();
    assert_eq!(text, include_str!("../../../tests/golden/units/everything.service"));
}

#[test]
fn what_would_end_a_line_is_refused() {
    let refused = |change: fn(&mut InstanceSpec)| {
        let mut spec = spec();
        change(&mut spec);
        text(&spec, Path::new("/bin/app")).unwrap_err().what
    };
    assert_eq!(refused(|spec| spec.argv.push("a\nExecStartPre=/bin/evil".into())), "an argument");
    assert_eq!(refused(|spec| drop(spec.env.insert("A".into(), "b\r\nUser=root".into()))), "the environment");
    assert_eq!(refused(|spec| spec.user = Some("root\n".into())), "the user");
    assert_eq!(refused(|spec| spec.dir = "/srv/a\\".into()), "the directory");
    assert_eq!(refused(|spec| spec.dir = "/srv/a\nb".into()), "the directory");
}

#[test]
fn the_signal_for_the_first_process_alone_spares_its_children() {
    let mut spec = spec();
    spec.stop_signal = StopSignal::Winch;
    assert_eq!(lines(&spec, &["Kill"]), ["KillMode=mixed", "KillSignal=SIGWINCH"]);
}

#[test]
fn another_grace_is_no_other_way_to_run() {
    let text = text(&spec(), Path::new("/bin/app")).unwrap();
    let other = with_grace(&text, Duration::from_millis(1500));
    assert!(other.contains("\nTimeoutStopSec=1500ms\n") && other != text && is_same(&text, &other));
    assert!(!is_same(&text, &text.replace("/bin/app", "/bin/other")));
}

#[test]
fn names_are_read_back_and_others_are_left_alone() {
    let id = spec().id;
    assert_eq!(name(&id), "switchman-dp_0123456789-2.service");
    assert_eq!(instance(&name(&id)), Some(id));
    for other in ["switchman-agent.service", "switchman.service", "switchman-dp_0123456789-2.timer"] {
        assert_eq!(instance(other), None);
    }
}
