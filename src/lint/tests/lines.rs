//! Lines judged by what HAProxy 2.6 does with them, and lines outside of the backend of the service.

use super::*;
use crate::model::finding::Severity;

const MAIN1: &str = "server main-web1 10.0.0.11:8080 check port 8888 cookie web1";
const OTHER: &str = "listen x\n bind :81\n server a 10.0.0.11:8080 check port 8888\n server b 10.0.0.12:8080 check port 8888\n";

pub(super) fn all_traps() -> Vec<Case> {
    [traps(), check_traps(), resolution_traps()].concat()
}

/// Lists changes to the good file, each with the finding that it must cause. The cases of the first group were seen with
/// HAProxy 2.6.12 by issue 11 A (users cut, kept or sent to the wrong vhost); the others follow from its manual, 4.2 and 5.2.
fn traps() -> Vec<Case> {
    vec![
        // The websocket backend without a check: 20 of 263 requests were 503.
        insert("backend ws\n server ws1 10.0.0.11:8080\n", "haproxy-unchecked-line"),
        insert("backend ws\n server w 10.0.0.12:8080 check\n", "haproxy-unchecked-line"),
        insert(
            "backend ws\n default-server check port 9\n server-template w 2 10.0.0.12:8080\n",
            "haproxy-unchecked-line",
        ),
        insert("listen x\n bind :8080\n server w 10.0.0.12\n", "haproxy-unchecked-line"),
        append("option allbackups", "\n server canary 10.0.0.11:8080 weight 1", "haproxy-unchecked-line"),
        insert("backend ws\n server s 10.0.0.11:8080 track servers/backup-web1\n", "haproxy-unchecked-line"),
        insert("backend ws\n server s 10.0.0.11:8888 check\n", "haproxy-line-on-check-port"),
        insert("backend ws\n server s 10.0.0.11:8080 check port 8888\n", "haproxy-no-alternative"),
        insert("backend ws\n server s app.lan:8080 check\n", "haproxy-address-unknown"),
        insert("backend ws\n server s \"${WS}\" check\n", "haproxy-address-unknown"),
        insert("listen y\n bind :82\n dispatch 10.0.0.12:8080\n", "haproxy-dispatch"),
        insert("listen y\n bind :82\n option transparent\n", "haproxy-transparent"),
        // HAProxy 2.6.12 does not start.
        replace(
            "check port 8888 cookie web1",
            "check port 8888 track backup-web1 cookie web1",
            "haproxy-track",
        ),
        insert("backend ws\n server a 10.0.0.99:1 track b\n server b 10.0.0.99:2\n", "haproxy-track"),
        // Users stayed on a main that is DOWN: 4 of 4.
        append("option allbackups", "\n option persist", "haproxy-persist"),
        append("retries 3", "\n option persist", "haproxy-persist"),
        append("on allbackups", "\n force-persist if TRUE", "haproxy-force-persist"),
        append("on allbackups", "\n force-persist if { src 10.0.0.9 }", "haproxy-force-persist"),
        append("on allbackups", "\n ignore-persist unless FALSE", "haproxy-ignore-persist"),
        append("on allbackups", "\n ignore-persist if { path_end .gif }", "haproxy-ignore-persist"),
        replace("cookie web2", "cookie web1", "haproxy-cookie-shared"),
        append("option allbackups", "\n stick-table type ip size 1k\n stick on src", "haproxy-stick-table"),
        append(
            "rise 2 weight 100",
            " on-marked-up shutdown-backup-sessions",
            "haproxy-shutdown-backup-sessions",
        ),
        append("rise 2 weight 100", " slowstart 30s", "haproxy-slowstart"),
        append("rise 2 weight 100", " init-state fully-down", "haproxy-init-state"),
        replace("10.0.0.11:8080", "10.0.0.11", "haproxy-no-port"),
        replace("10.0.0.11:8080", "10.0.0.11:+8000", "haproxy-no-port"),
        append("rise 2 weight 100", " send-proxy", "haproxy-check-protocol"),
        append("rise 2 weight 100", " check-send-proxy", "haproxy-check-protocol"),
        append("rise 2 weight 100", " ssl verify none", "haproxy-check-protocol"),
        append("rise 2 weight 100", " ssl check-ssl no-check-ssl", "haproxy-check-protocol"),
        append("rise 2 weight 100", " ssl check-ssl", "haproxy-other-protocol"),
        append("rise 2 weight 100", " proto h2", "haproxy-other-protocol"),
        replace("check port 80 cookie web1", "track main-web1 cookie web1", "haproxy-backup-check-port"),
        replace("10.0.0.11:8080 check port 8888", "10.0.0.11:8080 track backup-web1", "haproxy-check-port"),
        append("rise 2 weight 100", " observe layer7", "haproxy-observe"),
        append("check port 8888 cookie web1", " disabled", "haproxy-disabled"),
        append("rise 2 weight 100", " redir http://other", "haproxy-redir"),
        append("rise 2 weight 100", " maxqueue 9", "haproxy-maxqueue"),
        append("option allbackups", "\n use-server backup-web1 if TRUE", "haproxy-use-server"),
        append("option allbackups", "\n use-server main-web1 if { hdr(x) y }", "haproxy-use-server"),
        append("on allbackups", "\n http-after-response del-header Set-Cookie", "haproxy-cookie-lost"),
        append("on allbackups", "\n http-request del-header cookie", "haproxy-cookie-lost"),
        append("on allbackups", "\n http-request replace-value Cookie a b", "haproxy-cookie-lost"),
        append("option allbackups", "\n disabled", "haproxy-backend-disabled"),
        append("on allbackups", "\n option prefer-last-server", "haproxy-prefer-last-server"),
        append("insert indirect nocache", " postonly", "haproxy-cookie-not-inserted"),
        append("on allbackups", "\n server main-web3 10.0.0.13:8080 check port 8888", "haproxy-unknown-host"),
        append("on allbackups", "\n server x 10.0.0.9:80 \"${MORE[*]}\"", "haproxy-open-line"),
        replace("global\n", "stray\nglobal\n", "haproxy-refused"),
        replace("listen stats", "listen servers", "haproxy-refused"),
        replace("retries 3", ".if defined(X)\n retries 3", "haproxy-refused"),
        replace(
            "retries 3",
            ".if defined(X)\n retries 3\n.else\n retries 0\n.endif\n.if defined(Y)\n.endif",
            "haproxy-no-retries",
        ),
        replace("retries 3", ".if a\n.endif\n.if b\n.endif\n retries 3", "haproxy-conditions"),
        replace("retries 3", "retries \"${RETRIES-0}\"", "haproxy-no-retries"),
        replace("retries 3", "retries \"${RETRIES-0}\"", "haproxy-environment-default"),
        replace("retries 3", "retries \"$RETRIES\"", "haproxy-environment"),
        // Both mains UP for ever or without a weight: what remains for the rules of selection.
        append("cookie web2 backup", "\n server a 10.0.0.9:1 cookie web1", "haproxy-nothing"),
    ]
}

/// Lines whose addresses HAProxy resolves at run time.
fn resolution_traps() -> Vec<Case> {
    vec![
        append(
            "cookie web2 backup",
            " resolvers dns\nresolvers dns\n hold timeout 1s",
            "haproxy-resolvers-hold",
        ),
        replace(
            "server main-web1 10.0.0.11:8080",
            "server main-web1 w.lan:8080 resolvers default init-addr libc",
            "haproxy-init-addr",
        ),
        append(
            "option allbackups",
            "\n server main-1 1.lan:8080 check port 8888 cookie s1 resolvers default init-addr none\n server backup-1 1.lan:80 check \
             cookie s1 backup resolvers default init-addr none",
            "haproxy-shared-address",
        ),
    ]
}

/// What a main line is checked by, and rules beside it.
fn check_traps() -> Vec<Case> {
    vec![
        // HAProxy 3.4.7 does not start.
        insert("frontend servers\n bind :83\n", "haproxy-shared-name"),
        append("rise 2 weight 100", " proto h2 check-proto h1", "haproxy-check-protocol"),
        append("rise 2 weight 100", " check-proto h2", "haproxy-check-protocol"),
        append("option httpchk\n", " http-check connect ssl\n", "haproxy-check-protocol"),
        append("option httpchk\n", " http-check connect send-proxy\n", "haproxy-check-protocol"),
        replace("check port 8888 cookie web1", "check port 99999 cookie web1", "haproxy-check-port"),
        replace("check port 8888 cookie web1", "check port http cookie web1", "haproxy-check-port"),
        replace("rise 2 weight 100", "rise 2 weight high", "haproxy-weight-zero"),
        append("rise 2 weight 100", " healthcheck other", "haproxy-healthcheck"),
        append("option allbackups", "\n be-unpublished", "haproxy-backend-disabled"),
        append("on allbackups", "\n http-request deny if !{ srv_is_up(main-web1) }", "haproxy-state-rule"),
        append("on allbackups", "\n http-request deny if { srv_conn(main-web1) lt 1 }", "haproxy-state-rule"),
        insert(
            "listen ws\n bind :81\n http-request set-dst-port hdr(x-port)\n server a 10.0.0.11\n",
            "haproxy-port-unknown",
        ),
    ]
}

#[test]
fn each_trap_is_found() {
    assert_found(all_traps());
}

/// Adds a section before the statistics.
fn with_section(good: &str, section: &str) -> String {
    good.replacen("listen stats", &format!("{section}listen stats"), 1)
}

/// Swaps the lines of a host: with one cookie, users stay on the backup for ever (4 of 4).
fn with_backup_first(good: &str) -> String {
    let lines: Vec<&str> = good.lines().collect();
    let main = lines.iter().position(|line| line.contains("server main-web1 ")).unwrap();
    let mut swapped = lines;
    swapped.swap(main, main + 1);
    swapped.join("\n") + "\n"
}

/// The configurations of other findings, for the snapshot of texts.
pub(super) fn other_samples() -> Vec<Finding> {
    let good = good();
    let mut found = lint_text(&with_backup_first(&good), &fleet());
    let no_weights = good.replace("port 8888 cookie", "port 8888 weight 0 cookie");
    found.extend(lint_text(&no_weights, &fleet()));
    let extra = good.replacen(MAIN1, &format!("server a 10.0.0.9:81 cookie web1\n    {MAIN1}"), 1);
    found.extend(lint_text(&extra, &fleet()));
    found.extend(lint_text(&good, &Fleet { balancers: vec![], ..fleet() }));
    let endpoint = crate::model::balancer::StatsEndpoint::Tcp { host: "10.0.0.2".into(), port: 9998 };
    found.extend(lint_text(&good, &with_endpoint(&endpoint)));
    found
}

fn with_endpoint(endpoint: &crate::model::balancer::StatsEndpoint) -> Fleet {
    let balancers = fleet()
        .balancers
        .into_iter()
        .map(|spec| BalancerSpec { stats_endpoint: Some(endpoint.clone()), ..spec });
    Fleet { balancers: balancers.collect(), ..fleet() }
}

#[test]
fn selection_of_a_wrong_server_is_found_without_a_rule_of_its_own() {
    assert_eq!(ids(&with_backup_first(&good())), ["haproxy-backup-first"]);
    let extra = good().replacen(MAIN1, &format!("server a 10.0.0.9:81 cookie web1\n    {MAIN1}"), 1);
    assert_eq!(ids(&extra), ["haproxy-wrong-server"; 2], "with main UP and with main DOWN");
    let no_weights = ids(&good().replace("port 8888 cookie", "port 8888 weight 0 cookie"));
    assert!(no_weights.contains(&"haproxy-new-users-on-backup"), "{no_weights:?}");
}

/// Each case reaches a host and follows its forward, or does not reach a main vhost.
#[test]
fn lines_that_follow_the_forward_are_not_reported() {
    for more in [
        OTHER.to_owned(),
        OTHER.replace("10.0.0.12:8080 check port 8888", "10.0.0.12:8080 track servers/main-web2"),
        OTHER.replace("server b", "server c 10.0.0.99:8080\n server b"),
        "listen x\n bind :81\n server a 10.0.0.11:80\n".to_owned(),
        "listen x\n bind :81\n server a 10.0.0.99:8080\n server b unix@/run/x\n server c sub.lan:81\n"
            .to_owned(),
        "listen x\n bind :81\n server a 10.0.0.11:8080 disabled\n".to_owned(),
        "backend ws\n server a 10.0.0.11:8080 check port 8888\n server b 10.0.0.11:80 backup\n".to_owned(),
    ] {
        assert_eq!(ids(&with_section(&good(), &more)), Vec::<&str>::new(), "{more}");
    }
    // A main line that follows a check elsewhere is sound (a false finding before).
    let tracked = good().replacen("10.0.0.11:8080 check port 8888", "10.0.0.11:8080 track ws/a", 1);
    let more =
        "backend ws\n server a 10.0.0.11:8080 check port 8888\n server b 10.0.0.12:8080 check port 8888\n";
    assert_eq!(ids(&with_section(&tracked, more)), Vec::<&str>::new());
}

#[test]
fn names_are_looked_up_in_the_hosts_file_only() {
    let text = with_section(&good(), "backend ws\n server s app.lan:8080 check\n");
    let files = vec![CfgFile::decode("haproxy.cfg", text.as_bytes())];
    for (address, id) in [("10.0.0.11", Some("haproxy-unchecked-line")), ("10.0.0.99", None)] {
        let addresses = parse_hosts_file(&format!("{address} app.lan"));
        let found = lint(&HaproxyCfg { files: files.clone(), addresses }, &fleet());
        assert_eq!(found.first().map(|finding| finding.id), id);
    }
}

#[test]
fn conditional_rules_are_weaker_than_unconditional_ones() {
    let severity = |rule: &str| {
        let text = good().replacen("option allbackups", &format!("option allbackups\n {rule}"), 1);
        lint_text(&text, &fleet()).first().map(|finding| finding.severity)
    };
    assert_eq!(severity("force-persist if TRUE"), Some(Severity::Problem));
    assert_eq!(severity("force-persist if { always_true }"), Some(Severity::Problem));
    assert_eq!(severity("force-persist if { src 10.0.0.9 }"), Some(Severity::Warning));
    assert_eq!(severity("force-persist if FALSE"), None);
    assert_eq!(severity("use-server main-web1 if { hdr(x) y }"), Some(Severity::Note));
    assert_eq!(severity("stick on src table t"), Some(Severity::Problem));
    // Seen with HAProxy 2.6.12: with `non-stick` on the backup lines users still get no cookie.
    let stick = "option allbackups\n stick-table type ip size 1k\n stick on src";
    let stuck = good().replacen("option allbackups", stick, 1);
    let non_stick = |key: &str| stuck.replace(key, &format!("{key} non-stick"));
    assert_eq!(ids(&non_stick("1 backup")), ["haproxy-stick-table"]);
    assert_eq!(ids(&non_stick("rise 2")), Vec::<&str>::new());
}

/// Parsed as HAProxy parses: files in their order, sections of one kind, marks at the start.
#[test]
fn files_are_read_in_order_and_findings_name_theirs() {
    let good = good();
    let (front, back) = good.split_at(good.find("\nbackend servers").unwrap() + 1);
    let back = back.replacen("option allbackups", "option allbackups\r\n option persist", 1);
    let files = [("10-front.cfg", front), ("20-back.cfg", back.as_str())];
    let files = files.map(|(name, text)| CfgFile::decode(name, text.as_bytes())).to_vec();
    let found = lint_files(files.clone(), &fleet());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].subject.starts_with("20-back.cfg:"), "{}", found[0].subject);
    let open = [(".if 1\n", 1), ("global\n.endif\n", 3)];
    for (at, (text, line)) in open.into_iter().enumerate() {
        let mut files = files.clone();
        files.insert(0, CfgFile::decode("0.cfg", b"# empty\n"));
        files.insert(at, CfgFile::decode("open.cfg", text.as_bytes()));
        let found = lint_files(files, &fleet());
        let refused = found.iter().find(|finding| finding.id == "haproxy-refused").unwrap();
        assert_eq!(refused.subject, format!("open.cfg:{}", line.min(2)), "{text}");
    }
    let marked = CfgFile::decode("marked.cfg", format!("\u{feff}{good}").as_bytes());
    let found = lint_files(vec![marked], &fleet());
    assert_eq!(found.iter().map(|finding| finding.id).collect::<Vec<_>>(), ["haproxy-refused"]);
}

#[test]
fn every_service_and_balancer_is_judged() {
    let mut fleet = fleet();
    let blog = crate::model::fleet::AdditionalService {
        ports: crate::model::ports::Ports {
            check: example::port(8889),
            main: example::port(8081),
            backup: example::port(81),
        },
        health: fleet.health.clone(),
        backend: "blog".into(),
    };
    fleet.additional_services.insert("blog".parse().unwrap(), blog);
    let good = good();
    let at = good.find("\nbackend servers").unwrap();
    let section = good[at..]
        .replace("backend servers", "backend blog")
        .replace(":8080 check port 8888", ":8081 check port 8889");
    let blog = section.replace(":80 check port 80 ", ":81 check port 81 ");
    assert_eq!(ids_of(&format!("{good}\n{blog}"), &fleet), Vec::<&str>::new());
    assert_eq!(
        ids_of(&format!("{good}\n{}", blog.replace("port 8889", "port 8888")), &fleet)[0],
        "haproxy-check-port"
    );
    assert_eq!(ids_of(&good, &fleet), ["haproxy-no-backend"]);
    let mut second = fleet.balancers[0].clone();
    second.backend = "elsewhere".into();
    fleet.balancers.push(second);
    fleet.additional_services.clear();
    let found = lint_text(&good, &fleet);
    assert_eq!((found[0].id, found[0].severity), ("haproxy-no-backend", Severity::Warning));
}

/// Without balancers in switchman.yaml there was silence.
#[test]
fn defaults_are_used_without_load_balancers() {
    for hosts in [vec![], fleet().hosts] {
        let fleet = Fleet { balancers: vec![], hosts, ..fleet() };
        assert_eq!(ids_of(&good(), &fleet), ["haproxy-defaults"]);
        let renamed = good().replace("servers", "app").replacen("check port 8888", "check", 1);
        assert_eq!(ids_of(&renamed, &fleet), ["haproxy-check-port", "haproxy-defaults"]);
        assert_eq!(ids_of("global\n", &fleet).last(), Some(&"haproxy-defaults"));
    }
}

/// Where the backend of a service is missing, its hosts are known all the same.
#[test]
fn hosts_are_reached_without_the_backend_of_the_service() {
    let text = good().replace("backend servers", "backend renamed").replacen("check port 8888", "check", 1);
    let found = ids(&text);
    assert!(found.contains(&"haproxy-no-backend") && found.contains(&"haproxy-unchecked-line"), "{found:?}");
}

#[test]
fn tracked_line_of_another_service_does_not_follow_the_forward() {
    for (tracked, is_found) in
        [("servers/main-web1", false), ("servers/main-web2", true), ("nowhere/x", true)]
    {
        let ws = format!("backend ws\n server a 10.0.0.11:8080 track {tracked}\n server b 10.0.0.99:80\n");
        let found = ids(&with_section(&good(), &ws));
        assert_eq!(found.contains(&"haproxy-unchecked-line"), is_found, "{tracked}: {found:?}");
    }
}

/// HAProxy 2.6.12 starts with each of these.
#[test]
fn track_that_haproxy_accepts_is_not_refused() {
    for tracked in
        ["check", "check disabled", "agent-check agent-port 9", "track c\n server c 10.0.0.99:3 check"]
    {
        let ws = format!(
            "backend ws\n server a 10.0.0.99:1 track b\n server b 10.0.0.99:2 {tracked}\nlisten stats"
        );
        let found = ids(&good().replacen("listen stats", &ws, 1));
        assert!(!found.contains(&"haproxy-track"), "{tracked}: {found:?}");
    }
}

#[test]
fn endpoint_is_looked_for_in_the_file() {
    use crate::model::balancer::StatsEndpoint::{Http, Tcp, Unix};
    for (endpoint, is_found) in [
        (Unix("/run/haproxy/admin.sock".into()), true),
        (Unix("/run/haproxy/other.sock".into()), false),
        (Tcp { host: "lb1".into(), port: 9999 }, true),
        (Tcp { host: "lb1".into(), port: 9998 }, false),
        (Http("http://ops:secret@lb1:8404/stats".into()), true),
        (Http("http://lb1:8405/stats".into()), false),
    ] {
        let found = lint_text(&good(), &with_endpoint(&endpoint));
        assert_eq!(found.iter().all(|finding| finding.id != "haproxy-no-endpoint"), is_found, "{endpoint}");
        assert_eq!(found.is_empty(), is_found, "{found:?}");
    }
}
