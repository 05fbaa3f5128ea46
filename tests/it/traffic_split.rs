//! Shadows and canaries on hosts under load: the proxy comes and goes unnoticed, and its death costs only the requests
//! inside it.

use std::collections::BTreeMap;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use switchman::lab::demo::release::write_release;
use switchman::lab::operator::LabTransport;

use crate::site::{Plan, Site};
use crate::testing::can_make_namespaces;

const MAIN: &str = "4.0.0";
const NEW: &str = "5.0.0";
const HOSTS: [&str; 2] = ["web1", "web2"];

/// Two versions on two hosts, every kind of load.
async fn up(name: &str) -> Site {
    let yaml = "versions: {watch: 0s}\n";
    let plan =
        Plan { hosts: 2, pipe: LabTransport::Socket, all_kinds: true, yaml, admin: true, ..Plan::default() };
    let site = Site::up(name, plan).await;
    for version in [MAIN, NEW] {
        let source = write_release(&site.lab, version).unwrap().display().to_string();
        site.well(&["deploy", "shop", version, &source, "--", "sh", "serve.sh"]).await;
    }
    site
}

/// The counters of a service in the proxy of a host; null if the proxy does not serve it.
async fn counted(site: &Site, host: &str) -> Value {
    let stats = site.asked(host, "/v1/proxy").await;
    stats["services"][0].clone()
}

fn sum(counts: &Value) -> u64 {
    counts.as_object().map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
}

/// The answers of one version to users.
fn answers(service: &Value, version: &str) -> u64 {
    let legs = service["upstreams"].as_array().cloned().unwrap_or_default();
    legs.iter().filter(|leg| leg["version"] == version).map(|leg| sum(&leg["answers"])).sum()
}

/// Requests of users that a version has answered, by the phase in which they began.
fn answered_by(site: &Site, version: &str) -> Vec<(String, u64)> {
    let begun = site.load.take_snapshot().answers_by_start_phase.into_iter();
    begun.filter(|((_, by), _)| by == version).map(|((phase, _), count)| (phase, count)).collect()
}

async fn is_inserted(site: &Site, host: &str) -> bool {
    site.asked(host, "/v1/services").await[0]["layer7"]["place"]["inserted"] == true
}

/// Requests pass through the proxy of every host.
async fn until_used(site: &Site) {
    until_answered(site, MAIN).await;
}

async fn until_answered(site: &Site, main: &str) {
    for host in HOSTS {
        let before = answers(&counted(site, host).await, main);
        site.until("answers through the proxy", async || {
            answers(&counted(site, host).await, main) > before + 10
        })
        .await;
    }
}

async fn comes_and_goes(name: &str, times: usize) {
    if !can_make_namespaces() {
        return;
    }
    let site = up(name).await;
    for turn in 0..times {
        site.load.set_phase(&format!("mirror {turn}"));
        site.well(&["mirror", "shop", NEW, "--no-wait"]).await;
        until_used(&site).await;
        site.well(&["mirror", "shop", NEW, "--off"]).await;
        for host in HOSTS {
            assert!(!is_inserted(&site, host).await);
        }
    }
    // The shadow answered no client.
    assert_eq!(answered_by(&site, NEW), []);
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_insertion_and_removal_lose_no_request() {
    comes_and_goes("comes", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a hundred times, in minutes: make soak"]
async fn hundred_proxy_insertions_lose_no_request() {
    comes_and_goes("hundred", 100).await;
}

/// Seed rows D1 and D32: every version gets the request, only main's answer comes back, and main waits for no other
/// version.
/// Rows: D32.
#[tokio::test(flavor = "multi_thread")]
async fn d1_d32_shadow_gets_copies_and_canary_answers_its_share() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("shares").await;
    site.well(&["mirror", "shop", NEW]).await;
    site.load.set_phase("mirrored");
    for host in HOSTS {
        site.until("copies", async || {
            let service = counted(&site, host).await;
            service["shadows"][0]["answered"].as_u64().unwrap_or(0) > 50
        })
        .await;
        let service = counted(&site, host).await;
        let shadow = &service["shadows"][0];
        let known = [&shadow["answered"], &shadow["in_flight"]].map(|count| count.as_u64().unwrap());
        let ended = known.iter().sum::<u64>() + sum(&shadow["failed"]) + sum(&shadow["aborted"]);
        assert_eq!(shadow["selected"].as_u64().unwrap(), ended, "{shadow}");
        assert_eq!(answers(&service, NEW), 0);
    }
    assert_eq!(answered_by(&site, NEW), []);

    // A version is one thing at a time.
    let refused = site.run(&["canary", "shop", NEW, "--percent", "25"]).await;
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("gets copies"), "{}", refused.stderr);
    site.well(&["mirror", "shop", NEW, "--off"]).await;

    let listing = site.well(&["canary", "shop", NEW, "--percent", "25"]).await;
    assert!(listing.contains("shadow, canary 25%"), "{listing}");
    for host in HOSTS {
        let both = async || {
            let service = counted(&site, host).await;
            [MAIN, NEW].map(|version| answers(&service, version))
        };
        let before = both().await;
        let mut since = [0, 0];
        site.until("a share for the canary", async || {
            let now = both().await;
            since = [now[0] - before[0], now[1] - before[1]];
            since.iter().sum::<u64>() >= 400
        })
        .await;
        // Exact by counting, less what is in flight.
        let [main, canary] = since;
        let percent = canary * 100 / (main + canary);
        assert!((20..=30).contains(&percent), "{canary} of {} were the canary's", main + canary);
    }
    // The canary becomes main, and with it the proxy goes.
    site.well(&["assign", "shop", NEW, "--strategy", "flip", "--yes"]).await;
    site.load.set_phase("assigned");
    site.until("answers of the new main", async || {
        HOSTS
            .iter()
            .all(|host| site.load.take_snapshot().count_answers("assigned", host, "main", Some(NEW)) > 10)
    })
    .await;
    for host in HOSTS {
        assert!(!is_inserted(&site, host).await);
    }
    assert_eq!(site.load.take_snapshot().count_answers_by_others("assigned", NEW), 0);
    site.down_without_loss().await;
}

/// kill -9 again and again: the rules point directly to main at once, the proxy comes back by itself, and only what was
/// inside the process when it died can have failed.
#[tokio::test(flavor = "multi_thread")]
async fn killed_proxy_fails_only_requests_inside_it() {
    deaths("deaths", 3, Signal::SIGKILL).await;
}

/// A hung proxy: its requests hang, new ones bypass it, and it is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn hung_proxy_is_bypassed_and_replaced() {
    deaths("hangs", 1, Signal::SIGSTOP).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "twenty deaths, each with a longer pause after it: a quarter of an hour, make soak"]
async fn proxy_killed_twenty_times_fails_only_requests_inside_it() {
    deaths("twenty", 20, Signal::SIGKILL).await;
}

/// Kills the proxy of web1. Returns the number of connections that its death ends: those that the kernel has for its ports, also the
/// ones that it has not accepted. New ones are held up until it is dead, so that none comes between the count and the death; the
/// sender repeats its SYN after a second (RFC 6298).
async fn kill_and_count_connections(site: &Site, pid: u64) -> u64 {
    let script = format!(
        "set -e
        ports=$(ss -Hltnp | grep 'pid={pid},' | awk '{{print $4}}' | sed 's/.*://' | sort -u)
        for port in $ports; do iptables -w -I INPUT -p tcp --syn --dport $port -j DROP; done
        kill -STOP {pid}
        for port in $ports; do ss -Htn state established state syn-recv \"( sport = :$port )\"; done | wc -l
        kill -KILL {pid}
        while [ -d /proc/{pid} ] && ! grep -q 'State:.Z' /proc/{pid}/status 2>/dev/null; do sleep 0.01; done
        for port in $ports; do iptables -w -D INPUT -p tcp --syn --dport $port -j DROP; done"
    );
    let count = site.inside("web1", &script).await.stdout;
    let count = count.trim().parse().unwrap();
    assert_ne!(count, 0, "users are connected");
    count
}

async fn deaths(name: &str, times: usize, signal: Signal) {
    if !can_make_namespaces() {
        return;
    }
    let site = up(name).await;
    site.well(&["mirror", "shop", NEW]).await;
    let mut inside = vec![];
    until_used(&site).await;
    for death in 0..times {
        site.load.set_phase(&format!("death {death}"));
        let pid = site.asked("web1", "/v1/proxy").await["pid"].as_u64().unwrap();
        if signal == Signal::SIGKILL {
            inside.push(kill_and_count_connections(&site, pid).await);
        } else {
            kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
            // A hung one goes on taking connections until the rules lead past it.
            inside.push(u64::MAX);
        }
        site.until("rules that lead straight at main", async || !is_inserted(&site, "web1").await).await;
        site.until("the proxy again", async || is_inserted(&site, "web1").await).await;
        site.load.set_phase(&format!("again {death}"));
        until_used(&site).await;
        assert_ne!(site.asked("web1", "/v1/proxy").await["pid"], pid);
    }
    let account = site.down().await;
    let seen = format!("{:?} {:#?}", account.report.failures, account.clues);
    let mut told = 0;
    for (death, inside) in inside.into_iter().enumerate() {
        let failed = account.failed_in(&format!("death {death}"));
        assert!(failed <= inside, "death {death}: {failed} failed, {inside} were inside: {seen}");
        told += failed;
    }
    // Neither before the first death nor once the proxy is back.
    assert_eq!(account.report.total_failed(), told, "{seen}");
}

/// The agent is killed and comes back: the proxy goes on without it. When both die, the agent that comes back finds no
/// proxy and points the rules directly to main before anything else.
/// Rows: D34.
#[tokio::test(flavor = "multi_thread")]
async fn proxy_survives_its_agent_and_rules_bypass_dead_proxy() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("agents").await;
    site.well(&["mirror", "shop", NEW]).await;
    until_used(&site).await;
    let pid = site.asked("web1", "/v1/proxy").await["pid"].clone();
    site.restart_agent("web1").await;
    until_used(&site).await;
    assert_eq!(site.asked("web1", "/v1/proxy").await["pid"], pid);
    // Rolling, with the proxy in place: requests afterwards reach the new main, on kept connections too.
    site.well(&["assign", "shop", NEW, "--yes"]).await;
    site.load.set_phase("assigned");
    site.until("answers of the new main", async || {
        HOSTS
            .iter()
            .all(|host| site.load.take_snapshot().count_answers("assigned", host, "main", Some(NEW)) > 10)
    })
    .await;
    assert_eq!(site.load.take_snapshot().count_answers_by_others("assigned", NEW), 0);
    for host in HOSTS {
        assert!(!is_inserted(&site, host).await, "the shadow became main");
    }
    site.well(&["mirror", "shop", MAIN]).await;
    until_answered(&site, NEW).await;
    site.well(&["disable-forward", "--host", "web1"]).await;
    let stats = site.asked("web1", "/v1/proxy").await;
    // No balancer makes new requests to the host; what was begun before may be under way, such as a websocket.
    let begun = ["in_flight", "upgraded"].map(|count| stats["services"][0][count].as_u64().unwrap());
    let inside: u64 = begun.iter().sum();
    let pid = stats["pid"].as_u64().unwrap();
    site.kill_agent("web1").await;
    site.inside("web1", &format!("kill -9 {pid}")).await;
    site.start_agent("web1").await;
    // It comes back by itself, and a maintenance stays one.
    site.until("the proxy again", async || is_inserted(&site, "web1").await).await;
    assert_eq!(site.asked("web1", "/v1/services").await[0]["switch"], "off");
    site.well(&["enable-forward", "--host", "web1"]).await;
    until_answered(&site, NEW).await;
    site.well(&["kill", "shop", MAIN, "--yes", "--drain-timeout", "20s"]).await;
    for host in HOSTS {
        assert!(!is_inserted(&site, host).await);
    }
    let account = site.down().await;
    let failed = account.report.total_failed();
    assert!(
        failed <= inside,
        "{failed} failed, {inside} were inside: {:?} {:#?}",
        account.report.failures,
        account.clues
    );
}

/// Sends `times` requests through HAProxy, one connection each; counts how often each version answered. All have to be
/// answered 200.
async fn asked_for(site: &Site, times: usize, header: &str) -> BTreeMap<String, usize> {
    let address = site.lab.targets()[0];
    // The part behind # is not sent: the same question, over and over.
    let all = format!(
        "curl -sS -o /dev/null -w '%{{http_code}} %header{{x-swm-version}}\\n' -H 'Host: shop.example' -H 'Connection: close' {header} 'http://{address}/#[1-{times}]'"
    );
    let told = site.inside("client", &all).await.stdout;
    let mut by = BTreeMap::new();
    for line in told.lines() {
        let (status, version) = line.split_once(' ').unwrap();
        assert_eq!(status, "200", "{line}");
        *by.entry(version.to_owned()).or_default() += 1;
    }
    by
}

/// Seed rows E1 to E3, E5, E6, E10, E11 (docs/design/seed-systems.md#exercise-9): one balancer before replicas of two
/// versions; the header selects the new version alone, with any value; the share grows step by step until the old one
/// answers no request. No configuration of HAProxy is touched and no client is refused.
/// Rows: E6, E7.
#[tokio::test(flavor = "multi_thread")]
async fn e1_to_e11_canary_by_header_then_by_weight_until_all_are_new() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("shopper").await;
    site.well(&["canary", "shop", NEW, "--header", "X-MISTERY-SHOPPER"]).await;
    let only = |version: &str, times: usize| BTreeMap::from([(version.to_owned(), times)]);
    for header in ["-H 'X-MISTERY-SHOPPER;'", "-H 'x-mistery-shopper: 1'"] {
        assert_eq!(asked_for(&site, 20, header).await, only(NEW, 20), "{header}");
    }
    assert_eq!(asked_for(&site, 20, "").await, only(MAIN, 20));
    site.well(&["canary", "shop", "--off"]).await;

    // By replicas: one host is new, HAProxy's weights make its share.
    let early = site.run(&["canary", "shop", NEW, "--percent", "25", "--via", "haproxy"]).await;
    assert_eq!(early.status, 1, "{}", early.stdout);
    assert!(early.stderr.contains("main on none of these hosts"), "{}", early.stderr);
    site.well(&["assign", "shop", NEW, "--host", "web2", "--yes"]).await;
    let mut before = 0;
    for (share, weights) in [("25", (100, 33)), ("50", (100, 100)), ("80", (25, 100)), ("100", (0, 100))] {
        let told = site.well(&["canary", "shop", NEW, "--percent", share, "--via", "haproxy"]).await;
        let view = site.view("lb1").await;
        let weight = |server: &str| view.find_server(server).unwrap().weight;
        assert_eq!((weight("main-web1"), weight("main-web2")), weights, "{told}");
        let by = asked_for(&site, 200, "").await;
        // Weighted round robin is exact; the load beside it takes turns as well, at worst as by chance: 3.5 times its deviation.
        let new = by.get(NEW).copied().unwrap_or(0);
        let wanted = share.parse::<usize>().unwrap() * 2;
        let bound = match share {
            "25" => 21,
            "50" => 24,
            "80" => 19,
            _ => 0,
        };
        assert!(new.abs_diff(wanted) <= bound && new > before, "{share} %: {by:?}, {before} before");
        before = new;
    }
    assert_eq!(asked_for(&site, 20, "").await, only(NEW, 20));
    // A host of weight 0 is no host for the capacity floor.
    site.well(&["canary", "shop", NEW, "--off", "--via", "haproxy"]).await;
    site.well(&["assign", "shop", NEW, "--yes"]).await;
    let view = site.view("lb1").await;
    assert!(["main-web1", "main-web2"].iter().all(|server| view.find_server(server).unwrap().weight == 100));
    assert_eq!(asked_for(&site, 20, "").await, only(NEW, 20));
    site.down_without_loss().await;
}
