//! Rules that decide by the state of main lines, and addresses that rules set.

use super::*;
use crate::model::finding::Severity;

const DEFAULT_BACKEND: &str = "    default_backend servers\n";

/// The worst finding of an id, with lines in the frontend before `default_backend`.
fn find_severity(lines: &str, id: &str) -> Option<Severity> {
    let good = good();
    assert!(good.contains(DEFAULT_BACKEND));
    let text = good.replacen(DEFAULT_BACKEND, &format!("    {lines}\n{DEFAULT_BACKEND}"), 1);
    find_worst(&text, id)
}

fn find_worst(text: &str, id: &str) -> Option<Severity> {
    let found = lint_text(text, &fleet());
    let refused: Vec<_> = found.iter().filter(|finding| finding.id == "haproxy-refused").collect();
    assert!(refused.is_empty(), "{text}: {refused:?}");
    found.iter().filter(|finding| finding.id == id).map(|finding| finding.severity).max()
}

const RULE: &str = "haproxy-state-rule";

/// Each rule acts while one host is in maintenance. Sources: configuration manual, 7.3.2 (`srv_is_up`, `nbsrv`), 4.2 (`monitor
/// fail`).
#[test]
fn rules_by_the_state_of_main_lines_are_problems() {
    for lines in [
        "use_backend stats if !{ srv_is_up(servers/main-web1) }",
        "use_backend stats unless { srv_is_up(servers/main-web1) }",
        "use_backend stats if FALSE or ! { srv_is_up(servers/main-web2) -m bool }",
        "acl is_down srv_is_up(servers/main-web1) eq 0\n    use_backend stats if is_down",
        "acl is_up srv_is_up(servers/main-web1)\n    acl is_up always_false\n    use_backend stats if !is_up",
        "use_backend stats if { nbsrv(servers) lt 2 }",
        "use_backend servers if { nbsrv(servers) 2 3 }",
        "http-request return status 503 if { nbsrv(servers) 1 }",
        "http-request deny if !{ srv_is_up(servers/main-web2) }",
        "http-request silent-drop if !{ srv_is_up(servers/main-web2) }",
        "http-request redirect location /sorry if { srv_is_up(servers/main-web1),not }",
        "redirect location /sorry if !{ srv_is_up(servers/main-web1) }",
        "monitor-uri /alive\n    monitor fail if { nbsrv(servers) le 1 }",
        "tcp-request content reject if !{ srv_is_up(servers/main-web1) }",
        "http-response deny if !{ srv_is_up(servers/main-web1) }",
    ] {
        assert_eq!(find_severity(lines, RULE), Some(Severity::Problem), "{lines}");
    }
    for lines in [
        "http-request deny if !{ srv_is_up(main-web1) }",
        "use-server backup-web1 if !{ srv_is_up(main-web1) }",
        "http-request return status 503 if { nbsrv lt 2 }",
    ] {
        let text = good().replacen("option allbackups", &format!("option allbackups\n    {lines}"), 1);
        assert_eq!(find_worst(&text, RULE), Some(Severity::Problem), "{lines}");
    }
}

#[test]
fn rules_that_may_follow_the_state_of_main_lines_are_warnings() {
    for lines in [
        "use_backend stats if { path /x } !{ srv_is_up(servers/main-web1) }",
        "use_backend stats if { connslots(servers) lt 10 }",
        "use_backend stats if { avg_queue(servers) gt 10 }",
        "use_backend stats if { be_conn_free(servers) lt 1 }",
        "use_backend stats if { srv_conn(servers/main-web1) lt 1 }",
        "use_backend stats if { str(servers),nbsrv lt 2 }",
        "use_backend stats if { nbsrv(servers),add(1) lt 3 }",
        "use_backend %[srv_is_up(servers/main-web1),iif(servers,stats)]",
        "http-request set-var(txn.out) bool(true) if !{ srv_is_up(servers/main-web1) }\n    use_backend stats if { var(txn.out) -m bool }",
        "http-request set-var(txn.n) nbsrv(servers)\n    use_backend stats if { var(txn.n) -m int lt 2 }",
        "http-request set-header X-Out 1 if !{ srv_is_up(servers/main-web1) }\n    use_backend stats if { req.hdr(x-out) 1 }",
        "http-request set-var(txn.a) nbsrv(servers)\n    http-request set-var(txn.b) var(txn.a)\n    http-request deny if { var(txn.b) 1 }",
        // With both hosts in maintenance both backup vhosts count.
        "use_backend stats if { nbsrv(servers) 2 } !{ srv_is_up(servers/main-web1) } { path / }",
    ] {
        assert_eq!(find_severity(lines, RULE), Some(Severity::Warning), "{lines}");
    }
}

#[test]
fn rules_that_no_maintenance_changes_are_not_reported() {
    for lines in [
        // Backup vhosts count as well.
        "use_backend stats if { nbsrv(servers) lt 1 }",
        "monitor-uri /alive\n    monitor fail if { nbsrv(servers) eq 0 }",
        "use_backend stats if { nbsrv(stats) lt 1 }",
        "use_backend stats if !{ srv_is_up(servers/backup-web1) }",
        "http-request set-header X-Count %[nbsrv(servers)]",
        "use_backend stats if { path /x } or { var(txn.other) 1 }",
        "http-request deny if FALSE !{ srv_is_up(servers/main-web1) }",
        "http-request deny if { nbsrv(servers) ge 0 } { src 10.0.0.9 }",
        "log-format %[nbsrv(servers)]",
    ] {
        assert_eq!(find_severity(lines, RULE), None, "{lines}");
    }
}

/// `set-dst` and `set-dst-port` count for lines without an address and port (configuration manual, 4.2).
#[test]
fn addresses_that_rules_set_are_followed() {
    let section = |lines: &str| {
        let section = format!("listen ws\n    bind :81\n    {lines}\n\nlisten stats");
        good().replacen("listen stats", &section, 1)
    };
    for (lines, id) in [
        (
            "http-request set-dst ipv4(10.0.0.11)\n    http-request set-dst-port int(8080)\n    server a 0.0.0.0:0",
            "haproxy-unchecked-line",
        ),
        ("tcp-request content set-dst-port int(8080)\n    server a 10.0.0.11:0", "haproxy-unchecked-line"),
        ("http-request set-dst str(10.0.0.11)\n    server a 0.0.0.0:8080", "haproxy-unchecked-line"),
        ("http-request set-dst-port int(8888)\n    server a 10.0.0.11", "haproxy-line-on-check-port"),
        ("http-request set-dst-port hdr(x-port)\n    server a 10.0.0.11", "haproxy-port-unknown"),
        ("http-request set-dst-port hdr(x-port)\n    server a 0.0.0.0", "haproxy-address-unknown"),
        ("http-request set-dst hdr(x-host)\n    server a 0.0.0.0:8080", "haproxy-address-unknown"),
    ] {
        assert!(find_worst(&section(lines), id).is_some(), "{lines}: {:?}", ids(&section(lines)));
    }
    for lines in [
        "http-request set-dst-port int(8080)\n    server a 10.0.0.99",
        "http-request set-dst-port int(8081)\n    server a 10.0.0.11",
        "http-request set-dst ipv4(10.0.0.99)\n    server a 0.0.0.0:8080",
    ] {
        assert_eq!(ids(&section(lines)), Vec::<&str>::new(), "{lines}");
    }
    let in_front = "http-request set-dst-port int(8080)";
    let text = good().replacen("listen stats", "backend ws\n    server a 10.0.0.11:0\n\nlisten stats", 1);
    let text = text.replacen(DEFAULT_BACKEND, &format!("    {in_front}\n{DEFAULT_BACKEND}"), 1);
    assert!(find_worst(&text, "haproxy-unchecked-line").is_some());
}
