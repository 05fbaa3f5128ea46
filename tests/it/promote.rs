//! Promotions on hosts under load: real proxies count, real versions are good or bad, no client is refused.

use nix::sys::signal::Signal;
use serde_json::Value;
use switchman::lab::demo::release::write_faulty_release;
use switchman::lab::load::FailureReason;
use switchman::lab::operator::LabTransport;
use switchman::sys::exec::Output;

use crate::site::{Plan, Site};
use crate::testing::can_make_namespaces;

const MAIN: &str = "4.0.0";
const NEW: &str = "5.0.0";
const HOSTS: [&str; 2] = ["web1", "web2"];

/// Main on two hosts, and a new version whose program gets these flags.
async fn up(name: &str, flags: &str) -> Site {
    let yaml = "versions: {watch: 0s}\n";
    let plan = Plan { hosts: 2, pipe: LabTransport::Socket, yaml, admin: true, ..Plan::default() };
    let site = Site::up(name, plan).await;
    for (version, flags) in [(MAIN, ""), (NEW, flags)] {
        let source = write_faulty_release(&site.lab, version, flags).unwrap().display().to_string();
        site.well(&["deploy", "shop", version, &source, "--", "sh", "serve.sh"]).await;
    }
    site
}

/// Few seconds a step. A machine at work is slow at times, whichever version answers: latency is the subject of other tests.
const TERMS: [&str; 5] = ["--interval", "3s", "--min-samples", "10", "--any-latency"];

fn with_terms<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["promote", "shop", NEW], args, &TERMS[..]].concat()
}

async fn standing(site: &Site) -> Value {
    site.json(&["promote", "shop", "--status"]).await["progress"].clone()
}

/// Main, and what each host's canary is given.
async fn hosts(site: &Site) -> Vec<(String, Value)> {
    let mut all = vec![];
    for host in HOSTS {
        let services = site.asked(host, "/v1/services").await;
        let listing = site.json(&["ls", "shop", "--host", host]).await;
        let rows = listing["rows"].as_array().unwrap();
        let main = rows.iter().find(|row| row["main"] == true).unwrap()["version"].as_str().unwrap();
        all.push((main.to_owned(), services[0]["layer7"]["traffic_split"]["canary"]["percent"].clone()));
    }
    all
}

async fn all_are(site: &Site, main: &str, share: Value) {
    assert_eq!(hosts(site).await, vec![(main.to_owned(), share); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn good_version_is_promoted_under_load() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("good", "").await;
    let told = site.well(&with_terms(&["--steps", "30,60,100"])).await;
    assert!(told.contains("promoted: no worse than main at every share"), "{told}");
    all_are(&site, NEW, Value::Null).await;
    site.load.set_phase("promoted");
    for host in HOSTS {
        site.until("answers of the new main", async || {
            site.load.take_snapshot().count_answers("promoted", host, "main", Some(NEW)) > 10
        })
        .await;
    }
    let stands = standing(&site).await;
    let counted = |step: usize| stands["steps"][step]["judgement"]["canary"]["requests"].as_u64().unwrap();
    assert!((0..3).all(|step| counted(step) >= 10), "{stands}");
    site.down_without_loss().await;
}

/// The canary answers one request of twenty with 500; its health check does not show it.
#[tokio::test(flavor = "multi_thread")]
async fn version_with_errors_is_rolled_back_with_reason() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("bad", "--fault errors").await;
    let ended = site.run(&with_terms(&["--steps", "30,100"])).await;
    taken_back(&site, &ended, "requests to the canary failed").await;
    // Ended is ended.
    for verb in ["--resume", "--abort", "--approve"] {
        let refused = site.run(&["promote", "shop", verb]).await;
        assert!(refused.status == 1 && refused.stderr.contains("is finished"), "{}", refused.stderr);
    }
    // A client of the canary may have got a 500; afterwards no client does.
    site.load.set_phase("returned");
    for host in HOSTS {
        site.until("answers of main", async || {
            site.load.take_snapshot().count_answers("returned", host, "main", Some(MAIN)) > 50
        })
        .await;
    }
    assert_eq!(site.load.take_snapshot().count_answers_by_others("returned", MAIN), 0);
    let account = site.down().await;
    let (report, seen) = (&account.report, format!("{:?} {:#?}", account.report.failures, account.clues));
    assert_eq!((report.strays, account.failed_in("returned")), (0, 0), "{seen}");
    // Only the answers of the version itself to the clients of the canary.
    assert!(report.failures.iter().all(|(failed, _)| failed.reason == FailureReason::Status(500)), "{seen}");
    let named: u64 = report.failures.iter().map(|(_, count)| count).sum();
    assert!(
        named > 0 && named == report.total_failed(),
        "{named} of {} have a reason: {seen}",
        report.total_failed()
    );
}

/// Every answer takes twice as long, and none fails.
#[tokio::test(flavor = "multi_thread")]
async fn slow_version_is_rolled_back_with_reason() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("slow", "--fault slow").await;
    let terms = ["--steps", "50,100", "--interval", "5s", "--min-samples", "50"];
    let ended = site.run(&[&["promote", "shop", NEW], &terms[..]].concat()).await;
    taken_back(&site, &ended, "the canary's p99 is").await;
    site.down_without_loss().await;
}

/// The shadow answers one request of ten with another price: detected while it is a shadow, so that no user gets one.
#[tokio::test(flavor = "multi_thread")]
async fn version_with_other_answers_is_rolled_back_before_first_step() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("differs", "--fault prices").await;
    site.well(&["mirror", "shop", NEW, "--percent", "100"]).await;
    site.load.set_phase("judged");
    let ended = site.run(&with_terms(&["--steps", "30,100", "--require-match", "99%"])).await;
    taken_back(&site, &ended, "its answers differ from main's: ").await;
    assert_eq!(site.load.take_snapshot().count_answers_by_others("judged", MAIN), 0);
    site.down_without_loss().await;
}

async fn taken_back(site: &Site, ended: &Output, reason: &str) {
    let named = format!("error: cannot promote shop {NEW}: ");
    let told = ended.stderr.lines().find(|line| line.starts_with(&named)).unwrap_or_default();
    assert!(ended.status == 1 && told.contains(reason), "{}{}", ended.stdout, ended.stderr);
    all_are(site, MAIN, Value::Null).await;
}

/// Commands from other terminals approve each step, or abort the promotion. An interrupted promotion leaves no canary; a
/// killed one leaves its share, which an abort removes.
#[tokio::test(flavor = "multi_thread")]
async fn promotion_is_approved_interrupted_resumed_killed_and_aborted() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("words", "").await;
    let waits = async |step: u64| {
        site.until("a step that waits", async || standing(&site).await["awaiting_approval"] == step).await;
    };
    let running = site.begin(&with_terms(&["--steps", "30,60", "--require-approval"]));
    waits(0).await;
    all_are(&site, MAIN, "30%".into()).await;
    // It holds the fleet.
    let held = site.run(&with_terms(&[])).await;
    assert!(held.status == 1 && held.stderr.contains(&format!("promote shop {NEW}")), "{}", held.stderr);
    assert!(held.stderr.contains("`switchman promote shop --abort` ends it"), "{}", held.stderr);
    site.well(&["promote", "shop", "--approve"]).await;
    waits(1).await;
    all_are(&site, MAIN, "60%".into()).await;
    running.signal(Signal::SIGINT);
    let (code, told) = running.ended().await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("--resume"), "{told}");
    all_are(&site, MAIN, Value::Null).await;

    let running = site.begin(&["promote", "shop", "--resume"]);
    waits(1).await;
    all_are(&site, MAIN, "60%".into()).await;
    running.signal(Signal::SIGKILL);
    let (code, told) = running.ended().await;
    assert_eq!(code, None, "{told}");
    all_are(&site, MAIN, "60%".into()).await;
    let status = site.well(&["promote", "shop", "--status"]).await;
    assert!(status.contains("NOT JUDGED"), "{status}");
    site.well(&["promote", "shop", "--abort"]).await;
    all_are(&site, MAIN, Value::Null).await;

    // Another process requests the end of a running promotion.
    let running = site.begin(&with_terms(&["--steps", "30,60", "--require-approval"]));
    waits(0).await;
    let told = site.well(&["promote", "shop", "--abort"]).await;
    assert!(told.contains("aborted"), "{told}");
    let (code, told) = running.ended().await;
    assert_eq!(code, Some(1), "{told}");
    all_are(&site, MAIN, Value::Null).await;
    site.down_without_loss().await;
}
