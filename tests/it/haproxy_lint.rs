//! The lint of haproxy.cfg against a real HAProxy: generated configurations run there, and behaviour and verdict agree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use cases::{Case, GLOBAL, Random};
use switchman::lint::{CfgFile, HaproxyCfg, lint_haproxy};
use switchman::model::finding::{Finding, Severity};
use switchman::model::fleet::Fleet;
use vhosts::{Answer, Vhosts, send};

use crate::testing::run_in_namespace;

mod cases;
mod refusals;
mod vhosts;

const SEED: u64 = 11;
const CASES: usize = 240;
const FIRST_PORT: u16 = 10_000;

/// Problems whose harm this test does not produce: each with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("haproxy-no-retries", "a connection has to be refused: here a data port never is"),
    (
        "haproxy-data-on-check-port",
        "harm between the change and DOWN only; afterwards the check has found it",
    ),
    (
        "haproxy-main-is-backup",
        "where it is the only one, new users only never reach this host: the load is uneven",
    ),
    ("haproxy-line-on-check-port", "harm while the check port is closed and the line is not checked"),
];

const YAML: &str = "service: shop
hosts: {web1: {address: 127.0.0.11}, web2: {address: 127.0.0.12}}
load_balancers:
  - {name: lb1, backend: servers, check: {inter: 500ms, fastinter: 100ms, fall: 2, rise: 1, timeout: 300ms}}
health: {path: /health, host: shop.example}
";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first HAProxy of the PATH; `make haproxy-versions` puts newer ones there.
fn haproxy_command() -> Command {
    #[allow(clippy::disallowed_methods, reason = "a test stands outside the house")]
    Command::new("haproxy")
}

fn start_haproxy(dir: &Path, cases: &[Case]) -> Running {
    let socket = format!("stats socket {} level admin", dir.join("s.sock").display());
    let global = GLOBAL.replace("stats socket /run/haproxy/admin.sock mode 600 level admin", &socket);
    let sections = cases.iter().enumerate().map(|(at, case)| case.render(&format!("c{at}"), port(at)));
    let text: String = std::iter::once(global).chain(sections).collect();
    let file = dir.join("haproxy.cfg");
    // As Latin-1, which is what HAProxy often gets.
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    std::fs::write(&file, bytes).unwrap();
    let checked = haproxy_command().arg("-c").arg("-f").arg(&file).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let mut command = haproxy_command();
    command.arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

fn port(case: usize) -> u16 {
    FIRST_PORT + 2 * u16::try_from(case).unwrap()
}

/// Waits until no server has changed its state for longer than a check takes to notice anything (0.9 s by the settings).
async fn settle(dir: &Path) {
    let (mut last, mut since) = (String::new(), tokio::time::Instant::now());
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    while since.elapsed() < Duration::from_millis(1500) {
        assert!(tokio::time::Instant::now() < limit, "states keep changing: {last}");
        let states = read_states(dir).await.unwrap_or_default();
        if states != last || states.is_empty() {
            (last, since) = (states, tokio::time::Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn read_states(dir: &Path) -> Option<String> {
    let mut socket = tokio::net::UnixStream::connect(dir.join("s.sock")).await.ok()?;
    socket.write_all(b"show stat -1 4 -1\n").await.ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).await.ok()?;
    let columns = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let rows = text.lines().map(columns).filter(|row| row.len() > 17);
    Some(rows.map(|row| format!("{}/{} {}\n", row[0], row[1], row[17])).collect())
}

/// The deviations of one case from what switchman promises.
#[derive(Default)]
struct Deviations(Vec<String>);

impl Deviations {
    fn expect(&mut self, phase: &str, user: &str, answer: &Answer, allowed: &[&str]) {
        if answer.status != 200 || !allowed.iter().any(|start| answer.vhost.starts_with(start)) {
            self.0.push(format!("{phase}: {user} got {} from `{}`", answer.status, answer.vhost));
        }
    }
}

const COOKIES: [Option<&str>; 2] = [Some("SERVER_ID=web1"), Some("SERVER_ID=web2")];

/// A user without a cookie who comes back with the one that was set.
async fn visit_twice(port: u16, seen: &mut Deviations, phase: &str, allowed: &[&str]) {
    let first = send(port, "/", None).await;
    seen.expect(phase, "a new user", &first, allowed);
    let again = send(port, "/", first.cookie.as_deref()).await;
    if first.cookie.is_none() || again.vhost != first.vhost {
        seen.0.push(format!(
            "{phase}: a user of `{}` with {:?} went to `{}`",
            first.vhost, first.cookie, again.vhost
        ));
    }
}

async fn send_to_other(case: &Case, port: u16, seen: &mut Deviations, phase: &str, allowed: &[&str]) {
    for _ in 0..if case.has_other() { 4 } else { 0 } {
        seen.expect(phase, "a user of the other section", &send(port + 1, "/", None).await, allowed);
    }
}

async fn observe_all_up(case: &Case, port: u16, seen: &mut Deviations) {
    for _ in 0..3 {
        visit_twice(port, seen, "all UP", &["main-"]).await;
    }
    seen.expect("all UP", "a user of web1", &send(port, "/", COOKIES[0]).await, &["main-web1"]);
    seen.expect("all UP", "a user of web2", &send(port, "/", COOKIES[1]).await, &["main-web2"]);
    send_to_other(case, port, seen, "all UP", &["main-"]).await;
}

async fn observe_web1_out(case: &Case, port: u16, seen: &mut Deviations) {
    const PHASE: &str = "web1 in maintenance";
    for _ in 0..3 {
        visit_twice(port, seen, PHASE, &["main-web2"]).await;
    }
    seen.expect(PHASE, "a user of web2", &send(port, "/", COOKIES[1]).await, &["main-web2"]);
    send_to_other(case, port, seen, PHASE, &["main-web2", "backup-"]).await;
    // The last one: a stick table remembers it.
    seen.expect(PHASE, "a user of web1", &send(port, "/", COOKIES[0]).await, &["backup-web1"]);
}

async fn observe_web1_back(case: &Case, port: u16, seen: &mut Deviations) {
    const PHASE: &str = "web1 back";
    visit_twice(port, seen, PHASE, &["main-"]).await;
    seen.expect(PHASE, "a user of web1", &send(port, "/", COOKIES[0]).await, &["main-web1"]);
    send_to_other(case, port, seen, PHASE, &["main-", "backup-"]).await;
}

async fn observe_web2_out(case: &Case, port: u16, seen: &mut Deviations) {
    const PHASE: &str = "web2 in maintenance";
    visit_twice(port, seen, PHASE, &["main-web1"]).await;
    seen.expect(PHASE, "a user of web1", &send(port, "/", COOKIES[0]).await, &["main-web1"]);
    send_to_other(case, port, seen, PHASE, &["main-web1", "backup-"]).await;
    seen.expect(PHASE, "a user of web2", &send(port, "/", COOKIES[1]).await, &["backup-web2"]);
}

async fn observe_all_out(_: &Case, port: u16, seen: &mut Deviations) {
    const PHASE: &str = "both in maintenance";
    seen.expect(PHASE, "a user of web1", &send(port, "/", COOKIES[0]).await, &["backup-web1"]);
    seen.expect(PHASE, "a user of web2", &send(port, "/", COOKIES[1]).await, &["backup-web2"]);
    visit_twice(port, seen, PHASE, &["backup-"]).await;
}

/// Runs the step for all cases, many at a time.
async fn for_each<F>(cases: &[Case], seen: &mut [Deviations], step: F)
where
    F: AsyncFn(&Case, u16, &mut Deviations),
{
    let step = &step;
    let all = cases.iter().zip(seen).enumerate();
    let steps = all.map(|(at, (case, seen))| async move { step(case, port(at), seen).await });
    futures_util::stream::iter(steps).buffer_unordered(40).collect::<Vec<_>>().await;
}

/// Requests of users of web1 that run while main changes its state: none of them may be cut.
fn start_slow(cases: &[Case], number: u64) -> Vec<tokio::task::JoinHandle<Answer>> {
    let start =
        |at| tokio::spawn(async move { send(port(at), &format!("/slow?{number}"), COOKIES[0]).await });
    (0..cases.len()).map(start).collect()
}

async fn end_slow(slow: Vec<tokio::task::JoinHandle<Answer>>, seen: &mut [Deviations], phase: &str) {
    for (slow, seen) in slow.into_iter().zip(seen) {
        let answer = slow.await.unwrap();
        if answer.status != 200 {
            seen.0.push(format!("{phase}: a running request ended with {}", answer.status));
        }
    }
}

async fn observe(cases: &[Case]) -> Vec<Deviations> {
    let dir = tempfile::tempdir().unwrap();
    let mut vhosts = Vhosts::start().await;
    let _haproxy = start_haproxy(dir.path(), cases);
    let mut seen: Vec<Deviations> = cases.iter().map(|_| Deviations::default()).collect();
    settle(dir.path()).await;
    for_each(cases, &mut seen, observe_all_up).await;
    let slow = start_slow(cases, 1);
    vhosts.close_check(0).await;
    settle(dir.path()).await;
    vhosts.release(1);
    end_slow(slow, &mut seen, "web1 into maintenance").await;
    for_each(cases, &mut seen, observe_web1_out).await;
    let slow = start_slow(cases, 2);
    vhosts.open_check(0).await;
    settle(dir.path()).await;
    vhosts.release(2);
    end_slow(slow, &mut seen, "web1 back").await;
    for_each(cases, &mut seen, observe_web1_back).await;
    vhosts.close_check(1).await;
    settle(dir.path()).await;
    for_each(cases, &mut seen, observe_web2_out).await;
    vhosts.close_check(0).await;
    settle(dir.path()).await;
    for_each(cases, &mut seen, observe_all_out).await;
    seen
}

fn lint(case: &Case, fleet: &Fleet) -> Vec<Finding> {
    let text = format!("{GLOBAL}{}", case.render("servers", FIRST_PORT));
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let files = vec![CfgFile::decode("haproxy.cfg", &bytes)];
    lint_haproxy(fleet, Some(&HaproxyCfg { files, ..HaproxyCfg::default() }))
}

/// The difference between verdict and behaviour, if there is one. Warnings name what can go wrong: they agree with both.
fn compare(findings: &[Finding], seen: &Deviations) -> Option<&'static str> {
    let of = |severity| findings.iter().filter(move |finding| finding.severity == severity);
    let is_exception = |finding: &&Finding| EXCEPTIONS.iter().any(|(id, _)| *id == finding.id);
    let has_problem = of(Severity::Problem).next().is_some();
    let is_certain = of(Severity::Problem).any(|finding| !is_exception(&finding));
    let is_clean = !has_problem && of(Severity::Warning).next().is_none();
    match seen.0.is_empty() {
        false if is_clean => Some("clean, and users were harmed"),
        true if is_certain => Some("a problem, and no user was harmed"),
        _ => None,
    }
}

/// Rows: Z3, Z11.
#[test]
fn verdicts_agree_with_the_behaviour_of_haproxy() {
    run_in_namespace(|| async {
        let fleet = switchman::config::parse_config(Path::new("switchman.yaml"), YAML).unwrap();
        let mut random = Random(SEED);
        let cases: Vec<Case> = (0..CASES).map(|_| Case::generate(&mut random)).collect();
        let all = observe(&cases).await;
        let (mut counts, mut text) = (BTreeMap::new(), String::new());
        for (at, (case, seen)) in cases.iter().zip(&all).enumerate() {
            let findings = lint(case, &fleet);
            let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
            *counts.entry((format!("{worst:?}"), seen.0.is_empty())).or_insert(0) += 1;
            if let Some(difference) = compare(&findings, seen) {
                let ids: Vec<_> = findings.iter().map(|finding| (finding.id, &finding.subject)).collect();
                let _ =
                    writeln!(text, "case {at} {:?}: {difference}\n  {ids:?}\n  {:?}", case.changes, seen.0);
            }
        }
        assert!(text.is_empty(), "seed {SEED}: {counts:?}\n{text}");
        let count = |worst: &str, is_right| counts.get(&(worst.to_owned(), is_right)).copied().unwrap_or(0);
        let (clean, harmful) = (count("Ok", true) + count("Note", true), count("Problem", false));
        assert!(clean > 40 && harmful > 60, "too few cases of a kind: {counts:?}");
    });
}
