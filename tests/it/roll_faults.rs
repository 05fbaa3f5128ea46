//! The fault matrix: rolls that are killed, cut, filled up and fooled, with the load running. In every case no request is
//! lost but those of the parts broken on purpose, `roll --status` shows the progress, and one command repairs the rest.

use nix::sys::signal::Signal;
use switchman::lab::operator::LabTransport;

use crate::site::{Account, MS, Plan, Site};
use crate::testing::can_make_namespaces;

mod stores;

const STEPS: [&str; 7] = ["forward-off", "down", "drained", "command", "healthy", "forward-on", "up"];

/// Checks the end of each case: every main in service and UP, every host done or put back, nothing held.
async fn repaired_by(site: &Site, verb: &str) {
    let output = site.run(&["roll", verb]).await;
    assert_eq!(output.status, 0, "{verb}: {}{}", output.stdout, output.stderr);
    let now = site.json(&["roll", "--status"]).await;
    let result = if verb == "--resume" { "done" } else { "aborted" };
    assert_eq!(now["progress"]["result"], result, "{now:#}");
    assert_eq!(now["lock"], serde_json::Value::Null, "{now:#}");
    assert_eq!(site.up_count("lb1").await, 3);
}

/// Killed without a word at each step of the second host, over and over.
async fn killed_at_every_step(name: &str, verb: &str) {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up(name, Plan::default()).await;
    for step in STEPS {
        let rolling = site.start(&[], &site.replace(step));
        site.until_step("web2", "step-began", step).await;
        rolling.signal(Signal::SIGKILL);
        let (code, log) = rolling.ended().await;
        assert_eq!(code, None, "at {step}: {log}");
        let stands = site.json(&["roll", "--status"]).await;
        assert_eq!(stands["lock"]["liveness"], "dead", "at {step}: {stands:#}");
        assert_eq!(stands["progress"]["hosts"][0]["state"], "done", "at {step}: {stands:#}");
        let refused = site.roll(&[], &["true".to_owned()]).await;
        assert!(refused.stderr.contains("is not finished"), "at {step}: {}", refused.stderr);
        repaired_by(&site, verb).await;
    }
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_and_resumed() {
    killed_at_every_step("kres", "--resume").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_and_aborted() {
    killed_at_every_step("kabo", "--abort").await;
}

/// Ends what serves a host's side of the link: the one program there that was started with these words.
async fn kill_remote(site: &Site, host: &str) {
    let lab = site.lab.dir().file_name().unwrap().to_str().unwrap().to_owned();
    // The pids in the namespace; only the agent of this host's link is ended.
    let script = format!(
        "for pid in $(ip netns pids swm-{lab}-{host}); do \
         tr '\\0' ' ' < /proc/$pid/cmdline | grep -q '/switchman .*agent --stdio' && kill -KILL $pid; done; true"
    );
    site.inside("client", &script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_side_killed_while_waiting_and_while_command_runs() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("rem", Plan::default()).await;
    // The link reconnects while the roll waits, without effect.
    let rolling = site.start(&[], &site.replace("2.0.0"));
    site.until_step("web2", "step-began", "down").await;
    kill_remote(&site, "web2").await;
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(0), "{log}");
    // While the command runs there its end is not known: it is waited for before the host is put back.
    let flag = site.lab.dir().join("flag");
    let dir = site.lab.dir().display().to_string();
    let slow = format!(
        "echo working; touch {dir}/flag; sleep 1; exec sh {dir}/$SWITCHMAN_HOST/replace-main.sh 3.0.0"
    );
    let slow = ["sh".to_owned(), "-c".to_owned(), slow];
    let rolling = site.start(&["--remote", "--host", "web2"], &slow);
    site.until("the command at work", async || flag.exists()).await;
    kill_remote(&site, "web2").await;
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("web2: failed at command") && log.contains("web2: put back into service"), "{log}");
    site.answered_by("web2", "3.0.0").await;
    repaired_by(&site, "--resume").await;
    site.down_without_loss().await;
}

/// Nothing passes between the operator and a host; the balancers are not touched.
async fn cut(site: &Site, host: &str, cut: bool) {
    let verb = if cut { "-I" } else { "-D" };
    let client = "10.77.0.250";
    site.inside(
        host,
        &format!("iptables {verb} INPUT -s {client} -j DROP && iptables {verb} OUTPUT -d {client} -j DROP"),
    )
    .await;
}

async fn cut_at(name: &str, steps: &[&str]) {
    if !can_make_namespaces() {
        return;
    }
    // Waits for a host that will not answer, kept short.
    let yaml = "roll: {min_up: 1, drain_timeout: 4s, health_timeout: 4s}\n";
    let site = Site::up(name, Plan { yaml, ..Plan::default() }).await;
    for step in steps {
        // A moment to cut in, for steps that take none.
        let slow = ["sh".to_owned(), "-c".to_owned(), format!("sleep 0.3; {}", site.replace(step)[2])];
        let rolling = site.start(&[], &slow);
        site.until_step("web2", "step-began", step).await;
        cut(&site, "web2", true).await;
        let (code, log) = rolling.ended().await;
        // The last waits need the balancers and not the host.
        let got_through = code == Some(0) && (*step == "up" || *step == "forward-on");
        assert!(got_through || code == Some(3), "at {step}: {code:?} {log}");
        cut(&site, "web2", false).await;
        if !got_through {
            let stands = site.json(&["roll", "--status"]).await;
            let web2 = &stands["progress"]["hosts"][1];
            assert_eq!(
                (web2["state"].as_str(), web2["end"].as_str()),
                (Some("failed"), Some("unreachable")),
                "at {step}: {log}"
            );
            repaired_by(&site, "--resume").await;
        }
    }
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn link_cut_before_command() {
    cut_at("cut1", &STEPS[..3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn link_cut_from_command_on() {
    cut_at("cut2", &STEPS[3..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_failure_on_second_of_three_stops_roll() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("fail", Plan::default()).await;
    let work = site.replace("2.0.0");
    let fails = format!(
        "[ $SWITCHMAN_HOST != web2 ] || [ -e fixed ] || {{ echo no disk left; exit 9; }}; {}",
        work[2]
    );
    let fails = [work[0].clone(), work[1].clone(), fails];
    let output = site.roll(&[], &fails).await;
    assert_eq!(output.status, 3, "{}", output.stderr);
    assert!(output.stderr.contains("web2 | no disk left"), "{}", output.stderr);
    let row = output.stdout.lines().find(|line| line.starts_with("web2")).unwrap();
    assert!(row.contains("failed, returned") && row.contains("the command ended with status 9"), "{row}");
    let kept = row.split("its output: ").nth(1).unwrap().split(')').next().unwrap();
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "no disk left\n");
    assert_eq!(site.up_count("lb1").await, 3, "web2 serves its old version");
    site.answered_by("web2", "1.0.0").await;
    std::fs::write(site.operator.dir().join("fixed"), "").unwrap();
    repaired_by(&site, "--resume").await;
    site.answered_by("web2", "2.0.0").await;

    // A drain that is late: the load's websockets would have to be cut.
    let late = site.roll(&["--drain-timeout", "1ms"], &work).await;
    assert_eq!(late.status, 1, "{}", late.stderr);
    assert!(late.stdout.contains("failed, returned"), "{}", late.stdout);
    repaired_by(&site, "--abort").await;

    // A main that never gets healthy stays out, and its users on its backup vhost.
    let dead = "kill -QUIT $(cat $LAB/$SWITCHMAN_HOST/shop-main.pid)"
        .replace("$LAB", &site.lab.dir().display().to_string());
    let output = site.roll(&["--health-timeout", "1s"], &["sh".into(), "-c".into(), dead]).await;
    assert_eq!(output.status, 1, "{}", output.stderr);
    let row = output.stdout.lines().find(|line| line.starts_with("web1")).unwrap();
    assert!(
        row.contains("failed, left out")
            && row.contains("repair its main vhost, then: switchman roll --resume"),
        "{row}"
    );
    let status = site.run(&["status", "--host", "web1"]).await;
    assert!(
        status.stdout.contains("main vhost not healthy") && status.stdout.contains("maintenance"),
        "{}",
        status.stdout
    );
    site.inside("web1", &format!("sh {}/web1/replace-main.sh 3.0.0", site.lab.dir().display())).await;
    repaired_by(&site, "--abort").await;
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_reloaded_and_another_restarted_during_the_command() {
    if !can_make_namespaces() {
        return;
    }
    // The second balancer is out of the load's way: a restart cuts what it carries.
    let mut site = Site::up_with("hap", Plan { balancers: 2, ..Plan::default() }, 1).await;
    let waits =
        format!("touch out; while [ ! -e go ]; do sleep 0.05; done; rm go; {}", site.replace("2.0.0")[2]);
    let rolling = site.start(&["--host", "web1", "--host", "web2"], &["sh".into(), "-c".into(), waits]);
    let out = site.operator.dir().join("out");
    site.until("the command at work", async || out.exists()).await;
    let status = site.run(&["status", "--host", "web3"]).await;
    let row =
        status.stdout.lines().find(|line| line.starts_with("web1") && line.contains("command")).unwrap();
    assert!(row.contains("out"), "{}", status.stdout);
    assert!(status.stdout.contains("next: it is running"), "{}", status.stdout);
    site.lab.reload_haproxy(0).await.unwrap();
    site.lab.restart_haproxy(1).await.unwrap();
    site.until("web1 is DOWN on both again", async || {
        site.up_count("lb1").await == 2 && site.up_count("lb2").await == 2
    })
    .await;
    std::fs::remove_file(&out).unwrap();
    std::fs::write(site.operator.dir().join("go"), "").unwrap();
    site.until("the second host", async || out.exists()).await;
    std::fs::write(site.operator.dir().join("go"), "").unwrap();
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(site.up_count("lb2").await, 3);
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_balancer_stops_roll() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("unr", Plan { balancers: 2, ..Plan::default() }).await;
    let blind = |verb: &str| format!("iptables {verb} INPUT -s 10.77.0.250 -p tcp --dport 9999 -j DROP");
    site.inside("lb2", &blind("-I")).await;
    let refused = site.roll(&[], &site.replace("2.0.0")).await;
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot start the roll: `lb2` cannot be read"), "{}", refused.stderr);
    site.inside("lb2", &blind("-D")).await;

    let work =
        ["sh".to_owned(), "-c".to_owned(), format!("touch out; sleep 0.3; {}", site.replace("2.0.0")[2])];
    let rolling = site.start(&[], &work);
    let out = site.operator.dir().join("out");
    site.until("the command at work", async || out.exists()).await;
    site.inside("lb2", &blind("-I")).await;
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("web1: forward on, but not UP everywhere"), "{log}");
    site.inside("lb2", &blind("-D")).await;
    repaired_by(&site, "--resume").await;
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_vhost_death_during_drain() {
    if !can_make_namespaces() {
        return;
    }
    let mut site = Site::up("back", Plan { all_kinds: true, ..Plan::default() }).await;
    let rolling = site.start(&["--host", "web1", "--host", "web2"], &site.replace("2.0.0"));
    site.until_step("web1", "step-began", "drained").await;
    site.lab.kill_backup(0).await.unwrap();
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(0), "{log}");
    site.lab.start_backup(0).await.unwrap();
    site.answered_by("web1", "2.0.0").await;
    // What was in flight on the vhost that died is its own loss; its users go elsewhere at once.
    let Account { report, clues, .. } = site.down().await;
    let clients = 24;
    assert!(report.total_failed() <= clients, "{:?} {clues:#?}", report.failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jump_changes_nothing() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("clock", Plan { pipe: LabTransport::Socket, ..Plan::default() }).await;
    let library = site.inside("client", "find /usr/lib -name libfaketimeMT.so.1 | head -1").await.stdout;
    assert!(!library.trim().is_empty(), "Debian's package faketime is missing: make setup");
    let clock = site.operator.dir().join("clock");
    std::fs::write(&clock, "+0\n").unwrap();
    let fooled = [
        format!("LD_PRELOAD={}", library.trim()),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let rolling = site.start_with(&fooled, &[], &site.replace("2.0.0"));
    site.until_step("web2", "step-began", "down").await;
    std::fs::write(&clock, "-1h\n").unwrap();
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(0), "{log}");
    let stands = site.json(&["roll", "--status"]).await;
    assert_eq!(stands["progress"]["result"], "done", "{stands:#}");
    let (began, changed) = (&stands["progress"]["began_at"], &stands["progress"]["changed_at"]);
    assert!(
        changed.as_str() < began.as_str(),
        "the journal was written by the clock that jumped: {stands:#}"
    );
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_journal_disk_stops_roll() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("full", Plan::default()).await;
    let journal = site.operator.dir().join("small");
    let path = journal.display().to_string();
    std::fs::create_dir(&journal).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("none"), path.as_str(), Some("tmpfs"), flags, Some("size=512k")).unwrap();
    let mounted = Mounted(path.clone());
    let work = [
        "sh".to_owned(),
        "-c".to_owned(),
        format!("head -c 1M /dev/zero > {path}/filler; {}", site.replace("2.0.0")[2]),
    ];
    let full = site.roll(&["--journal-dir", &path], &work).await;
    assert_eq!(full.status, 1, "{}", full.stderr);
    assert!(
        full.stderr.contains("cannot write the journal") && full.stderr.contains("the disk is full"),
        "{}",
        full.stderr
    );
    std::fs::remove_file(journal.join("filler")).unwrap();
    let stands = site.json(&["roll", "--status", "--journal-dir", &path]).await;
    assert_eq!(stands["progress"]["hosts"][0]["step"], "command", "{stands:#}");
    site.until("web1 is back", async || site.up_count("lb1").await == 3).await;
    let resumed = site.run(&["roll", "--abort", "--journal-dir", &path]).await;
    assert_eq!(resumed.status, 0, "{}", resumed.stderr);
    assert_eq!(site.up_count("lb1").await, 3);
    drop(mounted);
    site.down_without_loss().await;
}

struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// 100 races for the lock by two operators each, and rolls at once.
#[tokio::test(flavor = "multi_thread")]
async fn second_operator_is_refused() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("race", Plan::default()).await;
    for race in 0..100 {
        let words = [format!("a {race}"), format!("b {race}")];
        let take = |word: &str| site.operator.program(&["lock", "acquire", "--message", word]);
        let (a, b) = (take(&words[0]), take(&words[1]));
        let (a, b) = tokio::join!(a.run(b"", MS * 60_000), b.run(b"", MS * 60_000));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!([a.status, b.status].iter().sum::<i32>(), 1, "race {race}: {} {}", a.stderr, b.stderr);
        let winner = if a.status == 0 { &words[0] } else { &words[1] };
        let held = site.json(&["lock", "status"]).await;
        assert_eq!(held["lock"]["holder"]["purpose"]["message"].as_str(), Some(winner.as_str()));
        assert_eq!(site.run(&["lock", "release"]).await.status, 0);
    }
    for _ in 0..3 {
        let work = site.replace("2.0.0");
        let one = site.start(&[], &work);
        let two = site.roll(&[], &work).await;
        let (code, log) = one.ended().await;
        let codes = [code, Some(two.status)];
        assert!(codes.contains(&Some(0)) && codes.contains(&Some(1)), "{codes:?}: {log}{}", two.stderr);
        assert_eq!(site.up_count("lb1").await, 3);
    }
    site.down_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_once_puts_hosts_back_and_twice_ends_at_once() {
    if !can_make_namespaces() {
        return;
    }
    let site = Site::up("ctrl", Plan::default()).await;
    // Once, before the command: the host is put back, the roll is stopped.
    let rolling = site.start(&[], &site.replace("2.0.0"));
    site.until_step("web2", "step-began", "down").await;
    rolling.signal(Signal::SIGINT);
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("web2: put back into service") && log.contains("interrupted"), "{log}");
    assert_eq!(site.up_count("lb1").await, 3);
    repaired_by(&site, "--resume").await;

    // Once, behind it: the host goes through, the next is not begun.
    let slow =
        ["sh".to_owned(), "-c".to_owned(), format!("echo $$ > pid; sleep 1; {}", site.replace("3.0.0")[2])];
    let rolling = site.start(&[], &slow);
    site.until_step("web1", "step-began", "command").await;
    rolling.signal(Signal::SIGINT);
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("web1: done") && !log.contains("web2: forward-off"), "{log}");
    repaired_by(&site, "--resume").await;

    // Twice: at once, with the command ended and the journal whole.
    let stuck = ["sh".to_owned(), "-c".to_owned(), "echo $$ > pid; sleep 600".to_owned()];
    let pid = site.operator.dir().join("pid");
    std::fs::remove_file(&pid).unwrap();
    let rolling = site.start(&[], &stuck);
    site.until("the command at work", async || pid.exists()).await;
    rolling.signal(Signal::SIGINT);
    tokio::time::sleep(MS * 50).await;
    rolling.signal(Signal::SIGINT);
    let (code, log) = rolling.ended().await;
    assert_eq!(code, Some(1), "{log}");
    let pid = std::fs::read_to_string(&pid).unwrap();
    site.until("the command is ended", async || {
        !std::path::Path::new(&format!("/proc/{}", pid.trim())).exists()
    })
    .await;
    repaired_by(&site, "--abort").await;
    site.down_without_loss().await;
}
