use std::time::Duration;

use super::*;
use crate::model::example;

pub(crate) fn make_working_set(server: WebServer, hosts: &[(&str, &str)]) -> WorkingSet {
    let ms = Duration::from_millis;
    let check =
        CheckTiming { inter: ms(1000), fastinter: Some(ms(200)), fall: 2, rise: 2, timeout: Some(ms(1000)) };
    WorkingSet {
        slots: None,
        project: "shop".parse().unwrap(),
        server,
        ports: example::make_ports(),
        hosts: hosts.iter().map(|(name, address)| example::host(name, address)).collect(),
        health_path: "/health".into(),
        health_host: "shop.example".into(),
        root: "/srv/shop".into(),
        run_dir: "/run/shop".into(),
        log_dir: "/var/log/shop".into(),
        workers: "auto".into(),
        balancer: BalancerParams {
            log: "/dev/log local0".into(),
            bind: ":80".into(),
            stats: "127.0.0.1:8404".into(),
            backend: "servers".into(),
            admin_socket: "/run/haproxy/admin.sock".into(),
            read_only_socket: Some("10.0.0.2:9999".parse().unwrap()),
            state_file: "/var/lib/haproxy/servers.state".into(),
            check,
        },
    }
}

const PAIR: [(&str, &str); 2] = [("web1", "10.0.0.11"), ("web2", "fd00::12")];

/// Rows: Z2, Z8, Z9, Z15.
#[test]
fn server_lines_share_a_cookie_and_check_the_check_port() {
    let text = make_working_set(WebServer::Nginx, &PAIR).render_haproxy().unwrap();
    for line in [
        "    server main-web1 10.0.0.11:8080 check port 8888 cookie web1\n",
        "    server backup-web1 10.0.0.11:80 check port 80 cookie web1 backup\n",
        "    server main-web2 [fd00::12]:8080 check port 8888 cookie web2\n",
        "    stats socket ipv4@10.0.0.2:9999 level user\n",
        "    default-server inter 1s fastinter 200ms fall 2 rise 2 weight 100\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

/// Rows: E11, Z5, Z8, Z15, Z17, H3.
#[test]
fn haproxy_configuration_has_the_settings_that_the_guides_need() {
    let text = make_working_set(WebServer::Nginx, &PAIR).render_haproxy().unwrap();
    for line in [
        "    cookie SERVER_ID insert indirect nocache\n",
        "    option httpchk\n",
        "    http-check expect status 200\n",
        "    option allbackups\n",
        "    option redispatch 1\n",
        "    stats refresh 10s\n",
        "    stats realm HAProxy\\ Statistics\n",
        "    timeout connect 5s\n",
        "    timeout client 60s\n",
        "    timeout server 60s\n",
        "    timeout http-request 10s\n",
        "    timeout tunnel 1h\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    let (_, page) = text.split_once("listen stats\n").unwrap();
    assert!(page.trim_start().starts_with("bind 127.0.0.1:"), "{page}");
}

/// Rows: Z1, H7.
#[test]
fn main_and_backup_share_no_file() {
    for server in [WebServer::Nginx, WebServer::Apache, WebServer::Caddy] {
        let site = make_working_set(server, &PAIR);
        let own = |role: VhostRole| {
            let text = site.render_vhost(role, "/etc/shop/vhost.conf", "web1", None).unwrap();
            let paths = text.split_whitespace().map(|word| word.trim_end_matches(';').to_owned());
            let own: Vec<String> =
                paths.filter(|word| word.contains("/run/shop/") || word.contains("/log/shop/")).collect();
            assert!(own.len() >= 2, "{text}");
            own
        };
        let (main, backup) = (own(VhostRole::Main), own(VhostRole::Backup));
        assert!(main.iter().all(|path| !backup.contains(path)), "{main:?} {backup:?}");
    }
}

#[test]
fn application_replaces_static_files() {
    let site = make_working_set(WebServer::Nginx, &PAIR);
    let text = site
        .render_vhost(VhostRole::Main, "x", "web1 main", Some("127.0.0.1:9001".parse().unwrap()))
        .unwrap();
    assert!(text.contains("proxy_pass http://127.0.0.1:9001;") && !text.contains("try_files"), "{text}");
}

#[test]
fn fill_refuses_unmatched_placeholders_and_values() {
    assert_eq!(fill_template("a {{b}} c", &[("b", "B")]), Ok("a B c".into()));
    assert_eq!(fill_template("{{x}}", &[]), Err(TemplateError { placeholder: "x".into() }));
    assert_eq!(fill_template("a", &[("b", "B")]), Err(TemplateError { placeholder: "b".into() }));
    assert_eq!(fill_template("{{x", &[("x", "1")]), Err(TemplateError { placeholder: "{{".into() }));
}

#[test]
fn values_are_not_templates() {
    assert_eq!(fill_template("{{a}}{{b}}", &[("a", "{{b}}"), ("b", "B")]), Ok("{{b}}B".into()));
}
