//! Newer HAProxies, whose servers can start DOWN after every change: `make haproxy-versions` puts them into the PATH.

use switchman::lab::demo::release::write_release;
use switchman::lab::operator::LabTransport;

use crate::site::{Plan, Site};
use crate::testing::can_make_namespaces;

const OLD: &str = "4.0.0";
const NEW: &str = "5.0.0";
const HOSTS: [&str; 2] = ["web1", "web2"];

/// Whether the HAProxy of the PATH has `init-state` (3.1 and later).
fn has_init_state() -> bool {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    let output = std::process::Command::new("haproxy").arg("-v").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (3, 1)
}

/// Two versions on two hosts, every kind of load, and servers of HAProxy with more keywords.
async fn up(name: &str, server_keywords: &'static str) -> Site {
    let yaml = "versions: {watch: 0s}\n";
    let pipe = LabTransport::Socket;
    let plan =
        Plan { hosts: 2, pipe, all_kinds: true, yaml, admin: true, server_keywords, ..Plan::default() };
    let site = Site::up(name, plan).await;
    for version in [OLD, NEW] {
        let source = write_release(&site.lab, version).unwrap().display().to_string();
        site.well(&["deploy", "shop", version, &source, "--", "sh", "serve.sh"]).await;
    }
    site
}

async fn until_answered(site: &Site, phase: &str, version: &str) {
    site.load.set_phase(phase);
    let count = |host: &str| site.load.take_snapshot().count_answers(phase, host, "main", Some(version));
    let known = HOSTS.map(count);
    site.until("answers of the new main", async || {
        HOSTS.iter().zip(known).all(|(host, known)| count(host) > known + 10)
    })
    .await;
}

/// Returns how many later requests another version answered. A connection with a request in flight during the flush is used
/// again afterwards, and a server that starts DOWN is not flushed twice.
async fn flip(site: &Site, version: &str) -> u64 {
    site.well(&["assign", "shop", version, "--strategy", "flip", "--yes"]).await;
    // Threads of HAProxy close their idle connections one after another: the first requests can still find one.
    until_answered(site, "closing", version).await;
    let phase = format!("flipped to {version}");
    until_answered(site, &phase, version).await;
    let answers = site.load.take_snapshot().answers_by_start_phase;
    let others = answers.iter().filter(|((began, by), _)| *began == phase && by != version);
    let others = others.map(|(_, count)| count).sum();
    site.load.set_phase("between");
    others
}

/// Waits until the proxies of both hosts have answered users.
async fn until_proxied(site: &Site) {
    for host in HOSTS {
        site.until("answers through the proxy", async || {
            let service = site.asked(host, "/v1/proxy").await["services"][0].clone();
            let upstreams = service["upstreams"].as_array().cloned().unwrap_or_default();
            let count = |upstream: &serde_json::Value| {
                let answers = upstream["answers"].as_object().cloned().unwrap_or_default();
                answers.values().filter_map(serde_json::Value::as_u64).sum::<u64>()
            };
            upstreams.iter().map(count).sum::<u64>() > 50
        })
        .await;
    }
}

/// A flip lost 144 of 2,736 requests on 3.4.7 and a mirror 59 of 3,439 on 3.2.26 while switchman flushed both hosts at once
/// (issue 11, A6; configuration manual 3.2, 5.2, `init-state`).
async fn change_everything(name: &str, server_keywords: &'static str) {
    if !can_make_namespaces() || !has_init_state() {
        return;
    }
    let site = up(name, server_keywords).await;
    for turn in 0..3 {
        for version in [NEW, OLD] {
            let others = flip(&site, version).await;
            assert!(others == 0 || !server_keywords.is_empty(), "{others} by another version than {version}");
        }
        site.load.set_phase(&format!("mirror {turn}"));
        site.well(&["mirror", "shop", NEW, "--no-wait"]).await;
        until_proxied(&site).await;
        site.well(&["mirror", "shop", NEW, "--off"]).await;
        site.load.set_phase(&format!("canary {turn}"));
        site.well(&["canary", "shop", NEW, "--percent", "25"]).await;
        until_proxied(&site).await;
        site.well(&["canary", "shop", NEW, "--off"]).await;
    }
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HAProxy 3.1 or later: make haproxy-versions"]
async fn servers_that_start_down_lose_no_request() {
    change_everything("down", "init-state down").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HAProxy 3.1 or later: make haproxy-versions"]
async fn servers_that_start_fully_down_lose_no_request() {
    change_everything("fully", "init-state fully-down").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HAProxy 3.1 or later: make haproxy-versions"]
async fn servers_of_newer_haproxies_lose_no_request() {
    change_everything("newer", "").await;
}
