//! `init --from` and `init --add-host`: the fleet of an existing haproxy.cfg loads, passes the lint with the proposed lines,
//! and HAProxy accepts these lines.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use proptest::prelude::*;
use switchman::config::parse_config;
use switchman::lab::{Lab, LabOptions};
use switchman::lint::{
    Adoption, AdoptionError, AdoptionOptions, CfgFile, HaproxyCfg, adopt_haproxy, lint_haproxy,
};
use switchman::model::balancer::StatsEndpoint;
use switchman::model::finding::Severity;
use switchman::model::fleet::Fleet;
use switchman::templates::fleet_yaml::render_fleet_yaml;

use crate::site::{Plan, Site};
use crate::testing::can_make_namespaces;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read_fixture(name: &str) -> HaproxyCfg {
    let file = root().join("tests/fixtures/haproxy/existing").join(name);
    parse(name, &std::fs::read_to_string(file).unwrap())
}

fn parse(name: &str, text: &str) -> HaproxyCfg {
    HaproxyCfg { files: vec![CfgFile::decode(name, text.as_bytes())], ..HaproxyCfg::default() }
}

fn base() -> Fleet {
    parse_config(Path::new("switchman.yaml"), "service: default\n").unwrap()
}

fn adopt(cfg: &HaproxyCfg, options: &AdoptionOptions) -> Result<Adoption, AdoptionError> {
    adopt_haproxy(cfg, &base(), options)
}

fn with_hosts(hosts: &[(&str, &str)]) -> AdoptionOptions {
    let addresses = hosts.iter().map(|(name, address)| (name.parse().unwrap(), address.parse().unwrap()));
    AdoptionOptions { addresses: addresses.collect(), ..AdoptionOptions::default() }
}

fn with_backends(names: &[&str]) -> AdoptionOptions {
    let backends = names.iter().map(ToString::to_string).collect();
    AdoptionOptions { backends, balancer: Some("10.0.0.2".parse().unwrap()), ..AdoptionOptions::default() }
}

#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
fn run(dir: &Path, program: &str, args: &[&str]) -> Output {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Command::new(program).args(args).current_dir(dir).env("PATH", path).stdin(Stdio::null()).output().unwrap()
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Findings that the proposed lines repair: the changed file has none of them.
const REPAIRED: [&str; 12] = [
    "haproxy-no-backend",
    "haproxy-no-server",
    "haproxy-no-check",
    "haproxy-check-port",
    "haproxy-check-elsewhere",
    "haproxy-backup-check-port",
    "haproxy-backup-not-backup",
    "haproxy-cookies-differ",
    "haproxy-no-cookie",
    "haproxy-no-httpchk",
    "haproxy-data-port",
    "haproxy-address",
];

/// The promises about every file that is taken: the text loads as the same fleet, the changed file has none of the problems
/// that the changes are for, and a second reading finds the same fleet and no more changes.
fn assert_round_trip(name: &str, adoption: &Adoption, options: &AdoptionOptions) {
    let text = render_fleet_yaml(&adoption.fleet, name);
    let loaded =
        parse_config(Path::new("switchman.yaml"), &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(loaded, adoption.fleet, "{name}\n{text}");
    let found = lint_haproxy(&loaded, Some(&adoption.changed));
    let problems: Vec<_> = found.iter().filter(|finding| REPAIRED.contains(&finding.id)).collect();
    assert!(problems.is_empty(), "{name}: {problems:#?}\n{}", adoption.changed.files[0].text);
    let mut again = adopt(&adoption.changed, options).unwrap();
    // The operator replaces it.
    again.fleet.health.host = again.fleet.health.host.filter(|host| host != "your.name");
    for service in again.fleet.additional_services.values_mut() {
        service.health.host = service.health.host.take().filter(|host| host != "your.name");
    }
    assert_eq!(again.changes, [], "{name}");
    assert_eq!(again.fleet, adoption.fleet, "{name}");
}

#[test]
fn existing_files_are_taken_as_they_are() {
    let cases = [
        (
            "tutorial.cfg",
            AdoptionOptions { balancer: Some("10.0.0.2".parse().unwrap()), ..AdoptionOptions::default() },
        ),
        ("sticky.cfg", AdoptionOptions::default()),
        ("listen.cfg", AdoptionOptions::default()),
        ("names.cfg", with_hosts(&[("node1", "10.0.0.21"), ("node2", "10.0.0.22")])),
        ("several.cfg", with_backends(&["shop", "api"])),
        ("several.cfg", with_backends(&["files"])),
    ];
    let mut refused = Vec::new();
    for (name, options) in cases {
        let cfg = read_fixture(name);
        let adoption = adopt(&cfg, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!adoption.changes.is_empty(), "{name}");
        assert_round_trip(name, &adoption, &options);
        if let Some(message) = refuse_by_haproxy(&adoption.changed) {
            refused.push(format!("{name}: {message}\n{}", adoption.changed.files[0].text));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Runs `haproxy -c`, with what a file needs of its machine.
fn refuse_by_haproxy(cfg: &HaproxyCfg) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let text = cfg.files[0].text.replace("ssl crt /etc/haproxy/certs/", "");
    let text = text.replace("node1.internal.example", "10.0.0.21");
    std::fs::write(dir.path().join("haproxy.cfg"), text).unwrap();
    let args = ["-c", "NODE2=10.0.0.22", "haproxy", "-c", "-f", "haproxy.cfg"];
    let output = run(dir.path(), "env", &args[1..]);
    (!output.status.success()).then(|| text_of(&output))
}

#[test]
fn values_of_the_files_are_kept() {
    let tutorial = adopt(&read_fixture("tutorial.cfg"), &AdoptionOptions::default()).unwrap();
    let fleet = &tutorial.fleet;
    assert_eq!((fleet.service.as_str(), fleet.health.path.as_str()), ("web-servers", "/healthz"));
    assert_eq!((fleet.ports.check.get(), fleet.ports.main.get(), fleet.ports.backup.get()), (8888, 80, 8081));
    // A page with a password and a path on another machine are nothing that the hosts can read.
    assert_eq!(fleet.balancers[0].stats_endpoint, None);
    assert!(tutorial.notes.iter().any(|note| note.contains("--balancer ADDRESS")), "{:?}", tutorial.notes);
    let lines: Vec<&str> =
        tutorial.changes.iter().flat_map(|change| &change.new).map(String::as_str).collect();
    assert!(
        lines.contains(&"    server web01 10.0.0.11:80 check port 8888 cookie web01 # rack 1"),
        "{lines:#?}"
    );
    assert!(
        lines.contains(&"    server backup-web01 10.0.0.11:8081 check port 8081 cookie web01 backup"),
        "{lines:#?}"
    );
    assert_eq!(tutorial.changes.last().unwrap().place, "tutorial.cfg:35");

    let sticky = adopt(&read_fixture("sticky.cfg"), &AdoptionOptions::default()).unwrap();
    let balancer = &sticky.fleet.balancers[0];
    assert_eq!(balancer.stats_endpoint, Some(StatsEndpoint::Tcp { host: "10.0.0.2".into(), port: 9999 }));
    assert_eq!((balancer.check.fall, balancer.check.inter.as_millis()), (2, 2000));
    assert_eq!(
        (sticky.fleet.health.status, sticky.fleet.health.host.as_deref()),
        (204, Some("shop.example"))
    );
    let lines: String =
        sticky.changes.iter().flat_map(|change| &change.new).map(|line| format!("{line}\n")).collect();
    for line in [
        "    server s1 10.0.0.11:8080 check port 8888 cookie A1 maxconn 200\n",
        "    server backup-s1 10.0.0.11:80 check port 80 maxconn 200 cookie A1 backup\n",
        "    server s2 10.0.0.12:8080 cookie \"A2\" maxconn 200 check port 8888\n",
        "    server backup-s3 10.0.0.13:80 check port 80 maxconn 200 cookie s3 backup\n",
    ] {
        assert!(lines.contains(line), "{line}{lines}");
    }
    for left_out in ["sorry", "unix socket"] {
        assert!(sticky.notes.iter().any(|note| note.contains(left_out)), "{left_out}: {:?}", sticky.notes);
    }
}

#[test]
fn ambiguous_files_are_refused() {
    let refuse =
        |name: &str| adopt(&read_fixture(name), &AdoptionOptions::default()).unwrap_err().to_string();
    assert!(refuse("several.cfg").contains("`shop`, `api`, `files`"));
    let template = refuse("template.cfg");
    assert!(
        template.contains("template.cfg:") && template.contains("`server-template` numbers"),
        "{template}"
    );
    assert!(refuse("twice.cfg").contains("`web1-a` and `web1-b`"));
    let names = refuse("names.cfg");
    assert!(names.contains("--host node1=ADDRESS") && names.contains("--host node2=ADDRESS"), "{names}");
    let other = adopt(&read_fixture("several.cfg"), &with_backends(&["shop", "files"])).unwrap_err();
    assert!(matches!(other, AdoptionError::HostsDiffer { .. }), "{other}");
}

/// A port that the application itself checks is not taken for the check port, unless the operator names it.
#[test]
fn check_port_of_an_application_is_not_taken() {
    let cfg = read_fixture("listen.cfg");
    let adoption = adopt(&cfg, &AdoptionOptions::default()).unwrap();
    assert_eq!(adoption.fleet.ports.check.get(), 8888);
    assert!(adoption.notes.iter().any(|note| note.contains("--check-port 9000")), "{:?}", adoption.notes);
    let chosen = AdoptionOptions { check_port: "9000".parse().ok(), ..AdoptionOptions::default() };
    assert_eq!(adopt(&cfg, &chosen).unwrap().fleet.ports.check.get(), 9000);
}

/// The examples are complete: nothing is to be changed, and the file is that of the example.
#[test]
fn examples_give_their_own_switchman_yaml() {
    for (name, backends) in [
        ("one-service", &["shop"][..]),
        ("several-services", &["shop", "blog"]),
        ("tls-several-backends", &["shop", "api", "blog"]),
    ] {
        let path = |ending: &str| root().join(format!("examples/haproxy/{name}.{ending}"));
        let cfg = parse(name, &std::fs::read_to_string(path("cfg")).unwrap());
        let yaml = std::fs::read_to_string(path("yaml")).unwrap();
        let options = AdoptionOptions {
            backends: backends.iter().map(ToString::to_string).collect(),
            ..AdoptionOptions::default()
        };
        let adoption = adopt(&cfg, &options).unwrap();
        assert_eq!(adoption.changes, [], "{name}");
        assert_eq!(adoption.fleet, parse_config(Path::new("x"), &yaml).unwrap(), "{name}");
        assert_round_trip(name, &adoption, &options);
    }
}

/// The haproxy.cfg that `init` writes gives the switchman.yaml beside it.
#[test]
fn written_set_gives_its_own_switchman_yaml() {
    let dir = tempfile::tempdir().unwrap();
    for server in ["nginx", "apache", "caddy"] {
        let init = run(
            dir.path(),
            SWITCHMAN,
            &[
                "init",
                server,
                "--name",
                "shop",
                "--server",
                server,
                "--host",
                "web1=10.0.0.11",
                "--host",
                "web2=fd00::12",
            ],
        );
        assert!(init.status.success(), "{}", text_of(&init));
        let read = |file: &str| std::fs::read_to_string(dir.path().join(server).join(file)).unwrap();
        let own = parse_config(Path::new("x"), &read("switchman.yaml")).unwrap();
        let options = AdoptionOptions { service: "shop".parse().ok(), ..AdoptionOptions::default() };
        let adoption = adopt(&parse("haproxy.cfg", &read("haproxy.cfg")), &options).unwrap();
        assert_eq!((adoption.fleet, adoption.changes), (own, vec![]));
    }
}

fn init_from(dir: &Path, args: &[&str]) -> Output {
    run(dir, SWITCHMAN, &[&["init"], args].concat())
}

#[test]
fn command_writes_one_file_that_check_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = root().join("tests/fixtures/haproxy/existing/tutorial.cfg");
    let cfg = cfg.to_str().unwrap();
    let args = ["shop", "--name", "shop", "--from", cfg, "--balancer", "10.0.0.2"];
    let written = init_from(dir.path(), &args);
    let text = text_of(&written);
    assert!(written.status.success(), "{text}");
    let order = [
        "second process",
        "enable-forward --no-wait",
        ":8888/healthz",
        "systemctl reload haproxy",
        "switchman status",
    ];
    let places: Vec<usize> =
        order.iter().map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"))).collect();
    assert!(places.is_sorted(), "{text}");
    let check = run(
        dir.path(),
        SWITCHMAN,
        &["--config", "shop/switchman.yaml", "check", "--offline", "--haproxy-cfg", cfg, "--output", "json"],
    );
    let found: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    let ids: BTreeSet<&str> =
        found["findings"].as_array().unwrap().iter().filter_map(|finding| finding["id"].as_str()).collect();
    assert!(ids.contains("haproxy-judged") && ids.contains("haproxy-no-server"), "{ids:?}");
    assert!(!ids.contains("haproxy-timing-differs") && !ids.contains("haproxy-health-path"), "{ids:?}");

    // Nothing is replaced without --force, and nothing is written by a refusal.
    let again = init_from(dir.path(), &args);
    assert_eq!(again.status.code(), Some(1), "{}", text_of(&again));
    let several = root().join("tests/fixtures/haproxy/existing/several.cfg");
    let refused = init_from(dir.path(), &["other", "--from", several.to_str().unwrap()]);
    assert!(text_of(&refused).contains("--backend NAME") && !dir.path().join("other").exists());
    let clash = init_from(dir.path(), &["other", "--from", cfg, "--backup-port", "80"]);
    assert!(!clash.status.success() && !dir.path().join("other").exists(), "{}", text_of(&clash));
}

#[test]
fn duplicate_hosts_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    for hosts in [["a=10.0.0.1", "a=10.0.0.2"], ["a=10.0.0.1", "b=10.0.0.1"], ["a=fd00::1", "b=[fd00:0::1]"]]
    {
        let output =
            init_from(dir.path(), &["set", "--name", "shop", "--host", hosts[0], "--host", hosts[1]]);
        assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
        assert!(!dir.path().join("set").exists(), "{hosts:?}");
    }
    for wrong in [&["--check-port", "8080"][..], &["--backup-port", "8080"], &["--main-port", "0"]] {
        let output = init_from(dir.path(), &[&["set", "--name", "shop"], wrong].concat());
        assert!(!output.status.success() && !dir.path().join("set").exists(), "{wrong:?}");
    }
    let output = init_from(dir.path(), &["my set", "--name", "shop"]);
    assert!(text_of(&output).contains("does not fit") && !dir.path().join("my set").exists());
}

#[test]
fn added_host_keeps_comments_and_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("switchman.yaml");
    let text = "# ours\nservice: shop\nload_balancers: [{name: lb1, backend: servers}]\nhosts: # all\n  web2: {address: 10.0.0.12} # second\n  web1: {address: 10.0.0.11}\n# end\nroll: {min_up: 1}\n";
    std::fs::write(&file, text).unwrap();
    std::os::unix::fs::symlink("switchman.yaml", dir.path().join("link.yaml")).unwrap();
    let mode = |mode: u32| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&file, mode(0o640)).unwrap();
    let add = |host: &str| run(dir.path(), SWITCHMAN, &["--config", "link.yaml", "init", "--add-host", host]);
    let added = add("web3=10.0.0.13");
    let printed = text_of(&added);
    assert!(added.status.success(), "{printed}");
    for line in [
        "server main-web3 10.0.0.13:8080 check port 8888 cookie web3",
        "server backup-web3 10.0.0.13:80 check port 80 cookie web3 backup",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    let expected = text.replace(
        "  web1: {address: 10.0.0.11}\n",
        "  web1: {address: 10.0.0.11}\n  web3: {address: \"10.0.0.13\"}\n",
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
    assert!(dir.path().join("link.yaml").is_symlink());
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777,
        0o640
    );
    for host in ["web3=10.0.0.14", "web4=10.0.0.13", "web4=::ffff:10.0.0.13"] {
        let refused = add(host);
        assert_eq!(refused.status.code(), Some(1), "{}", text_of(&refused));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
    }
    std::fs::write(&file, "service: shop\n").unwrap();
    assert!(text_of(&add("web1=10.0.0.11")).contains("has no `hosts`"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "service: shop\n");
}

/// Two services on two hosts, as a HAProxy before switchman has them.
const TWO_SERVICES: &str = "defaults
 mode http
frontend web
 bind :80
 default_backend app
backend app
 option httpchk
 server web1 10.0.0.11:8080 check
 server web2 10.0.0.12:8080 check
backend api
 option httpchk
 server web1 10.0.0.11:9080 check
 server web2 10.0.0.12:9080 check
";

#[test]
fn steps_are_printed_for_every_service() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lb.cfg"), TWO_SERVICES).unwrap();
    let backends = ["--backend", "app", "--backend", "api", "--balancer", "10.0.0.2"];
    let written = init_from(dir.path(), &[&["set", "--from", "lb.cfg"], &backends[..]].concat());
    let text = text_of(&written);
    assert!(written.status.success(), "{text}");
    let fleet = parse_config(
        Path::new("x"),
        &std::fs::read_to_string(dir.path().join("set/switchman.yaml")).unwrap(),
    )
    .unwrap();
    for service in ["app", "api"] {
        let ports = fleet.for_service(&service.parse().unwrap()).unwrap().ports;
        for (host, port) in
            ["10.0.0.11", "10.0.0.12"].iter().flat_map(|host| [(host, ports.check), (host, ports.backup)])
        {
            assert!(text.contains(&format!("'http://{host}:{port}/")), "{host}:{port} {text}");
        }
        assert!(text.contains(&format!("{service} on port {}", ports.backup)), "{text}");
    }
    for line in [
        "     switchman enable-forward --no-wait\n",
        "     switchman enable-forward --no-wait --service api\n",
        "     haproxy -c -q -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy\n",
        "     scp -r '10.0.0.2:/etc/haproxy/haproxy.cfg' .\n",
        "     switchman check --haproxy-cfg haproxy.cfg\n",
        "     switchman check --haproxy-cfg haproxy.cfg --service api\n",
        "     switchman status --service api\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    let added = run(
        dir.path(),
        SWITCHMAN,
        &["--config", "set/switchman.yaml", "init", "--add-host", "web3=10.0.0.13"],
    );
    let text = text_of(&added);
    let ports = fleet.for_service(&"api".parse().unwrap()).unwrap().ports;
    for line in [
        format!("api on the ports {} and {}", ports.main, ports.backup),
        "     switchman enable-forward\n".to_owned(),
        "     switchman enable-forward --service api\n".to_owned(),
        "     switchman check --service api\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}{text}");
    }
}

/// The page and the program name the same command.
#[test]
fn page_has_the_commands_of_the_steps() {
    let page = std::fs::read_to_string(root().join("docs/quick-start.md")).unwrap();
    for part in ["`switchman enable-forward --no-wait`", "`--force`", "--service NAME", "scp -r"] {
        assert!(page.contains(part), "{part}");
    }
}

fn adopt_backend(lines: &str) -> Result<Adoption, AdoptionError> {
    let text = format!("defaults\n mode http\nbackend web\n option httpchk\n{lines}");
    adopt(&parse("haproxy.cfg", &text), &AdoptionOptions::default())
}

#[test]
fn server_lines_inside_a_condition_are_refused() {
    let text = " .if defined(A)\n server main-a 10.0.0.1:80 check\n .else\n server main-b 10.0.0.2:80 check\n .endif\n";
    let error = adopt_backend(text).unwrap_err().to_string();
    for part in ["haproxy.cfg:6: `server main-a`", "haproxy.cfg:8: `server main-b`", "inside `.if`"] {
        assert!(error.contains(part), "{error}");
    }
    let other =
        adopt_backend(" .if defined(A)\n timeout check 1s\n .endif\n server main-a 10.0.0.1:80 check\n");
    let notes = other.unwrap().notes;
    assert!(
        notes.iter().any(|note| note.contains("not judged") && note.contains("haproxy.cfg:5")),
        "{notes:?}"
    );
}

#[test]
fn slowest_check_settings_are_taken() {
    let fast = " server web1 10.0.0.1:80 check inter 1s fall 2\n";
    let slow = " server web2 10.0.0.2:80 check inter 30s fall 9\n";
    for lines in [[fast, slow].concat(), [slow, fast].concat()] {
        let adoption = adopt_backend(&lines).unwrap();
        let check = adoption.fleet.balancers[0].check;
        assert_eq!((check.inter.as_secs(), check.fall), (30, 9));
        assert!(adoption.notes.iter().any(|note| note.contains("those of `web2` were taken")));
    }
    let text = TWO_SERVICES.replace("9080 check", "9080 check inter 30s fall 9");
    let adoption = adopt(&parse("haproxy.cfg", &text), &with_backends(&["app", "api"])).unwrap();
    assert_eq!(adoption.fleet.balancers[0].check.fall, 9);
    assert!(adoption.notes.iter().any(|note| note.contains("those of `api` were taken for all")));
}

#[test]
fn tls_to_the_vhosts_is_refused() {
    for lines in [
        " server web1 10.0.0.1:443 check ssl verify none\n",
        " default-server ssl verify none\n server web1 10.0.0.1:443 check\n",
    ] {
        let error = adopt_backend(lines).unwrap_err().to_string();
        assert!(error.contains("`web1` has `ssl`") && error.contains("plain HTTP"), "{error}");
    }
}

#[test]
fn spare_server_of_another_machine_gets_no_share() {
    let cfg = read_fixture("sticky.cfg");
    let adoption = adopt(&cfg, &AdoptionOptions::default()).unwrap();
    let lines: Vec<&String> = adoption.changes.iter().flat_map(|change| &change.new).collect();
    assert!(!lines.iter().any(|line| line.contains("allbackups")), "{lines:?}");
    assert!(adoption.notes.iter().any(|note| note.contains("`option allbackups` is not among the lines")));
    let found = lint_haproxy(&adoption.fleet, Some(&adoption.changed));
    assert!(!found.iter().any(|finding| finding.id == "haproxy-unknown-host"), "{found:#?}");
    let fix = found.iter().find(|finding| finding.id == "haproxy-one-backup").map(|finding| &finding.fix);
    assert!(fix.is_some_and(|fix| fix.contains("move `sorry`")), "{fix:?}");
}

#[test]
fn template_as_the_only_line_is_named_with_its_place() {
    let error = adopt_backend(" server-template web 1-3 web.lan:80 check\n").unwrap_err().to_string();
    assert!(error.contains("haproxy.cfg:5: `server-template`"), "{error}");
}

#[test]
fn next_action_of_a_refusal_fits_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("switchman.yaml");
    let cfg = |lines: &str| {
        std::fs::write(dir.path().join("a.cfg"), format!("defaults\n mode http\nbackend web\n{lines}"))
            .unwrap();
    };
    cfg(" server web1 web1.internal.example:80 check\n");
    let names = text_of(&init_from(dir.path(), &["set", "--from", "a.cfg"]));
    assert!(names.contains("next: nothing was written; run it again with `--host NAME=ADDRESS`"), "{names}");
    cfg(" server web1 10.0.0.1:80 check\n server WEB1 10.0.0.2:80 check\n");
    let case = text_of(&init_from(dir.path(), &["set", "--from", "a.cfg"]));
    assert!(case.contains("a.cfg:5") && case.contains("one host name"), "{case}");
    let lint = text_of(&run(dir.path(), SWITCHMAN, &["check", "--haproxy-cfg", "a.cfg", "--offline"]));
    assert!(
        lint.contains("`switchman init --from FILE` writes one") && !lint.contains("].backend`"),
        "{lint}"
    );

    let add = |host: &str| {
        text_of(&run(dir.path(), SWITCHMAN, &["--config", "switchman.yaml", "init", "--add-host", host]))
    };
    let web1 = "web1: {address: 10.0.0.1}";
    std::fs::write(&file, format!("service: shop\n\"hosts\":\n  {web1}\n")).unwrap();
    for (host, reason) in [("web1=10.0.0.9", "there is a host `web1`"), ("WEB1=10.0.0.9", "one host name")] {
        let refused = add(host);
        assert!(refused.contains(reason) && refused.contains("an address of its own"), "{refused}");
    }
    let added = add("web2=10.0.0.2");
    assert!(added.contains("has no `load_balancers`") && !added.contains("needs these lines"), "{added}");
    assert!(std::fs::read_to_string(&file).unwrap().contains("\n  web2: {address: \"10.0.0.2\"}\n"));
    for hidden in ["? hosts\n: {HOST}\n", "hosts : {HOST}\n", " hosts:\n   HOST\n"] {
        let hidden = hidden.replace("HOST", web1);
        let first = if hidden.starts_with(' ') { " service: shop\n" } else { "service: shop\n" };
        std::fs::write(&file, format!("{first}{hidden}")).unwrap();
        let refused = add("web2=10.0.0.2");
        assert!(refused.contains("in a form that this command cannot change"), "{hidden}{refused}");
    }
    std::fs::write(&file, "service: shop\nhosts:\n").unwrap();
    assert!(add("web2=10.0.0.2").contains("added `web2`"));

    let unnamed = init_from(dir.path(), &["-y"]);
    let text = text_of(&unnamed);
    assert!(
        unnamed.status.code() == Some(2) && text.contains("--name PROJECT") && !text.contains("project_name"),
        "{text}"
    );
}

/// What is left to repair is kept apart from the lines of the change.
#[test]
fn findings_are_no_part_of_the_listed_lines() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.cfg"), TWO_SERVICES).unwrap();
    let text = text_of(&init_from(dir.path(), &["set", "--from", "a.cfg", "--backend", "app"]));
    assert!(
        text.contains("no part of the list above") && text.contains("line numbers as the files are now"),
        "{text}"
    );
}

fn fixtures() -> Vec<String> {
    let dirs = ["tests/fixtures/haproxy/existing", "examples/haproxy"];
    let files = dirs.iter().flat_map(|dir| std::fs::read_dir(root().join(dir)).unwrap());
    let files = files
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|end| end == "cfg"));
    files.map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

/// A fleet that is taken from a damaged file can be rendered and judged.
fn assert_sound(text: &str) {
    let cfg = parse("haproxy.cfg", text);
    let names = ["shop", "nodes", "web-servers", "app"].map(|name| vec![name.to_owned()]);
    for backends in std::iter::once(vec![]).chain(names) {
        let options = AdoptionOptions { backends, ..with_hosts(&[]) };
        if let Ok(adoption) = adopt(&cfg, &options) {
            let yaml = render_fleet_yaml(&adoption.fleet, "haproxy.cfg");
            if let Ok(loaded) = parse_config(Path::new("x"), &yaml) {
                let _ = lint_haproxy(&loaded, Some(&adoption.changed))
                    .iter()
                    .any(|finding| finding.severity == Severity::Problem);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_text_gives_a_fleet_or_an_error(text in "(backend [a-z]{1,3}\n)?( server [a-z]{1,2}.*\n){0,3}(.*\n){0,3}") {
        assert_sound(&text);
    }

    #[test]
    fn damaged_files_give_a_fleet_or_an_error(which in 0..10usize, at in 0..2000usize, byte in 0u8..128, cut in 0..60usize) {
        let all = fixtures();
        let mut bytes = all[which % all.len()].clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let end = (at + cut).min(bytes.len());
        bytes.drain(at + 1..end.max(at + 1));
        assert_sound(&String::from_utf8_lossy(&bytes));
    }
}

/// The file of the lab has two services, an admin socket beside the socket on TCP, and addresses of namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn file_of_the_lab_gives_the_switchman_yaml_of_the_lab() {
    if !can_make_namespaces() {
        return;
    }
    let name = format!("itfrom{}", std::process::id()).parse().unwrap();
    let options = LabOptions::new(name, SWITCHMAN.into());
    let lab = Lab::start(LabOptions { has_second_service: true, ..options }).await.unwrap();
    let read = |file: &str| std::fs::read_to_string(lab.dir().join(file)).unwrap();
    let own = parse_config(Path::new("x"), &read("web1/switchman.yaml")).unwrap();
    let backends = with_backends(&[&own.balancers[0].backend]);
    let options = AdoptionOptions { service: Some(own.service.clone()), balancer: None, ..backends };
    let cfg = parse("haproxy.cfg", &read("lb1/haproxy.cfg"));
    let adoption = adopt(&cfg, &options).unwrap();
    assert_eq!((&adoption.fleet, &adoption.changes[..]), (&own, &[][..]));
    let several = adopt(&cfg, &AdoptionOptions::default());
    assert!(matches!(several, Err(AdoptionError::SeveralBackends { .. })), "{several:?}");
    lab.tear_down().await.unwrap();
}

/// The lines of the lab as people have them before: one server for each host, checked on its own port, no backup vhost. The
/// server state file goes too: it would keep the check port of a line that has none any more (HAProxy 2.6.12).
fn remove_forward(text: &str) -> String {
    const REMOVED: [&str; 5] = [
        "server backup-",
        "option allbackups",
        "cookie ",
        "server-state-file",
        "load-server-state-from-file",
    ];
    let is_main = |line: &str| line.trim().starts_with("server main-");
    let keeps = |line: &&str| is_main(line) || !REMOVED.iter().any(|start| line.trim().starts_with(start));
    let lines = text.lines().filter(keeps).map(|line| match line.split_once(" check port 8888") {
        Some((before, _)) => format!("{before} check\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// The printed steps, in their order, under load: switchman comes to hosts that users are on, and no request fails.
#[tokio::test(flavor = "multi_thread")]
async fn printed_steps_lose_no_request() {
    if !can_make_namespaces() {
        return;
    }
    let mut site = Site::up("adopt", Plan { hosts: 2, ..Plan::default() }).await;
    let file = site.lab.dir().join("lb1/haproxy.cfg");
    let before = remove_forward(&std::fs::read_to_string(&file).unwrap());
    assert!(!before.contains("8888") && !before.contains("cookie web1"), "{before}");
    std::fs::write(&file, &before).unwrap();
    site.lab.reload_haproxy(0).await.unwrap();
    site.well(&["disable-forward", "--all", "--no-wait", "--force"]).await;

    site.load.set_phase("adopt");
    let options = AdoptionOptions { service: "shop".parse().ok(), ..AdoptionOptions::default() };
    let cfg = parse("haproxy.cfg", &before);
    let adoption = adopt(&cfg, &options).unwrap();
    assert_round_trip("lab", &adoption, &options);
    let written =
        run(site.lab.dir(), SWITCHMAN, &["init", "adopted", "--name", "shop", "--from", "lb1/haproxy.cfg"]);
    let printed = text_of(&written);
    assert!(written.status.success() && printed.contains("enable-forward --no-wait --force"), "{printed}");
    for host in ["web1", "web2"] {
        site.well(&["enable-forward", "--no-wait", "--force", "--host", host]).await;
    }
    for host in &site.lab.hosts {
        let probe = format!(
            "test $(curl -s -o /dev/null -w '%{{http_code}}' -H 'Host: shop.example' http://{}:8888/health) = 200",
            host.host.address.unwrap()
        );
        site.inside("lb1", &probe).await;
    }
    std::fs::write(&file, &adoption.changed.files[0].text).unwrap();
    site.lab.reload_haproxy(0).await.unwrap();
    // The old process of HAProxy can answer for a moment.
    site.until("check passes", async || site.run(&["check"]).await.status == 0).await;
    site.load.set_phase("first switch");
    site.well(&["disable-forward", "--host", "web1", "--drain"]).await;
    site.well(&["enable-forward", "--host", "web1"]).await;
    let account = site.down().await;
    // Before, HAProxy had no cookie that keeps users on their host.
    assert!(account.report.total_requests() > 100, "{} requests", account.report.total_requests());
    assert_eq!(account.report.total_failed(), 0, "{:?} {:#?}", account.report.failures, account.clues);
}
