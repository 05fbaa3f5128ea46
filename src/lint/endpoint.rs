//! `load_balancers[].haproxy` of switchman.yaml against the sockets and statistics pages of the file.

use super::cfg::{ParsedCfg, Statement};
use super::report::LintReport;
use super::site::list_bind_ports;
use crate::model::balancer::{SshSocket, StatsEndpoint};
use crate::model::finding::Severity::Warning;
use crate::model::fleet::Fleet;

/// Reports balancers whose endpoint the file does not have, unless another balancer's is there: then the file is that one's.
pub(super) fn lint_endpoints(cfg: &ParsedCfg, fleet: &Fleet, report: &mut LintReport<'_>) {
    let endpoints: Vec<_> =
        fleet.balancers.iter().filter_map(|balancer| balancer.stats_endpoint.as_ref()).collect();
    if endpoints.is_empty() || endpoints.iter().any(|endpoint| has_endpoint(cfg, endpoint)) {
        return;
    }
    for endpoint in endpoints {
        report.add(
            Warning,
            "haproxy-no-endpoint",
            cfg.find_first("global").map_or(0, |global| global.number),
            format!("`haproxy: {endpoint}` of switchman.yaml is not in this file: no socket or statistics page is there"),
            build_fix(endpoint),
        );
    }
}

fn build_fix(endpoint: &StatsEndpoint) -> String {
    match endpoint {
        StatsEndpoint::Unix(path) => {
            format!("add `stats socket {} mode 600 level admin` to `global`", path.display())
        }
        StatsEndpoint::Ssh(socket) => {
            let user = socket.destination.rsplit_once('@').map_or("USER", |(user, _)| user);
            format!(
                "add `stats socket {} user {user} mode 600 level admin` to `global`, with the user of that ssh",
                socket.path.display()
            )
        }
        StatsEndpoint::Tcp { host, port } => {
            format!("add `stats socket {host}:{port} level user` to `global`")
        }
        StatsEndpoint::Http(_) => {
            "add a `listen` section with `bind` at that port and `stats enable`".to_owned()
        }
    }
}

fn has_endpoint(cfg: &ParsedCfg, endpoint: &StatsEndpoint) -> bool {
    let global = cfg.find_first("global");
    let sockets: Vec<&str> = global
        .into_iter()
        .flat_map(|global| &global.lines)
        .filter(|line| line.starts_with(&["stats", "socket"]))
        .filter_map(|line| line.word(2))
        .collect();
    // An address from the environment can be any.
    let is_open = |text: &&str| text.contains('$') || text.starts_with("fd@");
    match endpoint {
        StatsEndpoint::Unix(path) | StatsEndpoint::Ssh(SshSocket { path, .. }) => {
            let is_path = |text: &&str| text.trim_start_matches("unix@") == path.to_string_lossy();
            sockets.iter().any(|text| is_open(text) || is_path(text))
        }
        StatsEndpoint::Tcp { port, .. } => {
            let suffix = format!(":{port}");
            sockets.iter().any(|text| is_open(text) || text.ends_with(&suffix))
        }
        StatsEndpoint::Http(url) => has_page(cfg, url),
    }
}

/// A proxy with a statistics page at the port of the URL.
fn has_page(cfg: &ParsedCfg, url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return true };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let port = port.unwrap_or(if scheme == "https" { 443 } else { 80 });
    cfg.proxies().filter(|proxy| proxy.kind != "backend").any(|proxy| {
        let chain = cfg.inheritance_chain(proxy);
        let mut lines = chain.iter().flat_map(|section| &section.lines);
        let is_page = |line: &Statement| line.word(0) == Some("stats") || line.has_word("service");
        let binds = proxy.find_all(&["bind"]).filter_map(|line| line.word(1));
        let is_known = binds.into_iter().all(|text| !text.contains('$'));
        lines.any(is_page) && (!is_known || list_bind_ports(proxy).contains(&port))
    })
}
