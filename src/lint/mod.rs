//! Reads haproxy.cfg for the traps that lose requests. A figure in a finding was measured with HAProxy 2.6.12
//! (docs/design/measurements.md#haproxy).

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::balancer::BalancerSpec;
use crate::model::finding::Finding;
use crate::model::finding::Severity::{Note, Problem, Warning};
use crate::model::fleet::Fleet;

mod acl;
mod adoption;
mod backend;
mod behaviour;
mod cfg;
mod checks;
mod conditions;
mod effects;
mod endpoint;
mod first_variant;
mod global;
mod keywords;
mod pairs;
mod program;
mod protocol;
mod reach;
mod references;
mod refusals;
mod report;
mod resolution;
mod samples;
mod server;
mod server_pattern;
mod service;
mod site;
mod source;
mod state_rules;
mod summary;
mod syntax;
mod syntax_servers;
mod timing;
mod track;
mod vocabulary;
mod words;

pub use adoption::adopt_haproxy;
pub use adoption::outcome::{Adoption, AdoptionError, AdoptionOptions, LineChange, UnclearLine};
use cfg::{ParsedCfg, Section};
use conditions::{Variants, list_variants};
use keywords::read_servers;
pub use program::judge_check;
use reach::JudgedLines;
use report::LintReport;
use service::{JudgedService, list_balancers, list_services};
use site::{Site, Target};
use source::LineMap;
pub use source::{CfgFile, HaproxyCfg, parse_hosts_file};

/// Everything found in one HAProxy's configuration, for every service and balancer of the fleet, after what was judged.
/// Empty without a configuration. Without `fleet.hosts` every server line of the backends is looked at, else those of the
/// hosts; lines of other sections that reach a host are looked at in any case.
pub fn lint_haproxy(fleet: &Fleet, cfg: Option<&HaproxyCfg>) -> Vec<Finding> {
    let Some(cfg) = cfg else { return vec![] };
    let mut found = summary::describe_scope(cfg, fleet);
    found.extend(lint(cfg, fleet));
    found
}

fn lint(source: &HaproxyCfg, fleet: &Fleet) -> Vec<Finding> {
    let map = LineMap::new(source);
    let lines: Vec<&str> = source.files.iter().flat_map(|file| file.text.lines()).collect();
    let variants = list_variants(&lines);
    let mut report = LintReport::new(&map);
    refusals::lint_files(source, &map.list_starts(), &mut report);
    for taken in &variants.lines {
        let numbered = taken.iter().filter_map(|at| Some((at + 1, *lines.get(*at)?)));
        let cfg = ParsedCfg::parse_lines(numbered, &map.list_starts());
        lint_variant(&cfg, &source.addresses, fleet, &mut report);
    }
    report_conditions(&variants, &mut report);
    if fleet.balancers.is_empty() {
        report.add(
            Note,
            "haproxy-defaults",
            0,
            "switchman.yaml has no `load_balancers`: the names `main-HOST` and `backup-HOST` and HAProxy's default check times are \
             taken as given",
            "add `load_balancers` with the backend, so that its names and times are compared",
        );
    }
    report.into_findings()
}

fn lint_variant(
    cfg: &ParsedCfg,
    addresses: &BTreeMap<String, Vec<IpAddr>>,
    fleet: &Fleet,
    report: &mut LintReport<'_>,
) {
    for (line, reason) in &cfg.refusals {
        refusals::report_refusal(*line, reason, report);
    }
    refusals::lint_listeners(cfg, report);
    refusals::lint_shared_names(cfg, report);
    syntax::lint_syntax(cfg, report);
    references::lint_references(cfg, report);
    report_environment(cfg, report);
    global::lint_global(cfg, fleet, report);
    endpoint::lint_endpoints(cfg, fleet, report);
    let site = Site { cfg, addresses };
    track::lint_tracks(&site, report);
    let mut judged = JudgedLines::new();
    let mut targets: Vec<Target> = Vec::new();
    for service in list_services(fleet) {
        let balancers = list_balancers(cfg, fleet, &service);
        let is_assumed = service.balancers.is_empty();
        let has_any = balancers.iter().any(|balancer| site.find_proxy(&balancer.backend).is_some());
        let listed = service.hosts.iter().filter_map(|host| Some((host.name.to_string(), host.address?)));
        targets.extend(listed.map(|(host, address)| Target { host, address, ports: service.ports }));
        for balancer in &balancers {
            let judge = JudgedService { fleet: &service, balancer, is_assumed };
            match site.find_proxy(&balancer.backend) {
                Some(section) => {
                    backend::lint_backend(&site, section, &judge, &mut judged, report);
                    targets.extend(list_targets(&site, section, &service));
                }
                None => report_no_backend(balancer, has_any, report),
            }
        }
    }
    targets.dedup();
    reach::lint_reach(&site, &targets, &judged, report);
    state_rules::lint_state_rules(&site, &targets, report);
}

/// The ports of a service on every host, by the main lines of its backend, where switchman.yaml lists no hosts.
fn list_targets<'a>(site: &Site<'a>, section: &'a Section, service: &Fleet) -> Vec<Target> {
    let ports = service.ports;
    if !service.hosts.is_empty() {
        return vec![];
    }
    let servers = read_servers(site.cfg, section);
    let mains = servers.iter().filter(|server| !server.has_flag("backup"));
    let found = mains.flat_map(|server| {
        let addresses = site.resolve(server.address());
        addresses.into_iter().map(|address| Target { host: server.name.to_string(), address, ports })
    });
    found.collect()
}

fn report_no_backend(balancer: &BalancerSpec, has_any: bool, report: &mut LintReport<'_>) {
    let (severity, others) = if has_any {
        (Warning, format!(" of `{}`, and there is one of another balancer", balancer.name))
    } else {
        (Problem, String::new())
    };
    report.add(
        severity,
        "haproxy-no-backend",
        0,
        format!("there is no backend `{}`{others}", balancer.backend),
        "name the backend of this service in `load_balancers[].backend`",
    );
}

fn report_environment(cfg: &ParsedCfg, report: &mut LintReport<'_>) {
    let list = |names: &std::collections::BTreeSet<String>| {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let (assumed, unknown) = (&cfg.environment.assumed, &cfg.environment.unknown);
    if !assumed.is_empty() {
        report.add(
            Note,
            "haproxy-environment-default",
            0,
            format!(
                "the default in the file was taken for {}: HAProxy's environment can have another value",
                list(assumed)
            ),
            "run `check` with the values that HAProxy has, written by `setenv` in `global`",
        );
    }
    if !unknown.is_empty() {
        report.add(
            Note,
            "haproxy-environment",
            0,
            format!("{} come from HAProxy's environment: words with them are not judged", list(unknown)),
            "set them with `presetenv` in `global`, or give a default: `${NAME-VALUE}`",
        );
    }
}

fn report_conditions(variants: &Variants, report: &mut LintReport<'_>) {
    if variants.conditions.len() > 1 || variants.is_cut {
        let (count, judged) = (variants.conditions.len(), variants.lines.len());
        let first = variants.conditions.first().map_or(0, |at| at + 1);
        report.add(
            Note,
            "haproxy-conditions",
            first,
            format!(
                "of {count} conditions every branch was judged with the first branch of the others, {judged} variants in all{}: \
                 other combinations were not",
                if variants.is_cut { ", and the rest was left out" } else { "" }
            ),
            "keep conditions out of the lines that this lint looks at",
        );
    }
}

#[cfg(test)]
mod tests;
