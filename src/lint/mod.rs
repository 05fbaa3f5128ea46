//! Reads haproxy.cfg for the traps that lose requests. A figure in a finding was measured with HAProxy 2.6.12
//! (docs/design/measurements.md#haproxy).

use crate::model::balancer::BalancerSpec;
use crate::model::finding::{Finding, Severity};
use crate::model::fleet::Fleet;

mod backend;
mod cfg;
mod checks;
mod global;
mod keywords;
mod report;
mod server;
mod timing;

use cfg::ParsedCfg;
use report::LintReport;

/// A haproxy.cfg to read, with the name it is called by.
#[derive(Debug, Clone)]
pub struct HaproxyCfg {
    pub file: String,
    pub text: String,
}

/// Read as the first balancer's.
pub fn lint_first(fleet: &Fleet, cfg: Option<&HaproxyCfg>) -> Vec<Finding> {
    match (cfg, fleet.balancers.first()) {
        (Some(cfg), Some(balancer)) => lint(&cfg.file, &cfg.text, fleet, balancer),
        _ => vec![],
    }
}

/// Everything found in one file for one service; `file` is only for the findings' subjects. Empty when nothing was found.
/// Without `fleet.hosts` every server line of the backend is looked at, else those of the hosts.
pub fn lint(file: &str, text: &str, fleet: &Fleet, balancer: &BalancerSpec) -> Vec<Finding> {
    let cfg = ParsedCfg::parse(text);
    let mut report = LintReport::new(file);
    global::lint_global(&cfg, &mut report);
    match cfg.find("backend", &balancer.backend).or_else(|| cfg.find("listen", &balancer.backend)) {
        Some(section) => backend::lint_backend(&cfg, section, fleet, balancer, &mut report),
        None => report.add(
            Severity::Problem,
            "haproxy-no-backend",
            0,
            format!("there is no backend `{}`", balancer.backend),
            "name the backend of this service in `load_balancers[].backend`",
        ),
    }
    report.into_findings()
}

#[cfg(test)]
mod tests;
