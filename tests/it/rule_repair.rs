//! The host survives: the real agent restores the rules on the real kernel, whichever program removes them. Each test has a
//! network namespace of its own. Repairs are waited for, never timed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchman::model::history::HistoryEntry;
use switchman::model::ports::Port;
use switchman::model::rules::{DesiredRules, Family, Redirect, RedirectKind, Table, Variant};
use switchman::plan::firewall::plan_transactions;
use switchman::sys::iptables::Iptables;
use switchman::sys::store::SqliteStore;
use switchman::world::firewall::Firewall;
use switchman::world::store::Store;
use tokio::time::Instant;

use crate::testing::run_in_namespace;

mod other_programs;
mod traffic;

const BOTH: [Variant; 2] = [Variant::NfTables, Variant::Legacy];
/// Only ends a test that would hang.
const BOUND: Duration = Duration::from_mins(1);

/// A host with a main vhost on 8080, its forward on or off, and an agent that keeps it so.
struct Stage {
    dir: tempfile::TempDir,
    agent: Option<Child>,
    on: bool,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

fn command(program: &str) -> Command {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    Command::new(program)
}

/// The main vhost: 200 to everything.
fn main_vhost() {
    for address in ["0.0.0.0:8080", "[::1]:8080"] {
        let main = TcpListener::bind(address).unwrap();
        std::thread::spawn(move || {
            for stream in main.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
    }
}

/// A rule of another program in each family, which also decides in which variant ours go.
const THEIRS: &str = "-p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22";

impl Stage {
    /// Inside a namespace.
    async fn new(variant: Variant, on: bool) -> Self {
        main_vhost();
        let infix = variant.infix();
        sh(&format!(
            "iptables-{infix} -t nat -A PREROUTING {THEIRS}; ip6tables-{infix} -t nat -A PREROUTING {THEIRS}"
        ));
        let mut stage = Self { dir: tempfile::tempdir().unwrap(), agent: None, on };
        stage.configure("service: shop\n");
        stage.run(&["enable-forward", "--no-wait", "--host", "web1"]);
        if !on {
            stage.run(&["disable-forward", "--no-wait", "--force", "--host", "web1"]);
        }
        stage.start().await;
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.path("switchman.yaml"), text).unwrap();
    }

    fn switchman(&self) -> Command {
        let mut switchman = command(env!("CARGO_BIN_EXE_switchman"));
        switchman.arg("--config").arg(self.path("switchman.yaml")).arg("--state-dir").arg(self.path("state"));
        switchman.env("XTABLES_LOCKFILE", self.path("xtables.lock"));
        switchman
    }

    fn run(&self, args: &[&str]) -> Output {
        let output = self.switchman().args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    }

    async fn start(&mut self) {
        let log = std::fs::File::create(self.path("agent.log")).unwrap();
        let mut agent = self.switchman();
        agent.arg("agent").arg("--socket").arg(self.path("agent.sock"));
        agent.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.agent = Some(agent.spawn().unwrap());
        self.until("the agent serves", async || {
            tokio::net::UnixStream::connect(self.path("agent.sock")).await.is_ok()
        })
        .await;
    }

    /// Ends the agent as systemd does.
    fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        kill(Pid::from_raw(i32::try_from(agent.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(agent.wait().unwrap().success(), "{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap()
    }

    fn repairs(&self) -> Vec<HistoryEntry> {
        let history = SqliteStore::new(self.path("state")).load_history(None, 1000).unwrap();
        history.into_iter().filter(|row| row.action == "repair").collect()
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + BOUND;
        while !holds().await {
            assert!(Instant::now() < deadline, "{what}: {}\n{}", self.log(), listing());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether the kernel is as recorded.
    async fn is_as_recorded(&self) -> bool {
        let port = |number| Port::new(number).unwrap();
        let service = "shop".parse().unwrap();
        let forward = Redirect {
            service,
            kind: RedirectKind::Forward,
            one_in: 1,
            port: port(8888),
            target: port(8080),
        };
        let redirects = self.on.then_some(forward).into_iter().collect();
        let desired = DesiredRules { redirects, balancer_is_local: false };
        for family in [Family::V4, Family::V6] {
            if !plan_transactions(&desired, &Iptables.nat(family).await.unwrap(), family).is_empty() {
                return false;
            }
        }
        true
    }

    /// Waits until kernel and history show the repair.
    async fn is_repaired(&self, what: &str) {
        self.until(what, async || !self.repairs().is_empty() && self.is_as_recorded().await).await;
        for row in self.repairs() {
            assert!(row.detail.starts_with("put back: "), "{what}: {row:?}");
            assert_eq!((row.service.as_str(), row.actor.pid), ("shop", self.agent.as_ref().unwrap().id()));
        }
    }
}

fn sh(script: &str) -> String {
    let output = command("sh").args(["-c", &format!("set -e; {script}")]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn listing() -> String {
    sh("iptables-nft-save 2>&1; ip6tables-nft-save 2>&1; nft list ruleset 2>&1")
}

/// The nat rules that are not ours, of both families.
async fn theirs(variant: Variant) -> Vec<String> {
    let mut all = Vec::new();
    for family in [Family::V4, Family::V6] {
        let tables = Iptables.nat(family).await.unwrap();
        let rules = tables.of(variant).map(|table: &Table| table.rules.clone()).unwrap_or_default();
        all.extend(rules.iter().filter(|rule| !rule.is_ours()).map(ToString::to_string));
    }
    all
}

/// In every variant, in service and in maintenance: `harm` has `{4}` and `{6}` for the commands. What is left of other
/// people's rules is what `harm` left of them.
fn survives(harm: &'static str, variants: &'static [Variant], left: &'static [&'static str]) {
    for variant in variants.iter().copied() {
        for on in [true, false] {
            run_in_namespace(move || async move {
                let mut stage = Stage::new(variant, on).await;
                let infix = variant.infix();
                let script = harm.replace("{4}", &format!("iptables-{infix}"));
                sh(&script.replace("{6}", &format!("ip6tables-{infix}")));
                let what = format!("{harm} ({variant}, {})", if on { "on" } else { "off" });
                stage.is_repaired(&what).await;
                let left: Vec<&str> = [left, left].concat();
                assert_eq!(theirs(variant).await, left, "{what}");
                stage.stop();
            });
        }
    }
}

const THEIR_RULE: &str = "-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22";

#[test]
fn flush_of_all_rules_is_repaired() {
    survives("for t in filter nat mangle; do {4} -t $t -F; {6} -t $t -F; done", &BOTH, &[]);
}

#[test]
fn flush_of_prerouting_is_repaired() {
    survives("{4} -t nat -F PREROUTING; {6} -t nat -F PREROUTING", &BOTH, &[]);
}

#[test]
fn flush_of_nftables_ruleset_is_repaired() {
    survives("nft flush ruleset", &[Variant::NfTables], &[]);
}

#[test]
fn iptables_restore_of_other_rules_is_repaired() {
    survives(
        "text=$(printf '*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT \
         --to-ports 22\nCOMMIT\n_'); echo \"${text%_}\" | {4}-restore; echo \"${text%_}\" | {6}-restore",
        &BOTH,
        &[THEIR_RULE],
    );
}

#[test]
fn deletion_of_one_rule_is_repaired() {
    survives("{4} -t nat -D SWITCHMAN 1; {6} -t nat -D SWITCHMAN 1", &BOTH, &[THEIR_RULE]);
}

#[test]
fn foreign_rule_in_chain_is_removed() {
    survives(
        "{4} -t nat -I SWITCHMAN -p tcp --dport 9 -j ACCEPT; {6} -t nat -I SWITCHMAN -p tcp --dport 9 -j ACCEPT",
        &BOTH,
        &[THEIR_RULE],
    );
}

/// A forward that is written by hand into our chain does not end a maintenance.
#[test]
fn forward_added_during_maintenance_is_removed() {
    run_in_namespace(|| async {
        let stage = Stage::new(Variant::NfTables, false).await;
        sh(
            "iptables -t nat -A SWITCHMAN -p tcp -m tcp --dport 8888 -m comment --comment switchman:shop:forward \
            -j REDIRECT --to-ports 8080",
        );
        stage.is_repaired("a forward by hand").await;
        assert!(
            stage.repairs()[0]
                .detail
                .contains("the forward 8888 -> 8080 was there against the record (IPv4)")
        );
    });
}

/// Rows: D34.
#[test]
fn agent_restores_rules_at_start() {
    for variant in BOTH {
        run_in_namespace(move || async move {
            let mut stage = Stage::new(variant, true).await;
            stage.stop();
            let infix = variant.infix();
            sh(&format!("iptables-{infix} -t nat -F; ip6tables-{infix} -t nat -F"));
            assert!(!stage.is_as_recorded().await);
            stage.start().await;
            stage.until("restored", async || stage.is_as_recorded().await).await;
            let last = async || {
                let history = SqliteStore::new(stage.path("state")).load_history(None, 1).unwrap();
                history.last().is_some_and(|row| row.action == "restore")
            };
            stage.until("told", last).await;
            assert_eq!(stage.repairs(), []);
        });
    }
}

/// The kernel also reports switches by commands and through the agent. None of them is drift.
#[test]
fn own_switches_are_not_repaired() {
    for variant in BOTH {
        run_in_namespace(move || async move {
            let mut stage = Stage::new(variant, true).await;
            for _ in 0..10 {
                stage.run(&["disable-forward", "--no-wait", "--force", "--host", "web1"]);
                stage.run(&["enable-forward", "--no-wait", "--host", "web1"]);
            }
            // The earlier reports are handled before the last change.
            sh(&format!("iptables-{} -t nat -F SWITCHMAN", variant.infix()));
            stage.is_repaired("a flush").await;
            assert_eq!(stage.repairs().len(), 1, "{}", stage.log());
            stage.stop();
        });
    }
}

/// Endless flushes by another program are repaired with a growing delay, not in a loop of our own.
#[test]
fn repeated_changes_are_repaired_with_growing_delay() {
    run_in_namespace(|| async {
        let stage = Stage::new(Variant::NfTables, true).await;
        for _ in 0..150 {
            sh("iptables -t nat -F SWITCHMAN");
        }
        stage.is_repaired("the last flush").await;
        // Five at once, then after 1, 2, 4, 8, 16 and 30 s: for more than this the flushes would have to take minutes.
        assert!(stage.repairs().len() <= 14, "{}", stage.log());
    });
}

#[test]
fn status_shows_repair_and_no_drift() {
    run_in_namespace(|| async {
        let stage = Stage::new(Variant::NfTables, true).await;
        sh("iptables -t nat -F; ip6tables -t nat -F");
        stage.is_repaired("a flush").await;
        let status = stage.run(&["status", "--host", "web1", "--output", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        let text = status.to_string();
        assert!(text.contains(r#""action":"repair""#) && text.contains(r#""drift":[]"#), "{text}");
    });
}
