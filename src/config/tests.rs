use proptest::prelude::*;

use super::*;
use crate::model::balancer::StatsEndpoint;
use crate::model::host::Transport;
use crate::model::journal_location::{JournalLocation, Secret};

const GOOD: &str = r#"
service: shop
ports: {check: 8888, main: 8080, backup: 80}
hosts:
  web1: {address: 10.0.0.11, ssh: deploy@web1}
  web2: {address: 10.0.0.12, ssh: deploy@web2}
load_balancers:
  - {name: lb1, haproxy: "tcp://10.0.0.2:9999", backend: servers}
health: {path: /health, status: 200, host: shop.example, timeout: 2s, interval: 500ms, rise: 2}
roll: {batch: 1, max_failures: 0, min_up: 1, drain_timeout: 30s, on_failure: stop}
hooks: {before_host: [./warm-cache.sh], on_failure: [./page.sh]}
"#;

fn error(text: &str) -> String {
    parse_config(Path::new("switchman.yaml"), text).unwrap_err().to_string()
}

#[test]
fn hosts_are_written_and_listed_by_sources() {
    let read = |hosts: &str| {
        parse_config(Path::new("/etc/s/switchman.yaml"), &format!("service: shop\nhosts:\n{hosts}"))
    };
    let fleet = read(
        "  web1: {address: 10.0.0.1}\n  consul: {service: shop, token_file: t, agent: \"unix:///run/{host}.sock\"}\n  \
         dns: {a: web.internal, server: 10.0.0.2, ssh: \"deploy@{address}\"}\n",
    )
    .unwrap();
    assert_eq!(fleet.hosts.len(), 1);
    let texts: Vec<String> = fleet.discovery.iter().map(|source| source.lookup.to_string()).collect();
    assert_eq!(
        texts,
        [
            "service `shop` in Consul at http://127.0.0.1:8500",
            "A and AAAA records of `web.internal` at the DNS server 10.0.0.2:53"
        ]
    );
    let debug = format!("{:?}", fleet.discovery);
    assert!(debug.contains("/etc/s/t") && debug.contains("/run/{host}.sock"), "{debug}");
    for (hosts, text) in [
        ("  consul: {tag: x}\n", "switchman.yaml:3: `hosts.consul`: the key `service` is missing"),
        ("  consul: {service: x, adress: y}\n", "unknown key `adress`"),
        ("  consul: {service: x, address: \"127.0.0.1:8500\"}\n", "`hosts.consul.address`"),
        ("  dns: {}\n", "exactly one of `srv` and `a` is needed"),
        ("  dns: {a: x, srv: y}\n", "exactly one of `srv` and `a` is needed"),
        ("  dns: {a: \"x y\"}\n", "`hosts.dns.a`"),
        ("  dns: {a: x, server: ns1}\n", "`hosts.dns.server`"),
        ("  dns: {a: x, ssh: \"-oX {host}\"}\n", "`hosts.dns.ssh`"),
        ("  web1: {address: 10.0.0.1}\n  web1: {address: 10.0.0.2}\n", "`web1` appears twice"),
        ("  web1: {adress: 10.0.0.1}\n", "unknown key `adress`"),
    ] {
        let error = read(hosts).unwrap_err().to_string();
        assert!(error.contains(text), "{hosts}: {error}");
    }
}

#[test]
fn design_example_is_parsed() {
    let fleet = parse_config(Path::new("x"), GOOD).unwrap();
    assert_eq!(fleet.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["web1", "web2"]);
    assert_eq!(
        fleet.balancers[0].stats_endpoint,
        Some(StatsEndpoint::Tcp { host: "10.0.0.2".into(), port: 9999 })
    );
    assert!(!fleet.balancers[0].is_on_host);
    assert_eq!(fleet.health.host.as_deref(), Some("shop.example"));
    assert_eq!(fleet.limits.drain_timeout, std::time::Duration::from_secs(30));
}

#[test]
fn minimal_config_is_one_line() {
    let fleet = parse_config(Path::new("x"), "service: shop").unwrap();
    assert_eq!((fleet.ports.check.get(), fleet.ports.main.get(), fleet.ports.backup.get()), (8888, 8080, 80));
    assert_eq!((fleet.hosts.len(), fleet.health.path.as_str()), (0, "/"));
}

/// Wherever the command is run.
#[test]
fn key_files_resolve_beside_the_file() {
    let text = "service: a\nagents: {ca: keys/ca.pem, certificate: /etc/me.pem, key: me.key, token_file: t}";
    let reach = |file: &str| parse_config(Path::new(file), text).unwrap().reach;
    let etc = reach("/etc/switchman/switchman.yaml");
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!((etc.ca, etc.certificate), (path("/etc/switchman/keys/ca.pem"), path("/etc/me.pem")));
    assert_eq!((etc.key, etc.token_file), (path("/etc/switchman/me.key"), path("/etc/switchman/t")));
    let here = reach("switchman.yaml");
    assert_eq!((here.ca, here.token_file), (path("keys/ca.pem"), path("t")));
}

#[test]
fn journal_is_beside_the_file_or_where_it_is_named() {
    let journal = |text: &str| {
        let file = format!("service: a\n{text}");
        parse_config(Path::new("/etc/switchman/switchman.yaml"), &file).unwrap().journal
    };
    assert_eq!(journal(""), JournalLocation::Beside);
    let named = JournalLocation::Directory("/etc/switchman/state".into());
    assert_eq!(journal("journal: {path: state}"), named);
    let JournalLocation::Host(other) = journal("journal: {host: ops@lb1, path: /srv/journal}") else {
        panic!("another place");
    };
    let destination = Transport::Ssh("ops@lb1".to_owned());
    assert_eq!((other.host.name.as_str(), &other.host.transport), ("lb1", &destination));
    assert_eq!(other.directory, Some("/srv/journal".into()));
    let hosts = "hosts: {w1: {address: 10.0.0.1, ssh: deploy@w1}}\njournal: {host: w1}";
    let JournalLocation::Host(of_fleet) = journal(hosts) else { panic!("another place") };
    assert_eq!(of_fleet.host.transport, Transport::Ssh("deploy@w1".to_owned()));
    assert!(of_fleet.host.address.is_some() && of_fleet.directory.is_none());
    let text = "journal: {postgres: 'postgresql://ops:geheim@db1/switchman', secret_file: key}";
    let postgres = journal(text);
    assert!(matches!(&postgres, JournalLocation::Postgres(found) if found.url.ends_with("@db1/switchman")));
    assert!(!format!("{postgres:?}").contains("geheim"), "{postgres:?}");
    assert!(!serde_json::to_string(&postgres).unwrap().contains("geheim"));
    let JournalLocation::Etcd(cluster) = journal("journal: {etcd: ['https://a:2379/', 'https://b:2379']}")
    else {
        panic!("another place");
    };
    assert_eq!(cluster.endpoints, ["https://a:2379", "https://b:2379"]);
    for (text, endpoint) in [
        ("journal: {etcd: 'https://a:2379'}", "https://a:2379"),
        ("journal: {consul: http://a:8500}", "http://a:8500"),
    ] {
        match journal(text) {
            JournalLocation::Etcd(cluster) | JournalLocation::Consul(cluster) => {
                assert_eq!(cluster.endpoints, [endpoint], "without a list");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn journal_of_the_environment_replaces_that_of_the_file() {
    let build = |location: &str, secret: Option<&str>| {
        let variables =
            JournalVariables { location: Some(location.to_owned()), secret: secret.map(str::to_owned) };
        build_config(Path::new("/etc/switchman/switchman.yaml"), "service: a\njournal: {path: x}", variables)
    };
    let JournalLocation::Etcd(cluster) =
        build("{etcd: ['https://a:2379'], user: ops, ca: ca.pem}", Some("geheim")).unwrap().journal
    else {
        panic!("another place");
    };
    assert_eq!(
        (cluster.user.as_deref(), cluster.endpoints),
        (Some("ops"), vec!["https://a:2379".to_owned()])
    );
    let ca = std::env::current_dir().unwrap().join("ca.pem");
    assert_eq!(cluster.files.ca, Some(ca), "relative to the working directory");
    assert_eq!(cluster.files.secret, Some(Secret("geheim".to_owned())));
    assert!(!format!("{:?}", cluster.files).contains("geheim"));
    let url = "postgresql://ops:geheim@db1/switchman?sslmode=require";
    assert!(
        matches!(build(url, None).unwrap().journal, JournalLocation::Postgres(found) if found.url == url)
    );
    for wrong in [
        "geheim",
        "{geheim: 1}",
        "{etcd: geheim}",
        "{postgres: 'mysql://ops:geheim@db1'}",
        "{etcd: ['https://a:2379'], user: geheim}",
        "postgresql://ops:geheim@db1/x\n- geheim",
    ] {
        match build(wrong, None) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("SWITCHMAN_JOURNAL:") && !text.contains("geheim"), "{text}");
            }
            Ok(fleet) => assert!(wrong.starts_with("postgresql:"), "{:?}", fleet.journal),
        }
    }
}

/// Wrong files after the line `service: a`, each with the sentence that its writer reads.
const WRONG: &str = r#"
ports: {chekc: 8888}
-> switchman.yaml:2: `ports.chekc`: unknown key `chekc`, expected one of `check`, `main`, `backup`; did you mean `check`?
host: {}
-> switchman.yaml:2: `host`: unknown key `host`, expected one of `service`, `ports`, `hosts`, `load_balancers`, `health`, `roll`, `hooks`, `ssh`, `agents`, `webhooks`, `journal`, `versions`, `services`; did you mean `hosts`?
ports: {check: http}
-> switchman.yaml:2: `ports.check`: found string "http", expected a port: a number from 1 to 65535
ports:
  main: 70000
-> switchman.yaml:3: `ports.main`: found integer `70000`, expected a port: a number from 1 to 65535
ports:
  main: 80
-> switchman.yaml:3: `ports.backup`: port 80 is already `ports.main`; the three ports differ
service: b
-> switchman.yaml:2: the key `service` appears twice
hosts:
  w1: {address: 10.0.0.1}
  w1: {address: 10.0.0.2}
-> switchman.yaml:4: `hosts`: the key `w1` appears twice
hosts:
  w1: {address: 10.0.0.1}
  w2: {address: 10.0.0.1}
-> switchman.yaml:4: `hosts.w2.address`: address 10.0.0.1 is already that of `w1`
hosts:
  w1: {address: web1.example}
-> switchman.yaml:3: `hosts.w1.address`: invalid IP address syntax
hosts:
  w1: {address: 10.0.0.1, ssh: -oProxyCommand=x}
-> switchman.yaml:3: `hosts.w1.ssh`: found `-oProxyCommand=x`, expected a destination of ssh such as deploy@web1
hosts:
  w1: {address: 10.0.0.1, agent: "https://10.0.0.1:9443"}
-> switchman.yaml:3: `hosts.w1.agent`: `agents.ca` is missing: the agent's certificate cannot be verified
hosts:
  w1: {address: 10.0.0.1, agent: "http://10.0.0.1:9443"}
agents: {ca: x}
-> switchman.yaml:3: `hosts.w1.agent`: found `http://10.0.0.1:9443`, expected https://HOST:PORT or unix:///PATH
health: {timeout: 2}
-> switchman.yaml:2: `health.timeout`: found string "2", expected a number with a unit, such as 500ms, 2s or 1m30s
health: {timeout: 0s}
-> switchman.yaml:2: `health.timeout`: found 0, expected a time above zero
health: {path: health}
-> switchman.yaml:2: `health.path`: found `health`, expected a path that begins with `/`, without blanks
health: {status: 99}
-> switchman.yaml:2: `health.status`: found 99, expected an HTTP status from 200 to 599
health: {rise: 0}
-> switchman.yaml:2: `health.rise`: found 0, expected a number from 1 to 100
load_balancers:
- {name: l, backend: b, haproxy: lb1}
-> switchman.yaml:3: `load_balancers[0].haproxy`: found string "lb1", expected a socket path such as /run/haproxy/admin.sock, ssh://HOST/PATH of a socket on another machine, tcp://HOST:PORT, or http://HOST:PORT/PATH of the statistics page
load_balancers:
- {name: l, backend: b}
- {name: l, backend: b}
-> switchman.yaml:4: `load_balancers[1].name`: `l` is already the name in line 3
load_balancers:
- {name: l, backend: b, servers: {main: web}}
-> switchman.yaml:3: `load_balancers[0].servers.main`: found `web`, expected a server name with `{host}` in it, such as main-{host}
load_balancers:
- {name: l, backend: "b; quit"}
-> switchman.yaml:3: `load_balancers[0].backend`: found `b; quit`, expected a name of letters, digits and `-_.:`
roll: {on_failure: sotp}
-> switchman.yaml:2: `roll.on_failure`: unknown value `sotp`, expected one of `stop`, `return`; did you mean `stop`?
roll: {batch: 0%}
-> switchman.yaml:2: `roll.batch`: found `0%`, expected a number of hosts or a percentage such as 25%
roll: {health_timeout: 0s}
-> switchman.yaml:2: `roll.health_timeout`: found 0, expected a time above zero
roll: {max_failures: -1}
-> switchman.yaml:2: `roll.max_failures`: found `-1`, expected a whole number, not negative
hooks: {timeout: soon}
-> switchman.yaml:2: `hooks.timeout`: found string "soon", expected a number with a unit, such as 500ms, 2s or 1m30s
hooks: {before_rol: [x]}
-> switchman.yaml:2: `hooks.before_rol`: unknown key `before_rol`, expected one of `before_roll`, `before_host`, `after_host`, `after_roll`, `on_failure`, `timeout`; did you mean `before_roll`?
versions: {ports: 300}
-> switchman.yaml:2: `versions.ports`: found `300`, expected two ports such as 20000-29999
services:
  b: {ports: {check: 8888, main: 81, backup: 82}}
-> switchman.yaml:3: `services.b.ports.check`: port 8888 is already `ports.check`
services:
  a: {ports: {check: 1, main: 81, backup: 82}}
-> switchman.yaml:3: `services.a`: `a` is the first service already
services:
  b: {ports: {check: 1, main: 81}}
-> switchman.yaml:3: `services.b.ports`: the key `backup` is missing
ssh: {switchman: " "}
-> switchman.yaml:2: `ssh.switchman`: found ` `, expected a command line such as `sudo -n switchman`
ssh: {option: [-4]}
-> switchman.yaml:2: `ssh.option`: unknown key `option`, expected one of `options`, `switchman`; did you mean `options`?
journal: {path: a, etcd: ["http://a:1"]}
-> switchman.yaml:2: `journal`: exactly one of `path`, `host`, `postgres`, `etcd` and `consul` is needed
journal: {etcd: []}
-> switchman.yaml:2: `journal`: at least one URL is needed
journal: {host: lb1, path: journals}
-> switchman.yaml:2: `journal`: `path` on another machine has to be absolute
journal: {host: "-oProxyCommand=x"}
-> switchman.yaml:2: `journal.host`: found `-oProxyCommand=x`, expected a name from `hosts`, or a destination of ssh such as ops@lb1
journal: {host: lb1, secret_file: key}
-> switchman.yaml:2: `journal`: a file needs no keys: they are for `postgres`, `etcd` and `consul`
journal: {ca: a.pem}
-> switchman.yaml:2: `journal`: exactly one of `path`, `host`, `postgres`, `etcd` and `consul` is needed
journal: {path: a, ca: b}
-> switchman.yaml:2: `journal`: a file needs no keys: they are for `postgres`, `etcd` and `consul`
journal: {etcd: ["http://a:1", "a:2"]}
-> switchman.yaml:2: `journal.etcd[1]`: found `a:2`, expected a URL without a path, such as https://10.0.0.5:2379
journal: {consul: ["http://a:1/v1"]}
-> switchman.yaml:2: `journal.consul[0]`: found `http://a:1/v1`, expected a URL without a path, such as https://10.0.0.5:2379
journal: {etcd: ["http://a:1"], key: b}
-> switchman.yaml:2: `journal`: `certificate` and `key` are needed together
journal: {etcd: ["http://a:1"], user: b}
-> switchman.yaml:2: `journal`: `user` needs `secret_file` with the password
journal: {postgres: "mysql://me:secret@a"}
-> switchman.yaml:2: `journal.postgres`: found this text, expected a URL such as postgresql://ops@db1/switchman
agents: {certificate: a.pem}
-> switchman.yaml:2: `agents.certificate`: its `key` is missing
agents:
  key: a.key
-> switchman.yaml:3: `agents.key`: its `certificate` is missing
hosts:
  w1: {address: 10.0.0.1, ssh: w1, agent: "https://w1:9443"}
-> switchman.yaml:3: `hosts.w1.ssh`: a host has `ssh` or `agent`, not both
hosts:
  w1: {address: 10.0.0.1, agent: "http://w1:9443"}
-> switchman.yaml:3: `hosts.w1.agent`: found `http://w1:9443`, expected https://HOST:PORT or unix:///PATH
hosts:
  w1: {address: 10.0.0.1, agent: "https://w1"}
-> switchman.yaml:3: `hosts.w1.agent`: found `https://w1`, expected https://HOST:PORT or unix:///PATH
webhooks:
- {url: "ftp://chat"}
-> switchman.yaml:3: `webhooks[0].url`: found `ftp://chat`, expected an address such as https://chat.example/hook
webhooks:
- {url: "https://chat/x", timeout: 0s}
-> switchman.yaml:3: `webhooks[0].timeout`: found 0, expected a time above zero
webhooks:
- {}
-> switchman.yaml:3: `webhooks[0]`: the key `url` is missing
"#;

#[test]
fn errors_name_file_line_key_found_and_expected() {
    let mut cases = vec![
        ("ports: {check: 1}".to_owned(), "switchman.yaml:1: the key `service` is missing"),
        (
            "service: ../etc".to_owned(),
            "switchman.yaml:1: `service`: `../etc` is not a name: `/` is not allowed: a name has letters, digits, `-`, `_` and `.`",
        ),
    ];
    let mut text = String::new();
    for line in WRONG.trim().lines() {
        match line.strip_prefix("-> ") {
            Some(expected) => cases.push((format!("service: a{}", std::mem::take(&mut text)), expected)),
            None => text.extend(["\n", line]),
        }
    }
    assert_eq!((cases.len(), text.as_str()), (55, ""));
    for (text, expected) in cases {
        assert_eq!(error(&text), format!("cannot use the configuration: {expected}"), "{text}");
    }
}

#[test]
fn malformed_yaml_is_located() {
    for text in ["service: shop\nports: {check: 1", "service: [", "service: shop\n\tports: x", ""] {
        let error = error(text);
        assert!(
            ["switchman.yaml:1: ", "switchman.yaml:2: "].iter().any(|place| error.contains(place)),
            "{error}"
        );
    }
}

#[test]
fn missing_file_is_named() {
    let error = load_config(Some(Path::new("/nonexistent/switchman.yaml")), None).unwrap_err().to_string();
    assert_eq!(error, "cannot read `/nonexistent/switchman.yaml`: No such file or directory (os error 2)");
}

proptest! {
    #[test]
    fn parse_never_panics_on_any_text(text in "(service: a\n)?(.*\n){0,6}") {
        let _ = parse_config(Path::new("x"), &text);
    }

    #[test]
    fn parse_never_panics_with_one_byte_changed(at in 0..GOOD.len(), byte in 0u8..128) {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = parse_config(Path::new("x"), &String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn additional_service_has_its_own_ports_and_backend() {
    let text = "service: a\nload_balancers: [{name: lb1, backend: a}]\nservices:\n  b: {ports: {check: 8889, main: 8081, backup: 81}}\n  c: {ports: {check: 8890, main: 8082, backup: 82}, backend: cs, health: {path: /c}}";
    let fleet = parse_config(Path::new("switchman.yaml"), text).unwrap();
    let of = |name: &str| {
        let fleet = fleet.for_service(&name.parse().unwrap()).unwrap();
        (fleet.ports.check.get(), fleet.balancers[0].backend.clone(), fleet.health.path)
    };
    assert_eq!(of("a"), (8888, "a".into(), "/".into()));
    assert_eq!(of("b"), (8889, "b".into(), "/".into()));
    assert_eq!(of("c"), (8890, "cs".into(), "/c".into()));
    assert_eq!(fleet.for_service(&"d".parse().unwrap()), None);
    assert_eq!(fleet.service_names().map(ToString::to_string).collect::<Vec<_>>(), ["a", "b", "c"]);
}

/// The parser's words are for people who know YAML; the cause is for the others.
#[test]
fn malformed_yaml_names_the_likely_cause() {
    for (text, cause) in [
        ("service: shop\nports:\n\tcheck: 8888\n", "indented with a tab: use blanks"),
        ("service: shop\nports:{check: 8888}\n", "a blank is missing after `ports:`"),
        ("service: shop\nhealth:\n  host: @shop\n", "quote the value of `host`: it begins with `@`"),
        ("service: shop\nhealth:\n  host: shop: example\n", "quote the value of `host`, because it has `: `"),
        ("service: shop\nports: {check: 8888, main: 8080\nroll: {batch: 1}\n", "`{` of line 2 is not closed"),
        ("service: shop\nhealth:\n  path: \"/health\n", "the value of `path` has no closing \""),
        (
            "service: shop\nhealth:\n  path: /health\n    status: 200\n",
            "indented more than the one before it",
        ),
        ("service: shop\nhealth:\n    path: /health\n  status: 200\n", "keys of one map begin in one column"),
    ] {
        let error = error(text);
        assert!(error.contains(cause), "{text}{error}");
    }
}
