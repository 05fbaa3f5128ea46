//! Versions side by side on real hosts under load: a service whose program returns its version, and one of static pages.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use switchman::lab::demo::release::write_release;
use switchman::lab::hosts::run_in_namespace;
use switchman::lab::operator::LabTransport;
use switchman::lab::{Lab, SECOND_SERVICE};

use crate::site::{MS, Plan, Site};
use crate::testing::can_make_namespaces;

mod altered;
mod backup_connections;
mod host_by_host;
mod instances;
mod killed;

const YAML: &str =
    "versions: {watch: 0s}\nservices:\n  blog: {ports: {check: 8889, main: 8081, backup: 81}}\n";
const VERSIONS: [&str; 3] = ["4.0.0", "5.0.0", "6.0.0"];

async fn up(name: &str, pipe: LabTransport, hosts: u8) -> Site {
    let plan = Plan { hosts, pipe, all_kinds: true, yaml: YAML, admin: true, ..Plan::default() };
    Site::up(name, plan).await
}

async fn deploy_shop(site: &Site, version: &str) -> String {
    let source = write_release(&site.lab, version).unwrap().display().to_string();
    site.well(&["deploy", "shop", version, &source, "--", "sh", "serve.sh"]).await
}

/// Pages that contain their version.
fn pages(lab: &Lab, version: &str) -> PathBuf {
    let dir = lab.dir().join("pages").join(version);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("version"), version).unwrap();
    dir
}

async fn deploy_blog(site: &Site, version: &str) {
    let source = pages(&site.lab, version).display().to_string();
    site.well(&["deploy", SECOND_SERVICE, version, &source]).await;
}

/// The answers that the readers of the second service got.
#[derive(Default, Debug)]
struct Observed {
    /// Counts by (phase in which the request began, version).
    answers: BTreeMap<(String, String), u64>,
    failures: Vec<String>,
}

/// Clients of the second service: some keep their connections, some make one for each request.
struct Readers {
    phase: Arc<std::sync::Mutex<String>>,
    seen: Arc<std::sync::Mutex<Observed>>,
    stop: Arc<AtomicBool>,
    running: tokio::task::JoinHandle<()>,
}

impl Readers {
    fn start(lab: &Lab) -> Self {
        Self::of(lab, [8, 8, 0, 0])
    }

    /// `keeps` is the limit of idle connections per client.
    fn of(lab: &Lab, keeps: [usize; 4]) -> Self {
        let (phase, seen, stop): (
            Arc<std::sync::Mutex<String>>,
            Arc<std::sync::Mutex<Observed>>,
            Arc<AtomicBool>,
        ) = Default::default();
        let address = lab.targets()[0].ip();
        let url = format!("http://{address}:81/version");
        let (namespace, shared) = (lab.namespace_path("client"), (phase.clone(), seen.clone(), stop.clone()));
        let running = tokio::spawn(async move {
            let (phase, seen, stop) = shared;
            run_in_namespace(namespace, move || async move {
                // reqwest wants one even where no TLS is spoken.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let one = async |keep: usize| {
                    let client = reqwest::Client::builder().pool_max_idle_per_host(keep).build().unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let began = phase.lock().unwrap().clone();
                        let asked = async { client.get(&url).send().await?.error_for_status()?.text().await };
                        match asked.await {
                            Ok(version) => {
                                *seen.lock().unwrap().answers.entry((began, version)).or_default() += 1;
                            }
                            Err(error) => seen.lock().unwrap().failures.push(format!("{began}: {error:?}")),
                        }
                        tokio::time::sleep(MS * 10).await;
                    }
                };
                let [a, b, c, d] = keeps.map(one);
                tokio::join!(a, b, c, d);
            })
            .await
            .unwrap();
        });
        Self { phase, seen, stop, running }
    }

    fn phase(&self, name: &str) {
        name.clone_into(&mut self.phase.lock().unwrap());
    }

    fn by_others(&self, phase: &str, version: &str) -> u64 {
        let seen = self.seen.lock().unwrap();
        let others = seen.answers.iter().filter(|((began, by), _)| began == phase && by != version);
        others.map(|(_, count)| count).sum()
    }

    fn answered(&self, phase: &str, version: &str) -> u64 {
        self.seen.lock().unwrap().answers.get(&(phase.to_owned(), version.to_owned())).copied().unwrap_or(0)
    }

    async fn end(self) -> Observed {
        self.stop.store(true, Ordering::Relaxed);
        self.running.await.unwrap();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

/// Both services with all their versions, the readers reading.
async fn both_services(name: &str, pipe: LabTransport, hosts: u8) -> (Site, Readers) {
    let site = up(name, pipe, hosts).await;
    for version in VERSIONS {
        deploy_shop(&site, version).await;
        deploy_blog(&site, version).await;
    }
    let readers = Readers::start(&site.lab);
    (site, readers)
}

async fn no_reader_failed(readers: Readers) {
    let seen = readers.end().await;
    let answers: u64 = seen.answers.values().sum();
    assert!(answers > 100, "{answers} answers are too few to mean anything");
    assert_eq!(seen.failures, Vec::<String>::new(), "of {answers}");
}

/// Both services change main `times` times by a flip.
async fn flips(name: &str, times: usize) {
    if !can_make_namespaces() {
        return;
    }
    let (site, readers) = both_services(name, LabTransport::Socket, 2).await;
    for turn in 0..times {
        let version = VERSIONS[(turn + 1) % VERSIONS.len()];
        site.load.set_phase(&format!("flip {turn}"));
        for service in ["shop", SECOND_SERVICE] {
            site.well(&["assign", service, version, "--strategy", "flip", "--yes", "--no-wait"]).await;
        }
    }
    // The last flip reaches everybody: the connections that HAProxy kept were closed.
    let last = VERSIONS[(times + 1) % VERSIONS.len()];
    for service in ["shop", SECOND_SERVICE] {
        site.well(&["assign", service, last, "--strategy", "flip", "--yes"]).await;
    }
    site.load.set_phase("settled");
    readers.phase("settled");
    site.until("answers of the last version", async || {
        site.load.take_snapshot().count_answers("settled", "web1", "main", Some(last)) > 20
            && readers.answered("settled", last) > 20
    })
    .await;
    assert_eq!(readers.by_others("settled", last), 0);
    no_reader_failed(readers).await;
    site.down_without_loss().await;
}

/// Both services change main `times` times, host by host: requests after the end of the command reach the new version.
async fn rolls(name: &str, times: usize) {
    if !can_make_namespaces() {
        return;
    }
    let (site, readers) = both_services(name, LabTransport::Ssh, 3).await;
    for turn in 0..times {
        let version = VERSIONS[(turn + 1) % VERSIONS.len()];
        let mut told = String::new();
        for service in ["shop", SECOND_SERVICE] {
            let output = site.run(&["assign", service, version, "--yes"]).await;
            assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
            told.push_str(&output.stderr);
        }
        let phase = format!("after {turn}");
        site.load.set_phase(&phase);
        readers.phase(&phase);
        site.until("answers of the new version on every host", async || {
            let now = site.load.take_snapshot();
            (1..=3).all(|host| now.count_answers(&phase, &format!("web{host}"), "main", Some(version)) > 5)
                && readers.answered(&phase, version) > 20
        })
        .await;
        let shop = site.load.take_snapshot().count_answers_by_others(&phase, version);
        assert_eq!(
            (shop, readers.by_others(&phase, version)),
            (0, 0),
            "the old version was seen in `{phase}`"
        );
        readers.phase("between");
        site.load.set_phase("between");
    }
    no_reader_failed(readers).await;
    site.down_without_loss().await;
}

/// Rows: R4.
#[tokio::test(flavor = "multi_thread")]
async fn ten_flips_of_two_services_lose_nothing() {
    flips("flips", 10).await;
}

/// Rows: R4.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes: `make soak`"]
async fn thirty_flips_of_two_services_lose_nothing() {
    flips("flips-all", 30).await;
}

/// Rows: E3, Z6.
#[tokio::test(flavor = "multi_thread")]
async fn rolling_assign_ends_all_answers_of_old_version() {
    rolls("assign", 1).await;
}

/// `make soak`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes: `make soak`"]
async fn thirty_rolling_assigns_of_two_services_lose_nothing() {
    rolls("soak", 30).await;
}

/// Seed rows D2, D4, D5, D6, D8, D9, D10, D11, R1, R2, R5, R9 (docs/design/seed-systems.md), in the words of the originals.
/// Rows: D2, D4, D5, D6, D8, D9, D10, D11, D12, D13, D15, D16, D17, D18, D19, R1, R2, R5, R19.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one story, read from top to bottom")]
async fn d2_to_d11_seed_story_prints_seed_sentences() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("words", LabTransport::Ssh, 1).await;
    // A single host: no other host has to be UP while it is in maintenance.
    let yaml = site.operator.dir().join("switchman.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    let text = if text.contains("min_up") { text } else { format!("{text}roll: {{min_up: 0}}\n") };
    std::fs::write(&yaml, text).unwrap();
    let since = |text: &str| -> String {
        let masked: Vec<String> = text
            .lines()
            .map(|line| match line.split_once("(since ") {
                Some((head, _)) => format!("{head}(since ...)"),
                None => line.to_owned(),
            })
            .collect();
        masked.join("\n")
    };
    let head = "MAIN   NAME   VERSION   STATUS   RUNNING\n------ ------ --------- -------- -----------------------------------";
    // D4: the table has the new row alone. D2, D5: the first is main.
    assert_eq!(
        since(&deploy_shop(&site, "4.0.0").await),
        format!(
            "Active host: http://10.77.0.11\nDeploying service...\nService deployed successfully\n{head}\n*      shop   4.0.0     running  Running (since ...)"
        )
    );
    // D2: a later one is a shadow.
    assert_eq!(
        since(&deploy_shop(&site, "5.0.0").await),
        format!(
            "Active host: http://10.77.0.11\nDeploying service...\nService deployed successfully\n{head}\n       shop   5.0.0     running  Running (since ...)"
        )
    );
    let both = format!(
        "{head}\n*      shop   4.0.0     running  Running (since ...)\n       shop   5.0.0     running  Running (since ...)"
    );
    // D5, D6
    assert_eq!(since(&site.well(&["ls"]).await), format!("Active host: http://10.77.0.11\n{both}"));
    // R9, R19: work in flight holds a kill, even of a shadow; D10, D19: main is not killed while it has shadows.
    // D12: it is refused before the prompt, which has no answer here.
    let refused = site.run(&["kill", "shop", "4.0.0"]).await;
    assert!(refused.status == 1 && !refused.stdout.contains("Are you sure"), "{}", refused.stdout);
    let sentence =
        "Not allowed to kill main service while there are mutliple deployed versions of that service";
    assert!(refused.stderr.contains(sentence), "{}", refused.stderr);
    // D8, D9: after the answer the old main runs on as a shadow.
    let asked = site.operator.program(&["assign", "shop", "5.0.0", "--strategy", "flip"]);
    let output = asked.run(b"y\n", Duration::from_mins(1)).await.unwrap();
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert_eq!(
        since(&output.stdout),
        format!(
            "Active host: http://10.77.0.11\nChange shop 5.0.0 to main? [y/N]: Changed main version to shop 5.0.0\n{head}\n       shop   4.0.0     running  Running (since ...)\n*      shop   5.0.0     running  Running (since ...)"
        )
    );
    let declined = site
        .operator
        .program(&["assign", "shop", "4.0.0"])
        .run(b"n\n", Duration::from_mins(1))
        .await
        .unwrap();
    assert_eq!(
        (declined.status, declined.stderr.contains("Assign cancelled.")),
        (1, true),
        "{}",
        declined.stderr
    );
    let aborted =
        site.operator.program(&["assign", "shop", "4.0.0"]).run(b"", Duration::from_mins(1)).await.unwrap();
    assert_eq!((aborted.status, aborted.stderr.contains("Aborted!")), (1, true), "{}", aborted.stderr);
    // D13
    let unknown = site.run(&["assign", "shop", "9.0.0", "--yes"]).await;
    assert!(unknown.stderr.contains("No service matching shop 9.0.0"), "{}", unknown.stderr);
    let unknown = site.run(&["assign", "nope", "9.0.0", "--yes"]).await;
    assert_eq!(unknown.status, 1);
    assert!(unknown.stderr.contains("No main service matching nope"), "{}", unknown.stderr);
    // R1, R2: revisions, ids, and whether it is public.
    let wide = site.well(&["ls", "--wide"]).await;
    let row = wide.lines().find(|line| line.contains("5.0.0")).unwrap();
    assert!(row.contains("🌎 shop") && row.contains("Active") && row.contains(" dp_"), "{wide}");
    let id = row.split_whitespace().last().unwrap();
    let described = site.well(&["describe", id]).await;
    assert!(
        described.contains(&format!("ID         {id}")) && described.contains("Revision   2"),
        "{described}"
    );
    // R5: the old one lives until its last work is done, then it is killed. D15, D16, D11.
    let killed = site.run(&["kill", "shop", "4.0.0", "--yes", "--drain-timeout", "30s"]).await;
    assert_eq!(killed.status, 0, "{}", killed.stderr);
    assert!(killed.stdout.ends_with("Service shop 4.0.0 killed.\n"), "{}", killed.stdout);
    // R19: one of the three sentences, before the prompt.
    let sentences =
        ["The deployment is fully drained and is safe to remove", "Deployment is still Draining."];
    assert!(sentences.iter().any(|sentence| killed.stderr.contains(sentence)), "{}", killed.stderr);
    // D17, D18
    let nothing = site.run(&["kill", "--yes"]).await;
    assert_eq!(nothing.status, 2, "wrong usage");
    assert!(
        nothing.stderr.contains(
            "Include the name or name and version of the service(s) to kill or -a/--all to kill all."
        )
    );
    let none = site.run(&["kill", "nope", "--yes"]).await;
    assert!(none.stderr.contains("No services match the given name and version."), "{}", none.stderr);
    // D13: one rule for an unknown name.
    for args in [
        &["assign", "nope", "1.0.0"][..],
        &["rollback", "nope"],
        &["mirror", "nope", "1.0.0"],
        &["canary", "nope", "--off"],
        &["update", "nope", "1.0.0", "/tmp"],
        &["compare", "nope", "1.0.0"],
        &["access", "nope", "private"],
        &["logs", "nope"],
        &["promote", "nope", "1.0.0"],
    ] {
        let unknown = site.run(args).await;
        let sentence = unknown
            .stderr
            .contains("error: No main service matching nope\n next: name one of the configuration (`shop`");
        assert!(unknown.status == 1 && sentence, "{args:?}: {}", unknown.stderr);
    }
    site.down_without_loss().await;
}

/// Seed rows R4, R10, R11, R12: new code for an id that stays; a process that runs already, and one that replaces it.
/// Rows: R10, R11, R31.
#[tokio::test(flavor = "multi_thread")]
async fn updates_in_place_keep_the_id_and_lose_nothing() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("update", LabTransport::Socket, 2).await;
    deploy_shop(&site, "4.0.0").await;
    let rows = async || -> Value { site.json(&["ls"]).await["rows"].take() };
    let before = rows().await;
    let source = write_release(&site.lab, "4.0.1").unwrap().display().to_string();
    site.well(&["update", "shop", "4.0.0", &source, "--memory", "512", "--env", SECRET]).await;
    let after = rows().await;
    assert_eq!((&after[0]["id"], &after[0]["revision"]), (&before[0]["id"], &before[0]["revision"]));
    assert_eq!(after[0]["hosts"][0][1]["deployment"]["instance"]["build"], 2);
    let how = &after[0]["hosts"][0][1]["deployment"]["instance"]["how"];
    assert_eq!(how["workload"]["command"]["argv"][0], "sh", "what was not said stays: {how}");
    assert_eq!(how["resources"]["memory_bytes"], 512 << 20);
    assert!(how["env"]["TOKEN"].as_str().unwrap().starts_with("redacted:"), "{how}");
    no_other_user_reads_the_secret(&site).await;
    // R11 on the API, as it is written there: something that runs already gets another address.
    let start = |port: u16| {
        format!(
            "setsid {} lab app --listen 0.0.0.0:{port} --host web1 --vhost main --version ext{port} </dev/null >/dev/null 2>&1 &",
            env!("CARGO_BIN_EXE_switchman")
        )
    };
    site.inside("web1", &format!("{} {}", start(9100), start(9101))).await;
    let put = async |id: &str, uri: &str| {
        let socket = site.lab.dir().join("web1/agent.sock");
        let script = format!(
            "curl -s -o /dev/null -w '%{{http_code}}' --unix-socket {} -X PUT http://x/deployments/{id} -H 'content-type: application/json' -d '{{\"uri\": \"{uri}\"}}'",
            socket.display()
        );
        site.inside("web1", &script).await.stdout
    };
    site.well(&["deploy", "shop", "5.0.0", "http://127.0.0.1:9100", "--host", "web1"]).await;
    let id = rows().await[1]["id"].as_str().unwrap().to_owned();
    assert_eq!(put(&id, "http://127.0.0.1:9101").await, "200");
    assert_eq!(put(&id, "/relative").await, "400", "R31");
    assert_eq!(put("dp_00000000000", "http://127.0.0.1:9101").await, "404", "R31");
    site.well(&["assign", "shop", "5.0.0", "--host", "web1", "--strategy", "flip", "--yes"]).await;
    site.answered_by("web1", "ext9101").await;
    site.down_without_loss().await;
}

const SECRET: &str = "TOKEN=hunter2-hunter2-hunter2";

/// Searches everything of the lab, and all command lines, as a user without privileges. A file that this user may read is found.
async fn no_other_user_reads_the_secret(site: &Site) {
    let dir = site.lab.dir();
    // Also the pattern: no command line of the search has the secret.
    let readable = dir.join("readable").display().to_string();
    std::fs::write(&readable, SECRET.trim_start_matches("TOKEN=")).unwrap();
    let find = format!(
        "chmod 755 {0}; setpriv --reuid 65534 --regid 65534 --clear-groups \
         grep -rlasF -f {readable} {0} /proc/[0-9]*/cmdline; true",
        dir.display()
    );
    let found = site.inside("web1", &find).await.stdout;
    assert_eq!(found.trim(), readable);
    for args in
        [&["describe", "shop", "4.0.0"][..], &["ls", "--output", "json"], &["history", "--host", "web1"]]
    {
        let shown = site.run(args).await;
        assert!(
            !format!("{}{}", shown.stdout, shown.stderr).contains("hunter2"),
            "{args:?}: {}",
            shown.stdout
        );
    }
}

/// HAProxy keeps connections to the old instance for as long as clients come by: they are closed while it drains.
#[tokio::test(flavor = "multi_thread")]
async fn update_drains_while_haproxy_keeps_connections() {
    if !can_make_namespaces() {
        return;
    }
    let plan = Plan { hosts: 1, pipe: LabTransport::Socket, yaml: YAML, admin: true, ..Plan::default() };
    let site = Site::up("drains", plan).await;
    deploy_blog(&site, "4.0.0").await;
    let ask = format!("curl -sf http://{}:81/version || true", site.lab.targets()[0].ip());
    site.until("HAProxy sees it UP", async || site.inside("client", &ask).await.stdout == "4.0.0").await;
    // With clients that make new connections, HAProxy would soon prefer newer ones to the new instance.
    let readers = Readers::of(&site.lab, [8; 4]);
    readers.phase("kept");
    site.until("answers of the old build", async || readers.answered("kept", "4.0.0") > 60).await;
    let source = pages(&site.lab, "4.0.1").display().to_string();
    readers.phase("updating");
    site.well(&["update", SECOND_SERVICE, "4.0.0", &source, "--drain-timeout", "30m"]).await;
    // nginx ends a connection by itself after 1000 requests (keepalive_requests), and there are four.
    let by_old = readers.answered("updating", "4.0.0");
    assert!(by_old < 2000, "{by_old} requests went to the old build");
    readers.phase("updated");
    site.until("answers of the new build", async || readers.answered("updated", "4.0.1") > 60).await;
    assert_eq!(readers.by_others("updated", "4.0.1"), 0);
    no_reader_failed(readers).await;
    site.down_without_loss().await;
}
