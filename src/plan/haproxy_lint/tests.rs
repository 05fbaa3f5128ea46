use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::balancer::CheckTiming;
use crate::model::example;
use crate::plan::site::{BalancerSite, Site, WebServer};

const SECOND: Duration = Duration::from_secs(1);

fn timing() -> CheckTiming {
    CheckTiming { inter: SECOND, fastinter: Some(SECOND / 5), fall: 3, rise: 2, timeout: Some(SECOND) }
}

fn fleet() -> Fleet {
    let hosts = vec![example::host("web1", "10.0.0.11"), example::host("web2", "10.0.0.12")];
    Fleet { hosts, ..example::fleet() }
}

fn spec() -> BalancerSpec {
    BalancerSpec { check: timing(), ..example::balancer("lb1", None) }
}

/// What `switchman init` writes.
fn good() -> String {
    let Fleet { ports, hosts, .. } = fleet();
    let balancer = BalancerSite {
        bind: ":80".into(),
        stats: "127.0.0.1:8404".into(),
        backend: "servers".into(),
        admin_socket: "/run/haproxy/admin.sock".into(),
        reader: Some("10.0.0.2:9999".parse().unwrap()),
        state_file: "/var/lib/haproxy/servers.state".into(),
        check: timing(),
    };
    let site = Site {
        project: "shop".parse().unwrap(),
        server: WebServer::Nginx,
        ports,
        hosts,
        health_path: "/health".into(),
        health_host: "shop.example".into(),
        root: "/r".into(),
        run_dir: "/r".into(),
        log_dir: "/r".into(),
        workers: "1".into(),
        balancer,
    };
    site.haproxy().unwrap()
}

fn ids(text: &str) -> Vec<&'static str> {
    lint("haproxy.cfg", text, &fleet(), &spec()).into_iter().map(|finding| finding.id).collect()
}

#[test]
fn what_init_writes_has_none_of_the_traps() {
    assert_eq!(ids(&good()), Vec::<&str>::new());
}

/// One change to the good file, and the trap it opens.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn each_trap_is_found() {
    let cases = [
        ("\nbackend servers", "\nbackend others", "haproxy-no-backend"),
        (
            "stats socket /run/haproxy/admin.sock mode 600 level admin",
            "stats socket /run/haproxy/admin.sock mode 660 level admin",
            "haproxy-socket-open",
        ),
        (
            "stats socket /run/haproxy/admin.sock mode 600 level admin",
            "stats socket /run/haproxy/admin.sock level admin",
            "haproxy-socket-open",
        ),
        ("9999 level user", "9999 level admin", "haproxy-socket-remote-admin"),
        ("server-state-file /var", "# /var", "haproxy-no-state-file"),
        ("load-server-state-from-file global", "", "haproxy-state-not-loaded"),
        ("option redispatch 1", "", "haproxy-no-redispatch"),
        ("option redispatch 1", "option redispatch 3", "haproxy-late-redispatch"),
        ("retries 3", "retries 0", "haproxy-no-retries"),
        ("retries 3", "retry-on all-retryable-errors", "haproxy-retry-on"),
        ("option httpchk\n", "\n", "haproxy-no-httpchk"),
        ("http-check expect status 200", "", "haproxy-any-2xx-3xx"),
        ("expect status 200", "expect status 200-399", "haproxy-any-2xx-3xx"),
        ("hdr Host shop.example", "", "haproxy-check-without-host"),
        (
            "http-check expect status 200",
            "http-check expect status 200\n http-check disable-on-404",
            "haproxy-disable-on-404",
        ),
        ("cookie SERVER_ID insert indirect nocache", "", "haproxy-no-cookie"),
        ("indirect nocache", "", "haproxy-cookie-cached"),
        ("timeout tunnel 1h", "", "haproxy-no-tunnel-timeout"),
        ("timeout connect 5s", "", "haproxy-no-timeout"),
        ("timeout check 1s", "", "haproxy-no-check-timeout"),
        ("balance roundrobin", "http-reuse never", "haproxy-reuse-never"),
        ("option allbackups", "", "haproxy-one-backup"),
        ("rise 2 weight 100", "rise 2", "haproxy-small-weight"),
        (
            "rise 2 weight 100",
            "rise 2 weight 100 on-marked-down shutdown-sessions",
            "haproxy-shutdown-sessions",
        ),
        ("server main-web1 ", "server other ", "haproxy-no-server"),
        ("10.0.0.11:8080 check port 8888", "10.0.0.11:8080 check", "haproxy-check-port"),
        ("10.0.0.11:8080 check port 8888", "10.0.0.11:8080", "haproxy-no-check"),
        ("10.0.0.11:8080", "10.0.0.11:8888", "haproxy-data-on-check-port"),
        ("10.0.0.11:8080", "10.0.0.11:8081", "haproxy-data-port"),
        ("10.0.0.11:8080", "10.0.0.99:8080", "haproxy-address"),
        ("check port 80 cookie web1", "check port 8888 cookie web1", "haproxy-backup-check-port"),
        ("cookie web1 backup", "cookie web1", "haproxy-backup-not-backup"),
        ("cookie web1 backup", "cookie other backup", "haproxy-cookies-differ"),
        ("check port 8888 cookie web1", "check port 8888 cookie web1 backup", "haproxy-main-is-backup"),
        (
            "check port 8888 cookie web1",
            "check port 8888 agent-check agent-port 9 cookie web1",
            "haproxy-agent-check",
        ),
        ("fall 3", "fall 2", "haproxy-timing-differs"),
    ];
    let good = good();
    for (from, to, id) in cases {
        assert!(good.contains(from), "{from}");
        let found = ids(&good.replacen(from, to, 1));
        assert!(found.contains(&id), "{from} -> {to}: {found:?}");
    }
}

#[test]
fn a_finding_names_its_line_and_its_fix() {
    let found = lint("haproxy.cfg", &good().replace("retries 3", "retries 0"), &fleet(), &spec());
    assert_eq!(found.len(), 1);
    let line = good().lines().position(|line| line.contains("retries 3")).unwrap() + 1;
    assert_eq!(found[0].subject, format!("haproxy.cfg:{line}"));
    assert_eq!(found[0].fix, "write `retries 3`");
}

proptest! {
    #[test]
    fn any_text_is_linted(text in "((backend servers|global|defaults|server main-web1|listen)?.{0,40}\n){0,12}") {
        let _ = ids(&text);
    }

    #[test]
    fn a_good_file_with_any_line_missing_is_linted(skip in 0usize..80) {
        let text: Vec<String> = good().lines().enumerate().filter(|(at, _)| *at != skip).map(|(_, line)| line.to_owned()).collect();
        let _ = ids(&text.join("\n"));
    }
}
