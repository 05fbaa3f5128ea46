//! What was judged, and by which names and ports: a lint that finds nothing says what it looked at.

use super::cfg::ParsedCfg;
use super::first_variant::parse_first_variant;
use super::keywords::read_servers;
use super::service::{list_balancers, list_services};
use super::source::{HaproxyCfg, LineMap};
use crate::model::balancer::BalancerSpec;
use crate::model::finding::{Finding, Severity};
use crate::model::fleet::Fleet;

/// One finding for the files, and one for each backend that is judged for a service.
pub(super) fn describe_scope(source: &HaproxyCfg, fleet: &Fleet) -> Vec<Finding> {
    let map = LineMap::new(source);
    let cfg = parse_first_variant(source, &map);
    let lines = source.files.iter().map(|file| file.text.lines().count()).sum();
    let mut found = vec![describe_files(source, &cfg, lines, map.describe(0))];
    for service in list_services(fleet) {
        for balancer in list_balancers(&cfg, fleet, &service) {
            found.extend(describe_backend(&cfg, &service, &balancer));
        }
    }
    found
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn describe_files(source: &HaproxyCfg, cfg: &ParsedCfg, lines: usize, subject: String) -> Finding {
    let servers: usize = cfg.proxies().map(|section| read_servers(cfg, section).len()).sum();
    Finding {
        severity: Severity::Ok,
        id: "haproxy-read",
        subject,
        reason: format!(
            "read {} with {}: {} with {}. Certificates, maps and Lua files were not read",
            count(source.files.len(), "file"),
            count(lines, "line"),
            count(cfg.proxies().count(), "frontend, backend and listen section"),
            count(servers, "server line"),
        ),
        fix: String::new(),
    }
}

fn describe_backend(cfg: &ParsedCfg, service: &Fleet, balancer: &BalancerSpec) -> Option<Finding> {
    let name = &balancer.backend;
    let section = cfg.find("backend", name).or_else(|| cfg.find("listen", name))?;
    let hosts: Vec<&str> = service.hosts.iter().map(|host| host.name.as_str()).collect();
    let ports = &service.ports;
    let from = if service.balancers.is_empty() {
        "the default names of server lines".to_owned()
    } else {
        format!("the names of `{}` in switchman.yaml", balancer.name)
    };
    Some(Finding {
        severity: Severity::Ok,
        id: "haproxy-judged",
        subject: format!("{} {name}", section.kind),
        reason: format!(
            "judged {} for service `{}` by {from} (`{}`, `{}`), {} and the ports check {}, main {}, backup {}",
            count(read_servers(cfg, section).len(), "server line"),
            service.service,
            balancer.servers.main,
            balancer.servers.backup,
            if hosts.is_empty() {
                "no host names".to_owned()
            } else {
                format!("the hosts {}", hosts.join(", "))
            },
            ports.check,
            ports.main,
            ports.backup
        ),
        fix: String::new(),
    })
}
