//! Agents that register their hosts in a real Consul: slots that two want, a Consul that lost everything, and an ACL token.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Site, command};
use crate::journal_store::servers::Servers;
use crate::testing::run_in_namespace;

/// An agent with a state of its own; it ends with the test.
struct Agent {
    child: Child,
    log: std::path::PathBuf,
}

impl Agent {
    fn start(site: &Site, host: &str, more: &[&str]) -> Self {
        let path = |name: &str| site.dir.path().join(format!("{host}{name}"));
        std::fs::write(path(".yaml"), "service: shop\nhosts: {consul: {service: shop}}\n").unwrap();
        let log = std::fs::File::options().create(true).append(true).open(path(".log")).unwrap();
        let mut agent = command(env!("CARGO_BIN_EXE_switchman"));
        agent.arg("--config").arg(path(".yaml")).arg("--state-dir").arg(path(".state"));
        agent.args(["--local", "agent", "--socket"]).arg(path(".sock"));
        agent.args(["--register", "consul://127.0.0.1:8500", "--register-host", host]).args(more);
        agent.env("XTABLES_LOCKFILE", path(".lock")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { child: agent.spawn().unwrap(), log: path(".log") }
    }

    fn read_log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn get(path: &str) -> Value {
    let url = format!("http://127.0.0.1:8500/v1/{path}");
    let answer = command("curl").args(["-s", &url]).output().unwrap();
    serde_json::from_slice(&answer.stdout).unwrap_or_default()
}

/// Each host with the tags of its entry.
fn list_slots() -> Vec<(String, String)> {
    let entries = get("health/service/shop");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let slot = |entry: &Value| {
        let service = &entry["Service"];
        (text(&service["Meta"]["switchman-host"]), text(&service["Tags"][0]))
    };
    let mut slots: Vec<_> = entries.as_array().into_iter().flatten().map(slot).collect();
    slots.sort();
    slots
}

async fn until(what: &str, is_met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !is_met() {
        assert!(Instant::now() < deadline, "{what}: {:?}", list_slots());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn slots(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(host, slot)| ((*host).to_owned(), (*slot).to_owned())).collect()
}

#[test]
fn two_hosts_race_for_one_slot_and_one_gets_it() {
    run_in_namespace(async || {
        let Some(_consul) = Servers::consul(1).await else { return };
        let site = Site::new();
        let one = ["--register-address", "10.9.0.1", "--register-slots", "1"];
        let two = ["--register-address", "10.9.0.2", "--register-slots", "1"];
        let agents = [Agent::start(&site, "web1", &one), Agent::start(&site, "web2", &two)];
        let is_decided =
            || agents.iter().any(|agent| agent.read_log().contains("all 1 slots of `shop` are taken"));
        until("one is refused", is_decided).await;
        until("both are listed", || list_slots().len() == 2).await;
        let taken: Vec<String> =
            list_slots().into_iter().map(|(_, slot)| slot).filter(|slot| !slot.is_empty()).collect();
        assert_eq!(taken, ["1"]);
        // The same name at another address is another machine, which changes nothing.
        let before = get("agent/services");
        let winner = list_slots().into_iter().find(|(_, slot)| slot == "1").unwrap().0;
        let copy_dir = Site { dir: tempfile::tempdir().unwrap(), haproxy: None };
        let copy = Agent::start(&copy_dir, &winner, &["--register-address", "10.9.0.9"]);
        until("the copy is refused", || copy.read_log().contains("the names of hosts have to differ")).await;
        assert_eq!(get("agent/services"), before);
    });
}

#[test]
fn slot_survives_agent_and_a_consul_that_lost_everything() {
    run_in_namespace(async || {
        let Some(consul) = Servers::consul(1).await else { return };
        let site = Site::new();
        // Another program's registration stays as it is.
        super::register("manual", "10.9.0.7", 1);
        let flags = ["--register-address", "10.9.0.1"];
        let agent = Agent::start(&site, "web1", &flags);
        let expected = slots(&[("manual", "1"), ("web1", "2")]);
        until("web1 has the free slot", || list_slots() == expected).await;
        drop(agent);
        assert_eq!(list_slots(), expected, "a stop of the agent changes nothing");
        let agent = Agent::start(&site, "web1", &flags);
        drop(consul);
        until("the agent reports it", || agent.read_log().contains("cannot register this host at Consul"))
            .await;
        let Some(_empty) = Servers::consul(1).await else { return };
        until("the host is back", || list_slots() == slots(&[("web1", "2")])).await;
        let warnings = agent.read_log().matches("cannot register this host").count();
        assert_eq!(warnings, 1, "{}", agent.read_log());
    });
}
