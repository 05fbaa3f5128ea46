//! The files that `init` writes are accepted by the programs that read them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");

#[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
fn run(dir: &Path, program: &str, args: &[&str]) -> Output {
    // Where Debian keeps the servers; a plain user's PATH may lack it.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Command::new(program).args(args).current_dir(dir).env("PATH", path).stdin(Stdio::null()).output().unwrap()
}

fn assert_accepts(output: &Output, what: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}{text}", String::from_utf8_lossy(&output.stdout));
}

/// Returns the flags for a network namespace of its own; a plain user needs a user namespace for it.
fn unshare_flags() -> &'static [&'static str] {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root { &["--net"] } else { &["--map-root-user", "--net"] }
}

fn init(dir: &Path, args: &[&str]) -> Output {
    run(dir, SWITCHMAN, &[&["init", "set", "--name", "shop"], args].concat())
}

const FLEETS: [&[&str]; 3] = [
    &["--host", "web1=10.0.0.11"],
    &[],
    &[
        "--host",
        "a=10.0.0.1",
        "--host",
        "b=10.0.0.2",
        "--host",
        "c=fd00::3",
        "--host",
        "d=fd00::4",
        "--host",
        "e=10.0.0.5",
    ],
];

#[test]
fn haproxy_accepts_generated_configuration_and_check_finds_nothing() {
    for fleet in FLEETS {
        let dir = tempfile::tempdir().unwrap();
        assert_accepts(&init(dir.path(), fleet), "init");
        assert_accepts(&run(dir.path(), "haproxy", &["-c", "-f", "set/haproxy.cfg"]), "haproxy -c");
        let args = [
            "--config",
            "set/switchman.yaml",
            "--state-dir",
            "state",
            "--local",
            "--output",
            "json",
            "check",
        ];
        let host = fleet.get(1).map_or("web1", |host| host.split('=').next().unwrap());
        // The hosts of the files are addresses that a network may have: no request leaves the namespace.
        let check = run(
            dir.path(),
            "unshare",
            &[
                unshare_flags(),
                &[SWITCHMAN],
                &args[..],
                &["--host", host, "--haproxy-cfg", "set/haproxy.cfg"],
            ]
            .concat(),
        );
        let found: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
        let of_file = |finding: &&serde_json::Value| {
            finding["severity"] != "ok" && finding["subject"].as_str().unwrap().starts_with("set/haproxy.cfg")
        };
        let traps: Vec<_> = found["findings"].as_array().unwrap().iter().filter(of_file).collect();
        // An IPv6 address is worth a note, not a fix.
        assert!(traps.iter().all(|finding| finding["id"] == "haproxy-ipv6"), "{traps:?}");
    }
}

/// The set with slots: HAProxy and our own lint accept it, and the agent accepts the flags of its unit.
#[test]
fn slots_of_consul_are_accepted_by_haproxy_lint_and_agent() {
    let dir = tempfile::tempdir().unwrap();
    let written = init(dir.path(), &["--discovery", "consul", "--slots", "3"]);
    assert_accepts(&written, "init");
    assert_accepts(&run(dir.path(), "haproxy", &["-c", "-f", "set/haproxy.cfg"]), "haproxy -c");
    let args = ["--config", "set/switchman.yaml", "--output", "json", "check", "--offline"];
    let check = run(dir.path(), SWITCHMAN, &[&args[..], &["--haproxy-cfg", "set/haproxy.cfg"]].concat());
    let found: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    let findings = found["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["severity"] == "ok"), "{findings:#?}");
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    let cfg = read("set/haproxy.cfg");
    let line = "    server backup-3 3.shop.service.consul:80 check port 80 cookie s3 backup\n";
    assert!(cfg.contains(line) && !cfg.contains("main-4") && cfg.contains("hold refused    24h"), "{cfg}");
    assert!(read("set/switchman.yaml").contains("\n  consul: {service: shop}\n"));
    let unit = read("set/systemd/switchman-register.conf");
    let flags: Vec<&str> = unit.trim_end().rsplit('\n').next().unwrap().split(' ').skip(2).collect();
    assert_eq!(flags[..2], ["--socket", "/run/switchman/agent.sock"]);
    let agent = [
        &["--config", "set/switchman.yaml", "--state-dir", "state", "agent"],
        &flags[2..],
        &["--socket", "agent.sock", "--register-address", "0.0.0.0"],
    ]
    .concat();
    let refused = run(dir.path(), SWITCHMAN, &agent);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("cannot register this host: `0.0.0.0` is no address"), "{error}");
}

/// Rows: Z1.
#[test]
fn web_servers_accept_generated_vhosts() {
    for (server, folder, ending) in
        [("nginx", "nginx", "conf"), ("apache", "apache", "conf"), ("caddy", "caddy", "Caddyfile")]
    {
        let dir = tempfile::tempdir().unwrap();
        assert_accepts(&init(dir.path(), &["--server", server]), "init");
        for role in ["main", "backup"] {
            let file = dir.path().join(format!("set/{folder}/{role}.{ending}")).display().to_string();
            let output = match server {
                "nginx" => run(dir.path(), "nginx", &["-t", "-c", &file]),
                "apache" => run(dir.path(), "apache2ctl", &["-t", "-f", &file]),
                _ => run(dir.path(), "caddy", &["validate", "--adapter", "caddyfile", "--config", &file]),
            };
            assert_accepts(&output, &format!("{server} {role}"));
        }
    }
}

/// The programs of the units are installed here; systemd itself does not run.
#[test]
fn systemd_accepts_generated_units() {
    for server in ["nginx", "apache", "caddy"] {
        let dir = tempfile::tempdir().unwrap();
        assert_accepts(&init(dir.path(), &["--server", server]), "init");
        let units = ["main", "backup"].map(|role| format!("set/systemd/shop-{role}.service"));
        let verified = run(dir.path(), "systemd-analyze", &["verify", "--man=no", &units[0], &units[1]]);
        assert_accepts(&verified, server);
        let text = String::from_utf8_lossy(&verified.stderr);
        assert!(!text.contains("shop-"), "{server}: {text}");
        let main = std::fs::read_to_string(dir.path().join(&units[0])).unwrap();
        assert!(
            main.contains("After=network.target switchman-restore.service shop-backup.service\n"),
            "{main}"
        );
    }
}

/// Seed row D3 (docs/design/seed-systems.md#mvi-and-daeploy): the question, word for word; the end of input is no answer
/// (seed row D12).
/// Rows: D3.
#[test]
fn init_prompts_for_name_and_aborts_at_end_of_input() {
    let dir = tempfile::tempdir().unwrap();
    let aborted = run(dir.path(), SWITCHMAN, &["init"]);
    assert_eq!(String::from_utf8_lossy(&aborted.stdout), "project_name [my_project]: ");
    assert!(
        String::from_utf8_lossy(&aborted.stderr).starts_with("error: Aborted!\n next: nothing was changed")
    );
    assert_eq!(aborted.status.code(), Some(1));
    let answered = run(dir.path(), "sh", &["-c", &format!("printf '../evil\\n\\n' | {SWITCHMAN} init")]);
    assert!(answered.status.success() && dir.path().join("my_project/haproxy.cfg").exists());
    assert!(String::from_utf8_lossy(&answered.stderr).contains("`../evil` is not a name"));
}

#[test]
fn init_replaces_nothing_without_force() {
    let dir = tempfile::tempdir().unwrap();
    assert_accepts(&init(dir.path(), &[]), "init");
    std::fs::write(dir.path().join("set/haproxy.cfg"), "mine").unwrap();
    let again = init(dir.path(), &[]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(dir.path().join("set/haproxy.cfg")).unwrap(), "mine");
    assert_accepts(&init(dir.path(), &["--force"]), "init --force");
}

#[test]
fn man_pages_completions_and_schema_are_written() {
    let dir = tempfile::tempdir().unwrap();
    assert_accepts(&run(dir.path(), SWITCHMAN, &["man", "man"]), "man");
    for page in ["switchman.1", "switchman-disable-forward.1", "switchman-check.1"] {
        let lint = run(dir.path(), "man", &["--warnings", "-l", &format!("man/{page}")]);
        assert!(
            lint.status.success() && lint.stderr.is_empty(),
            "{page}: {}",
            String::from_utf8_lossy(&lint.stderr)
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(dir.path(), SWITCHMAN, &["completions", shell]).stdout;
        assert!(String::from_utf8_lossy(&script).contains("SWITCHMAN_COMPLETE"), "{shell}");
    }
    let schema = run(dir.path(), SWITCHMAN, &["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["properties"]["load_balancers"]["type"], "array");
    // A reader that goes away is no failure.
    assert_accepts(
        &run(dir.path(), "sh", &["-c", &format!("{SWITCHMAN} completions bash | head -n 1")]),
        "| head",
    );
}
