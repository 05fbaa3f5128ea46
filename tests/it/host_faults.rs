//! Bad input and faults against the real program and kernel: each ends with one clear error and an exit code, with kernel
//! and record agreeing. Every test has a network namespace of its own, with a main vhost on 8080.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::testing::run_in_namespace;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");

/// A host: a configuration, a state directory, a lock file, all in a directory of its own.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    /// Inside a namespace. The main vhost answers 200 to everything.
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // For programs that run as another user.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        std::fs::write(dir.path().join("switchman.yaml"), config).unwrap();
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            let main = TcpListener::bind(address).unwrap();
            std::thread::spawn(move || {
                for stream in main.incoming() {
                    let mut stream = stream.unwrap();
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                }
            });
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// switchman by way of other programs, such as `setpriv ... --`.
    fn via(&self, before: &[&str], args: &[&str]) -> Command {
        let whole: Vec<&str> = before.iter().copied().chain([SWITCHMAN]).collect();
        #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
        let mut command = Command::new(whole[0]);
        command.args(&whole[1..]).arg("--config").arg(self.path("switchman.yaml"));
        command.arg("--state-dir").arg(self.path("state")).args(args);
        command.env("XTABLES_LOCKFILE", self.path("xtables.lock"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.via(&[], args).output().unwrap()
    }

    fn start(&self, args: &[&str]) -> Child {
        self.via(&[], args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The recorded forward, the state in the kernel, and whether they agree.
    fn state(&self) -> (Option<String>, bool, bool) {
        let output = self.run(&["status", "--output", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let status = &status["hosts"][0]["view"]["value"];
        let recorded = status["record"]["value"]["switch"].as_str().map(str::to_owned);
        let on =
            status["kernel"]["value"].as_array().unwrap().iter().all(|family| !family["forward"].is_null());
        let rules_agree = !status["drift"].to_string().contains("differ from the record");
        (recorded, on, rules_agree)
    }
}

const ALONE: &str = "service: shop\n";
const BLIND_BALANCER: &str = "service: shop\nload_balancers:\n- {name: lb1, backend: servers}\n";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn shell(script: &str) -> Output {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    output
}

fn assert_fails(output: &Output, text: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", stderr(output));
    assert!(stderr(output).contains(text), "{}", stderr(output));
    assert_eq!(stderr(output).matches("error:").count(), 1, "one clear error: {}", stderr(output));
}

fn on() -> (Option<String>, bool, bool) {
    (Some("on".to_owned()), true, true)
}

#[test]
fn missing_iptables_is_reported_with_its_package() {
    run_in_namespace(|| async {
        let host = Host::new(ALONE);
        // Everything of /usr/sbin is hidden, in a mount namespace of the child's own.
        let hidden = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /usr/sbin && exec \"$@\"", "sh"];
        let output = host.via(&hidden, &["enable-forward"]).output().unwrap();
        assert_fails(&output, "`iptables` is not installed\n next: install it: `apt-get install iptables`");
        assert_eq!(host.state(), (None, false, true));
    });
}

#[test]
fn missing_privilege_is_reported() {
    run_in_namespace(|| async {
        let host = Host::new(ALONE);
        let nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--"];
        let output = host.via(&nobody, &["enable-forward"]).output().unwrap();
        assert_fails(&output, "needs the capability `CAP_NET_ADMIN`");
        assert_eq!(host.state(), (None, false, true));
    });
}

#[test]
fn held_xtables_lock_ends_in_timeout() {
    run_in_namespace(|| async {
        let host = Host::new(ALONE);
        // The rules of this host are legacy ones: nf_tables takes no lock.
        assert!(shell("iptables-legacy -t nat -N SWITCHMAN").status.success());
        assert!(host.run(&["enable-forward"]).status.success());
        let file = std::fs::File::create(host.path("xtables.lock")).unwrap();
        let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let output = host.run(&["disable-forward"]);
        drop(held);
        assert_fails(&output, "another process holds the xtables lock");
        assert_eq!(host.state(), on());
        let legacy = shell("iptables-legacy-save -t nat | grep -c 'switchman:shop:forward'");
        assert_eq!(String::from_utf8_lossy(&legacy.stdout).trim(), "1");
    });
}

/// A machine whose `iptables` is the legacy one: its rules go there, and nf_tables stays as it is.
#[test]
fn legacy_host_gets_legacy_rules() {
    run_in_namespace(|| async {
        let host = Host::new(ALONE);
        let bin = host.path("bin");
        std::fs::create_dir(&bin).unwrap();
        for command in ["iptables", "ip6tables"] {
            let target = std::fs::canonicalize(format!("/usr/sbin/{command}-legacy")).unwrap();
            std::os::unix::fs::symlink(target, bin.join(command)).unwrap();
        }
        let path = format!("{}:/usr/sbin:/usr/bin:/bin", bin.display());
        let run = |args: &[&str]| host.via(&[], args).env("PATH", &path).output().unwrap();
        let holds = |variant: &str| {
            let found = shell(&format!("iptables-{variant}-save -t nat; ip6tables-{variant}-save -t nat"));
            String::from_utf8_lossy(&found.stdout).matches("switchman:shop:forward").count()
        };
        assert!(run(&["enable-forward"]).status.success());
        assert_eq!((holds("legacy"), holds("nft")), (2, 0), "IPv4 and IPv6");
        // Later `iptables` becomes the other one: switchman follows the rules, not the name.
        assert!(host.run(&["disable-forward"]).status.success());
        assert_eq!((holds("legacy"), holds("nft")), (0, 0));
        assert!(host.run(&["enable-forward"]).status.success());
        assert_eq!((holds("legacy"), holds("nft")), (2, 0));
    });
}

#[test]
fn full_disk_changes_nothing() {
    run_in_namespace(|| async {
        let host = Host::new(ALONE);
        assert!(host.run(&["enable-forward"]).status.success());
        let small = "mount -t tmpfs -o size=64k none \"$STATE\" && cp \"$OLD\"/* \"$STATE\" && \
                     { head -c 1M /dev/zero > \"$STATE/filler\" 2>/dev/null; exec \"$@\"; }";
        let old = host.path("old");
        std::fs::rename(host.path("state"), &old).unwrap();
        std::fs::create_dir(host.path("state")).unwrap();
        let mut command = host.via(&["unshare", "--mount", "sh", "-c", small, "sh"], &["disable-forward"]);
        let output = command.env("STATE", host.path("state")).env("OLD", &old).output().unwrap();
        assert_fails(&output, "is full");
        std::fs::remove_dir_all(host.path("state")).unwrap();
        std::fs::rename(old, host.path("state")).unwrap();
        assert_eq!(host.state(), on(), "the kernel was not touched");
    });
}

#[test]
fn newer_or_damaged_state_file_is_refused() {
    run_in_namespace(|| async {
        let host = Host::new(ALONE);
        assert!(host.run(&["enable-forward"]).status.success());
        let file = host.path("state/state.db");
        let newer = rusqlite::Connection::open(&file).unwrap();
        let known: i64 = newer.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        let words = format!("has schema 99; this switchman reads up to {known}");
        assert_fails(&host.run(&["disable-forward"]), &words);
        newer.pragma_update(None, "user_version", known).unwrap();
        drop(newer);
        assert_eq!(host.state(), on());
        std::fs::write(&file, "no database at all ".repeat(100)).unwrap();
        assert_fails(&host.run(&["disable-forward"]), "is damaged");
        std::fs::remove_file(&file).unwrap();
        // The forward in the kernel is kept and recorded again.
        assert!(host.run(&["enable-forward"]).status.success());
        assert_eq!(host.state(), on());
    });
}

#[test]
fn two_switches_at_once_end_in_state_of_one() {
    run_in_namespace(|| async {
        let host = Host::new(ALONE);
        for _ in 0..20 {
            let (mut one, mut two) = (host.start(&["enable-forward"]), host.start(&["disable-forward"]));
            for child in [&mut one, &mut two] {
                let status = child.wait().unwrap();
                let mut text = String::new();
                child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                assert!(
                    status.success() || text.contains("another command switched the forward"),
                    "{status}: {text}"
                );
            }
            let (recorded, on, agree) = host.state();
            assert!(agree);
            assert_eq!(recorded.as_deref(), Some(if on { "on" } else { "off" }));
        }
    });
}

#[test]
fn ctrl_c_at_any_time_leaves_kernel_and_record_equal() {
    run_in_namespace(|| async {
        let host = Host::new(BLIND_BALANCER);
        for step in 0..40u64 {
            let command = if step % 2 == 0 { "enable-forward" } else { "disable-forward" };
            let mut child = host.start(&[command]);
            after(step);
            nix::sys::signal::kill(pid(&child), nix::sys::signal::Signal::SIGINT).unwrap();
            let status = child.wait().unwrap();
            // Before the program listens for it, the signal ends it.
            assert!(status.code().is_none_or(|code| code == 1), "{status}");
            let (recorded, on, agree) = host.state();
            assert!(agree, "step {step}");
            assert!(recorded.is_none_or(|recorded| recorded == if on { "on" } else { "off" }), "step {step}");
        }
        let output = host.run(&["history", "-n", "1000"]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("done"), "some got through");
    });
}

#[test]
fn kill_at_any_time_is_shown_and_restored() {
    run_in_namespace(|| async {
        let host = Host::new(BLIND_BALANCER);
        for step in 0..40u64 {
            let command = if step % 2 == 0 { "enable-forward" } else { "disable-forward" };
            let mut child = host.start(&[command]);
            after(step);
            child.kill().unwrap();
            child.wait().unwrap();
            let (recorded, ..) = host.state();
            let restored = host.run(&["restore"]);
            assert!(restored.status.success(), "{}", stderr(&restored));
            let (still, on, agree) = host.state();
            assert!(agree && still == recorded, "step {step}");
            assert!(recorded.is_none_or(|recorded| recorded == if on { "on" } else { "off" }), "step {step}");
        }
    });
}

/// A load balancer that takes the question and answers with these bytes, or never.
fn balancer(answer: Option<&'static [u8]>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            match answer {
                Some(bytes) => drop(stream.write_all(bytes)),
                None => silent.push(stream),
            }
        }
    });
    port
}

#[test]
fn unreadable_balancer_is_refused() {
    run_in_namespace(|| async {
        let half: &[u8] = &include_bytes!("../fixtures/haproxy/up.txt")[..2000];
        let cases = [
            (Some(&b"220 mail.example ESMTP\r\n"[..]), "is not HAProxy statistics"),
            (Some(half), "ended early, after 2000 bytes"),
            (Some(b""), "ended early, after 0 bytes"),
            (None, "no answer from"),
        ];
        let host = Host::new(ALONE);
        assert!(host.run(&["enable-forward"]).status.success());
        for (answer, text) in cases {
            let port = balancer(answer);
            let config = format!(
                "service: shop\nload_balancers:\n- {{name: lb1, backend: servers, haproxy: \"tcp://127.0.0.1:{port}\", on_host: false}}\n"
            );
            std::fs::write(host.path("switchman.yaml"), config).unwrap();
            let output = host.run(&["disable-forward"]);
            assert_fails(&output, "`lb1` cannot be read: ");
            assert!(stderr(&output).contains(text), "{}", stderr(&output));
            assert_eq!(host.state(), on());
        }
    });
}

fn pid(child: &Child) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// A moment of its own for every step: the whole of a switch takes some 40 ms. Not a wait for anything.
fn after(step: u64) {
    let until = std::time::Instant::now() + Duration::from_micros(step * 1500);
    while std::time::Instant::now() < until {
        std::thread::yield_now();
    }
}

#[test]
fn wrong_usage_and_wrong_configuration_exit_with_2() {
    run_in_namespace(|| async {
        let host = Host::new("service: shop\nports: {chekc: 1}\n");
        let output = host.run(&["status"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("did you mean `check`?"), "{}", stderr(&output));
        assert_eq!(host.run(&["no-such-command"]).status.code(), Some(2));
        std::fs::remove_file(host.path("switchman.yaml")).unwrap();
        assert_eq!(host.run(&["status"]).status.code(), Some(2));
    });
}

#[test]
fn enable_refuses_when_main_vhost_is_unhealthy() {
    run_in_namespace(|| async {
        let host = Host::new("service: shop\nports: {main: 8081}\n");
        assert_fails(
            &host.run(&["enable-forward"]),
            "the main vhost is not healthy: cannot connect to 127.0.0.1:8081",
        );
        let forced = host.run(&["enable-forward", "--force"]);
        assert!(
            forced.status.success() && stderr(&forced).contains("overridden by --force"),
            "{}",
            stderr(&forced)
        );
    });
}

/// The check port answers what the real port answers, and is refused (not dropped) without the rule.
#[test]
fn forward_reaches_data_port_and_off_refuses_connections() {
    run_in_namespace(|| async {
        let host = Host::new("service: shop\nload_balancers:\n- {name: lb1, backend: b, on_host: true}\n");
        for address in ["127.0.0.1", "[::1]"] {
            let script =
                format!("curl -s -o /dev/null -w '%{{http_code}}' -m 5 http://{address}:8888/; echo \" $?\"");
            let ask = || String::from_utf8_lossy(&shell(&script).stdout).trim().to_owned();
            assert_eq!(ask(), "000 7", "{address}: refused");
            assert!(host.run(&["enable-forward", "--no-wait"]).status.success());
            assert_eq!(ask(), "200 0", "{address}");
            assert!(host.run(&["disable-forward", "--no-wait"]).status.success());
            assert_eq!(ask(), "000 7", "{address}: refused again");
        }
    });
}
