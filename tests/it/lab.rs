//! End to end: the real program on the lab. Every lab has a name of its own, so these run side by side.

use std::path::Path;
use std::process::{Command, Output};

use crate::testing::can_make_namespaces;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");

/// A lab name that no other test and no other run of the suite uses; dropping this removes the lab, also when the test
/// fails.
struct Named(&'static str);

impl Named {
    fn new(what: &str) -> Self {
        Self(Box::leak(format!("it{what}{}", std::process::id()).into_boxed_str()))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = switchman(&["lab", "down", "--name", self.0]);
    }
}

#[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn switchman(args: &[&str]) -> Output {
    command(SWITCHMAN, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn namespaces_of(name: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").map(|entries| entries.flatten().collect::<Vec<_>>());
    let names = entries.unwrap_or_default().into_iter().map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|other| other.starts_with(&format!("swm-{name}-"))).collect()
}

/// Processes whose command line names the lab: those of this test excepted, they name it too.
fn processes_of(name: &str) -> Vec<String> {
    let proc = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = proc.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| text(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&format!("/switchman-lab/{name}/"))).collect()
}

fn assert_nothing_left(name: &str) {
    assert_eq!(namespaces_of(name), Vec::<String>::new());
    assert_eq!(processes_of(name), Vec::<String>::new());
    assert!(!Path::new("/run/switchman-lab").join(name).exists());
}

/// Describes the machine's own network.
fn machine() -> String {
    text(&command("ip", &["-o", "link"]).output().unwrap().stdout)
}

#[test]
fn demo_loses_no_request_and_leaves_nothing() {
    if !can_make_namespaces() {
        return;
    }
    let named = Named::new("demo");
    let before = machine();
    let output = switchman(&["lab", "demo", "--name", named.0, "--balancers", "2", "--output", "json"]);
    assert!(output.status.success(), "{}{}", text(&output.stderr), text(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["faults"], serde_json::json!([]));
    assert_eq!(report["hosts"].as_array().unwrap().len(), 2);
    let roll = &report["roll"];
    assert_eq!((roll["stopped_with"].as_i64(), roll["resumed_with"].as_i64()), (Some(3), Some(0)));
    assert_eq!((roll["failed_host"].as_str(), roll["left"].as_str()), (Some("web2"), Some("returned")));
    assert_eq!(roll["answered_by_new"], serde_json::json!(["web1", "web2", "web3"]));
    let requests: u64 = report["load"]["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind["requests"].as_u64().unwrap())
        .sum();
    assert!(requests > 500, "{requests} requests are too few to mean anything");
    assert_nothing_left(named.0);
    assert_eq!(machine(), before);
}

#[test]
fn ctrl_c_during_demo_leaves_nothing() {
    if !can_make_namespaces() {
        return;
    }
    let named = Named::new("ctrlc");
    for signal in ["-INT", "-TERM"] {
        let mut demo = command(SWITCHMAN, &["lab", "demo", "--name", named.0]);
        let mut demo =
            demo.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_until(|| !namespaces_of(named.0).is_empty() && !processes_of(named.0).is_empty());
        assert!(command("kill", &[signal, &demo.id().to_string()]).status().unwrap().success());
        assert_eq!(demo.wait().unwrap().code(), Some(1));
        assert_nothing_left(named.0);
    }
}

#[test]
fn up_and_down_remove_remains_of_a_crash() {
    if !can_make_namespaces() {
        return;
    }
    let named = Named::new("crash");
    for next in [vec!["lab", "up", "--name", named.0], vec!["lab", "down", "--name", named.0]] {
        let mut demo = command(SWITCHMAN, &["lab", "demo", "--name", named.0]);
        let mut demo =
            demo.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_until(|| processes_of(named.0).len() > 3);
        demo.kill().unwrap();
        demo.wait().unwrap();
        assert!(!namespaces_of(named.0).is_empty(), "a crash leaves something");
        let output = switchman(&next);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_nothing_left(named.0);
}

fn wait_until(holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it does not come true");
        std::thread::yield_now();
    }
}

/// Issue point 4 on one running lab: the output and effect of each command, in the order an operator would.
#[test]
fn forward_commands_switch_lab_host() {
    if !can_make_namespaces() {
        return;
    }
    let named = Named::new("cmd");
    let output = switchman(&["lab", "up", "--name", named.0, "--hosts", "2"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let on = |host: &str, args: &[&str]| on_host(named.0, host, args);
    let lines = text(&output.stdout);

    let again = switchman(&["lab", "up", "--name", named.0, "--hosts", "2"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("a lab of that name is up\n next: remove it"),
        "{}",
        text(&again.stderr)
    );
    assert_eq!(switchman(&["lab", "demo", "--name", named.0]).status.code(), Some(1));
    let processes = processes_of(named.0);
    assert!(!processes.is_empty(), "the lab is as it was");

    // HAProxy counts every server UP until its first check: not up enough for a switch.
    let at_once = on("web1", &["disable-forward", "--host", "web1"]);
    assert_eq!(at_once.status.code(), Some(1), "{}", text(&at_once.stdout));
    wait_until(|| ["web1", "web2"].iter().all(|host| verdict(named.0, host) == "down"));
    let refused = on("web1", &["disable-forward", "--host", "web1"]);
    assert!(text(&refused.stderr).contains("capacity floor would break"), "{}", text(&refused.stderr));
    assert_eq!(refused.status.code(), Some(1));
    for host in ["web1", "web2"] {
        let output = on(host, &["enable-forward", "--host", host]);
        assert!(
            text(&output.stdout).contains("in service, forward on; lb1 reports UP"),
            "{}",
            text(&output.stderr)
        );
    }
    let off = on("web1", &["disable-forward", "--host", "web1", "--drain"]);
    assert!(
        text(&off.stdout).starts_with("web1: in maintenance, forward off; lb1 reports DOWN; drained after ")
    );
    let again = on("web1", &["disable-forward", "--host", "web1"]);
    assert!(text(&again.stdout).starts_with("web1: already in maintenance"), "{}", text(&again.stdout));
    let floor = on("web2", &["disable-forward", "--host", "web2"]);
    assert!(text(&floor.stderr).contains("`lb1` has 0 other main vhosts UP"), "{}", text(&floor.stderr));

    let status = on("web1", &["status", "--host", "web1", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["schema"], 2);
    assert_eq!(status["hosts"][0]["view"]["value"]["record"]["value"]["switch"], "off");
    assert_eq!(verdict(named.0, "web1"), "down");
    let history = on("web1", &["history"]);
    assert!(text(&history.stdout).contains("disable-forward  done"), "{}", text(&history.stdout));
    let places = switchman(&["lab", "status", "--name", named.0]);
    let places = text(&places.stdout);
    let row = |host: &str, rest: &str| format!("swm-{}-{host}    {rest}", named.0);
    assert!(places.contains(&row("web1", "off      switchman nginx nginx")), "{places}");
    assert!(places.contains(&row("web2", "on ")) && places.contains("haproxy"), "{places}");
    assert_forward_survives_a_flush(named.0);
    // Every printed line can be pasted; the last one removes the lab.
    let commands: Vec<&str> = lines.lines().skip(1).map(|line| line[13..].trim()).collect();
    assert_eq!(commands.len(), 6, "{lines}");
    for line in commands {
        let output =
            command("env", &["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    }
    assert_nothing_left(named.0);
}

/// The state of a host's main vhost on the balancer.
fn verdict(lab: &str, host: &str) -> String {
    let status = on_host(lab, host, &["status", "--host", host, "--output", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    status["hosts"][0]["balancers"][0]["servers"]["value"]["main"]["state"].as_str().unwrap_or("").to_owned()
}

fn assert_forward_survives_a_flush(lab: &str) {
    let flush = ["netns", "exec", &format!("swm-{lab}-web2"), "iptables", "-t", "nat", "-F"];
    assert!(command("ip", &flush).status().unwrap().success());
    let status = on_host(lab, "web2", &["status", "--host", "web2"]);
    assert!(text(&status.stdout).contains("drift"), "{}", text(&status.stdout));
    let restored = on_host(lab, "web2", &["restore"]);
    assert!(
        text(&restored.stdout).contains("shop: forward on (8888 -> 8080), put back"),
        "{}",
        text(&restored.stdout)
    );
    let maintenance = on_host(lab, "web1", &["restore"]);
    assert!(
        text(&maintenance.stdout).contains("shop: forward off (8888 -> 8080), already"),
        "{}",
        text(&maintenance.stdout)
    );
}

fn on_host(lab: &str, host: &str, args: &[&str]) -> Output {
    let dir = format!("/run/switchman-lab/{lab}/{host}");
    let (config, state) = (format!("{dir}/switchman.yaml"), format!("{dir}/state"));
    let namespace = format!("swm-{lab}-{host}");
    let own = ["netns", "exec", &namespace, SWITCHMAN, "--config", &config, "--state-dir", &state, "--local"];
    let mut command = command("ip", &[&own, args].concat());
    command.env("XTABLES_LOCKFILE", format!("{dir}/xtables.lock")).output().unwrap()
}

#[test]
fn down_of_an_unknown_lab_names_those_there_are() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let removed = switchman(&["lab", "down", "--name", "never-built"]);
    let text = String::from_utf8_lossy(&removed.stderr).into_owned();
    assert_eq!(removed.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: cannot remove the lab `never-built`: there is no such lab; "), "{text}");
}
