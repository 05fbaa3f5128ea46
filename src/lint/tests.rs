use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::balancer::CheckTiming;
use crate::model::deployment::WebServer;
use crate::model::example;
use crate::model::finding::samples;
use crate::templates::working_set::tests::make_working_set;

mod lines;
mod state;

const SECOND: Duration = Duration::from_secs(1);

fn timing() -> CheckTiming {
    CheckTiming { inter: SECOND, fastinter: Some(SECOND / 5), fall: 3, rise: 2, timeout: Some(SECOND) }
}

fn fleet() -> Fleet {
    let hosts = vec![example::host("web1", "10.0.0.11"), example::host("web2", "10.0.0.12")];
    let balancers = vec![BalancerSpec { check: timing(), ..example::balancer("lb1", None) }];
    Fleet { hosts, balancers, ..example::fleet() }
}

/// Renders haproxy.cfg as `switchman init` writes it.
fn good() -> String {
    let mut site = make_working_set(WebServer::Nginx, &[("web1", "10.0.0.11"), ("web2", "10.0.0.12")]);
    site.balancer.check = timing();
    site.render_haproxy().unwrap()
}

/// The lint of one file, as the only one of a balancer.
pub(super) fn lint_text(text: &str, fleet: &Fleet) -> Vec<Finding> {
    lint_files(vec![CfgFile::decode("haproxy.cfg", text.as_bytes())], fleet)
}

fn lint_files(files: Vec<CfgFile>, fleet: &Fleet) -> Vec<Finding> {
    lint(&HaproxyCfg { files, ..HaproxyCfg::default() }, fleet)
}

fn ids_of(text: &str, fleet: &Fleet) -> Vec<&'static str> {
    lint_text(text, fleet).into_iter().map(|finding| finding.id).collect()
}

fn ids(text: &str) -> Vec<&'static str> {
    ids_of(text, &fleet())
}

#[test]
fn init_templates_pass_the_lint() {
    assert_eq!(ids(&good()), Vec::<&str>::new());
}

#[test]
fn vhosts_with_servers_of_any_name_are_found_by_address() {
    let text =
        good().replace("server main-web1 ", "server srv7 ").replace("server backup-web1 ", "server spare ");
    assert_eq!(ids(&text), Vec::<&str>::new());
    // The checks of a vhost are those of its line, and name it.
    let text = text.replacen("check port 8888", "check", 1);
    assert!(ids(&text).contains(&"haproxy-check-port"), "{:?}", ids(&text));
}

#[test]
fn slots_that_resolve_at_run_time_are_pairs_of_their_own() {
    let slot = "default-server resolvers dns init-addr none resolve-opts allow-dup-ip\n ";
    let text = good()
        .replacen("server main-web1", &format!("{slot}server main-web1"), 1)
        .replace("main-web1 10.0.0.11", "main-1 1.shop.example")
        .replace("backup-web1 10.0.0.11", "backup-1 1.shop.example")
        .replace("main-web2 10.0.0.12", "main-2 2.shop.example")
        .replace("backup-web2 10.0.0.12", "backup-2 2.shop.example");
    let resolvers = "\nresolvers dns\n nameserver a 127.0.0.1:8600\n hold timeout 24h\n hold refused 24h\n hold other 24h\n";
    let text = format!("{text}{resolvers}");
    let found = ids(&text);
    assert!(!found.contains(&"haproxy-no-server") && !found.contains(&"haproxy-unknown-host"), "{found:?}");
    let unchecked = text.replacen("check port 8888", "check", 1);
    assert!(ids(&unchecked).contains(&"haproxy-check-port"), "{:?}", ids(&unchecked));
    let forgetful = text.replace(" hold timeout 24h\n", "");
    assert!(ids(&forgetful).contains(&"haproxy-resolvers-hold"), "{:?}", ids(&forgetful));
}

/// A text of the good file, its replacement, and the finding that the change must cause.
type Case = (&'static str, String, &'static str);

fn replace(from: &'static str, to: &str, id: &'static str) -> Case {
    (from, to.to_owned(), id)
}

fn append(to: &'static str, more: &str, id: &'static str) -> Case {
    (to, format!("{to}{more}"), id)
}

/// A section before the statistics.
fn insert(section: &str, id: &'static str) -> Case {
    ("listen stats", format!("{section}listen stats"), id)
}

/// Lists changes to the good file, each with the finding that it must cause.
fn misconfigurations() -> Vec<Case> {
    vec![
        replace("\nbackend servers", "\nbackend others", "haproxy-no-backend"),
        replace("mode 600 level admin", "mode 660 level admin", "haproxy-socket-open"),
        replace("mode 600 level admin", "level admin", "haproxy-socket-open"),
        replace("9999 level user", "9999 level admin", "haproxy-socket-remote-admin"),
        replace("server-state-file /var", "# /var", "haproxy-no-state-file"),
        replace("load-server-state-from-file global", "", "haproxy-state-not-loaded"),
        replace("option redispatch 1", "", "haproxy-no-redispatch"),
        replace("option redispatch 1", "option redispatch 3", "haproxy-late-redispatch"),
        replace("retries 3", "retries 0", "haproxy-no-retries"),
        replace("option redispatch 1", "option redispatch", "haproxy-late-redispatch"),
        replace("option redispatch 1", "option redispatch 0", "haproxy-no-redispatch"),
        replace("balance roundrobin", "no option redispatch", "haproxy-no-redispatch"),
        replace("retries 3", "", "haproxy-default-retries"),
        replace("retries 3", "retry-on all-retryable-errors", "haproxy-retry-on"),
        replace("mode http", "", "haproxy-not-http"),
        replace("balance roundrobin", "mode tcp", "haproxy-not-http"),
        replace("option httpchk\n", "option tcp-check\n", "haproxy-no-httpchk"),
        replace("expect status 200", "expect ! status 200", "haproxy-any-2xx-3xx"),
        replace("expect status 200", "expect string ok", "haproxy-any-2xx-3xx"),
        replace("expect status 200", "comment x", "haproxy-any-2xx-3xx"),
        replace("uri /health", "uri /ghost", "haproxy-health-path"),
        replace("hdr Host shop.example", "hdr X-Ghost yes", "haproxy-check-without-host"),
        append("http-check expect status 200", "\n http-check connect port 8080", "haproxy-check-connect"),
        replace("option httpchk\n", "\n", "haproxy-no-httpchk"),
        replace("http-check expect status 200", "", "haproxy-any-2xx-3xx"),
        append("expect status 200", "-399", "haproxy-any-2xx-3xx"),
        replace("hdr Host shop.example", "", "haproxy-check-without-host"),
        append("http-check expect status 200", "\n http-check disable-on-404", "haproxy-disable-on-404"),
        replace("cookie SERVER_ID insert indirect nocache", "", "haproxy-no-cookie"),
        replace("indirect nocache", "", "haproxy-cookie-cached"),
        replace("SERVER_ID insert indirect nocache", "SERVER_ID prefix", "haproxy-cookie-not-inserted"),
        replace("from-file global", "from-file none", "haproxy-state-not-loaded"),
        replace("from-file global", "from-file local", "haproxy-state-not-loaded"),
        append("stats refresh 10s\n", " stats admin if TRUE\n bind :8405\n", "haproxy-stats-admin"),
        replace("timeout tunnel 1h", "", "haproxy-no-tunnel-timeout"),
        replace("timeout connect 5s", "", "haproxy-no-timeout"),
        replace("timeout check 1s", "", "haproxy-no-check-timeout"),
        replace("balance roundrobin", "http-reuse never", "haproxy-reuse-never"),
        replace("balance roundrobin", "http-reuse aggressive", "haproxy-pooling"),
        replace("option allbackups", "", "haproxy-one-backup"),
        append("option allbackups", "\n server-template w 3 10.0.0.1:80 check", "haproxy-server-template"),
        replace("rise 2 weight 100", "rise 2 weight 99", "haproxy-small-weight"),
        replace("rise 2 weight 100", "rise 2 weight 0", "haproxy-weight-zero"),
        append("rise 2 weight 100", " downinter 5s", "haproxy-downinter"),
        replace("rise 2 weight 100", "rise 3 weight 100", "haproxy-timing-differs"),
        replace("inter 1s fastinter 200ms", "inter 5s", "haproxy-slow-checks"),
        append("10.0.0.11:8080 check", " addr 127.0.0.1", "haproxy-check-elsewhere"),
        replace("10.0.0.11:8080 check port", "10.0.0.11:8080 no-check port", "haproxy-no-check"),
        replace("server backup-web2 10.0.0.12:80 ", "server other 10.0.0.99:80 ", "haproxy-no-server"),
        replace("10.0.0.11:8080", "[fd00::11]:8080", "haproxy-ipv6"),
        replace("cookie web1 backup", "backup", "haproxy-cookies-differ"),
        replace("rise 2 weight 100", "rise 2", "haproxy-small-weight"),
        append("rise 2 weight 100", " on-marked-down shutdown-sessions", "haproxy-shutdown-sessions"),
        replace("server main-web1 10.0.0.11:8080 ", "server other 10.0.0.99:8080 ", "haproxy-no-server"),
        replace("10.0.0.11:8080 check port 8888", "10.0.0.11:8080 check", "haproxy-check-port"),
        replace("10.0.0.11:8080 check port 8888", "10.0.0.11:8080", "haproxy-no-check"),
        replace("10.0.0.11:8080", "10.0.0.11:8888", "haproxy-data-on-check-port"),
        replace("10.0.0.11:8080", "10.0.0.11:8081", "haproxy-data-port"),
        replace("10.0.0.11:8080", "10.0.0.99:8080", "haproxy-address"),
        replace("check port 80 cookie web1", "check port 8888 cookie web1", "haproxy-backup-check-port"),
        replace("cookie web1 backup", "cookie web1", "haproxy-backup-not-backup"),
        replace("cookie web1 backup", "cookie other backup", "haproxy-cookies-differ"),
        append("check port 8888 cookie web1", " backup", "haproxy-main-is-backup"),
        append("10.0.0.11:8080 check port 8888", " agent-check agent-port 9", "haproxy-agent-check"),
        replace("fall 3", "fall 2", "haproxy-timing-differs"),
    ]
}

/// Every case causes its finding; `haproxy-nothing` means none at all.
fn assert_found(cases: Vec<Case>) {
    let good = good();
    for (from, to, id) in cases {
        assert!(good.contains(from), "{from}");
        let found = ids(&good.replacen(from, &to, 1));
        let is_found = found.contains(&id) || (id == "haproxy-nothing" && found.is_empty());
        assert!(is_found, "{from} -> {to}: {found:?}");
    }
}

#[test]
fn each_misconfiguration_is_found() {
    assert_found(misconfigurations());
}

/// One sample of every finding of the lint, with its fix.
#[test]
fn lint_findings_are_those_of_the_snapshots() {
    let (good, no_hosts) = (good(), Fleet { hosts: vec![], ..fleet() });
    let lint_all = |text: &str| lint_text(text, &fleet());
    let lint_case = |(from, to, _): Case| lint_all(&good.replacen(from, &to, 1));
    let mut found: Vec<Finding> = misconfigurations().into_iter().flat_map(lint_case).collect();
    found.extend(lint_all(&good.replace("stats socket", "log-tag")));
    found.extend(lint_all("defaults\n option httpchk\nbackend servers\n http-check expect status 200\n"));
    found.extend(lint_text(&good.replace("server main-web1 ", "server web1 "), &no_hosts));
    found.extend(lines::traps().into_iter().chain(lines::check_traps()).flat_map(lint_case));
    found.extend(lines::other_samples());
    samples::assert_snapshot("findings-haproxy.txt", &found, &["src/lint"]);
}

#[test]
fn missing_stats_socket_is_found() {
    let without = good().replace("stats socket", "log-tag");
    assert!(ids(&without).contains(&"haproxy-no-stats-socket"));
    assert!(ids("backend servers\n").contains(&"haproxy-no-stats-socket"));
}

/// Each case is another form of the same setting, or is not switchman's concern.
#[test]
fn valid_settings_are_not_reported() {
    for (from, to) in [
        ("rise 2 weight 100", "weight 100 rise 2 check cookie backup no-check"),
        ("rise 2 weight 100", "weight 100 rise 2 port 80"),
        ("cookie web1", "cookie \"web1\""),
        ("cookie web1", "'cookie' web\\1"),
        ("check port 8888 cookie web1", "check port ${CHECK} cookie web1"),
        ("10.0.0.11:8080", "web1.internal:8080"),
        ("inter 1s fastinter 200ms", "inter 1000 fastinter 200000us"),
        ("expect status 200", "expect rstatus ^200$"),
        ("expect status 200", "expect comment alive status 200"),
        ("expect status 200", "expect status 200\n http-check expect string ok"),
        ("hdr Host shop.example", "hdr host other.example"),
        ("balance roundrobin", "balance leastconn\n option httpclose"),
        ("balance roundrobin", "http-reuse safe\n option http-server-close"),
        ("rise 2 weight 100", "rise 2 weight 100 pool-max-conn 0\n http-reuse always"),
        (
            "server-state-file /var/lib/haproxy/servers.state",
            "server-state-file /var/lib/haproxy/servers.state\n tune.bufsize 1",
        ),
        ("stats refresh 10s", "stats admin if TRUE"),
        ("stats refresh 10s", "stats admin if { src 10.0.0.0/8 }\n bind :8405"),
        ("stats refresh 10s", "stats admin if TRUE\n stats auth ops:secret\n bind :8405"),
        ("level admin", "level admin expose-fd listeners"),
        (
            "option allbackups",
            "option allbackups\n server sorry 10.0.0.99:81 backup\n server other 10.0.0.98:81",
        ),
        ("defaults\n", "defaults base\n option http-keep-alive\ndefaults from base\n"),
        ("option httpchk\n", "option httpchk\n http-check send-state\n"),
    ] {
        let good = good();
        assert!(good.contains(from), "{from}");
        assert_eq!(ids(&good.replace(from, to)), Vec::<&str>::new(), "{from} -> {to}");
    }
    let unknown = good().replace("10.0.0.11:8080", "\"10.0.0.11:${DATA}\"");
    assert_eq!(ids(&unknown), ["haproxy-environment"]);
    // The whole request in `option httpchk`, as before HAProxy 2.2.
    let old = good()
        .replace("option httpchk\n", "option httpchk GET /health HTTP/1.1\\r\\nHost:\\ shop.example\n")
        .lines()
        .filter(|line| !line.contains("http-check send"))
        .collect::<Vec<_>>()
        .join("\n")
        + "\n";
    assert_eq!(ids(&old), Vec::<&str>::new());
}

/// Words of HAProxy's own regression tests (haproxy/haproxy, reg-tests): 290 configurations have no false refusal.
#[test]
fn words_with_arguments_are_not_refused() {
    for (from, to) in [
        ("rise 2 weight 100", "rise 2 weight 100 set-proxy-v2-tlv-fmt(0xE1) %[fc_pp_tlv(0xE1)]"),
        ("option httpchk\n", "option httpchk\n http-check set-var(check.path) str(/health)\n"),
        ("balance roundrobin", "balance sticky"),
        ("timeout connect 5s", "timeout connect 5s\n errorfile 503 /etc/haproxy/503.http"),
    ] {
        let good = good();
        assert!(good.contains(from), "{from}");
        assert_eq!(ids(&good.replace(from, to)), Vec::<&str>::new(), "{from} -> {to}");
    }
}

/// The rules of a check are not merged with those of `defaults`; `sys::haproxy` has a test with a real HAProxy.
#[test]
fn check_inherits_all_its_rules_or_none() {
    let rules = ["option httpchk\n", "http-check send meth", "http-check expect status 200\n"];
    let move_up = |good: &str, moved: &[&str]| {
        let (up, rest): (Vec<&str>, Vec<&str>) = good
            .split_inclusive('\n')
            .partition(|line| moved.iter().any(|start| line.trim_start().starts_with(start)));
        rest.concat().replacen("defaults\n", &format!("defaults\n{}", up.concat()), 1)
    };
    assert_eq!(ids(&move_up(&good(), &rules)), Vec::<&str>::new());
    assert_eq!(ids(&move_up(&good(), &rules[..2])), ["haproxy-check-sends-nothing"]);
    assert_eq!(ids(&move_up(&good(), &rules[..1])), Vec::<&str>::new());
    assert_eq!(ids(&move_up(&good(), &rules[1..2])), ["haproxy-check-without-host"]);
    assert_eq!(ids(&move_up(&good(), &rules[2..])), ["haproxy-any-2xx-3xx"]);
    let found = lint_text(&move_up(&good(), &rules[2..]), &fleet());
    assert!(found[0].reason.ends_with("(the `http-check` lines of `defaults` do not count beside its own)"));
}

#[test]
fn every_server_line_is_linted_without_hosts() {
    let one_host = Fleet { hosts: vec![], ..fleet() };
    let ids = |text: &str| lint_text(text, &one_host).iter().map(|f| f.id).collect::<Vec<_>>();
    let good = good();
    assert_eq!(ids(&good), Vec::<&str>::new());
    for (from, to, id) in [
        ("10.0.0.12:8080 check port 8888", "10.0.0.12:8080 check", "haproxy-check-port"),
        ("server backup-web1 ", "server spare ", "haproxy-no-server"),
        ("cookie web2 backup", "cookie web2", "haproxy-backup-not-backup"),
        ("server main-web1 ", "server web1 ", "haproxy-server-name"),
    ] {
        assert!(good.contains(from), "{from}");
        assert_eq!(ids(&good.replace(from, to)), [id], "{from} -> {to}");
    }
    let none: String = good.split_inclusive('\n').filter(|line| !line.contains("server main-")).collect();
    assert_eq!(ids(&none), ["haproxy-no-server"]);
}

#[test]
fn missing_server_line_is_suggested() {
    let without = good().replace("server main-web1 10.0.0.11:8080 ", "server other 10.0.0.99:8080 ");
    let found = lint_text(&without, &fleet());
    let missing = found.iter().find(|finding| finding.id == "haproxy-no-server").unwrap();
    let line = "server main-web1 10.0.0.11:8080 check port 8888 cookie web1";
    assert!(missing.fix.starts_with(&format!("add `{line}`, ")), "{}", missing.fix);
    assert!(good().contains(line));
}

#[test]
fn timing_difference_is_reported_with_the_line_to_write() {
    let found = lint_text(&good().replace("fall 3 rise 2", "fall 5 rise 4"), &fleet());
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].reason,
        "by these lines a switch takes DOWN up to 2s800ms, UP up to 2s600ms; by `load_balancers[].check` in switchman.yaml DOWN up to \
         2s400ms, UP up to 2s200ms"
    );
    assert_eq!(
        found[0].fix,
        "write `check: {inter: 1s, fastinter: 200ms, fall: 5, rise: 4, timeout: 1s}` in the entry `lb1` of `load_balancers` in switchman.yaml, \
         or its settings on every server line: one entry is for all hosts and services. Where the lines differ, take the slowest"
    );
}

#[test]
fn finding_names_its_line_and_fix() {
    let found = lint_text(&good().replace("retries 3", "retries 0"), &fleet());
    assert_eq!(found.len(), 1);
    let line = good().lines().position(|line| line.contains("retries 3")).unwrap() + 1;
    assert_eq!(found[0].subject, format!("haproxy.cfg:{line}"));
    assert_eq!(found[0].fix, "write `retries 3`");
}

proptest! {
    #[test]
    fn lint_never_panics_on_any_text(text in "((backend servers|global|defaults|defaults a from |server main-web1 |server |default-server |listen x|bind |option |http-check |stats admin |stats socket |inter |no |\\.if |\\.else|\\.endif|server-template |server a [$\"{]|track |use-server )?.{0,40}\n){0,20}") {
        let _ = ids(&text);
    }

    #[test]
    fn lint_never_panics_with_any_line_missing(skip in 0usize..80) {
        let text: Vec<String> = good().lines().enumerate().filter(|(at, _)| *at != skip).map(|(_, line)| line.to_owned()).collect();
        let _ = ids(&text.join("\n"));
    }
}
