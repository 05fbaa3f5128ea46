//! The screen of `status`.

use std::fmt::Write as _;
use std::io::IsTerminal;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::renderer::Renderer;
use super::roll::{RollView, format_roll_status};
use super::table;
use crate::model::api::HostView;
use crate::model::balancer::ServerView;
use crate::model::forward::{KernelForward, Route, Routes, ServiceRecord};
use crate::model::port_forward::Switch;
use crate::ops::fleet::status::{BalancerStatus, HostStatus};

impl Renderer {
    pub fn print_status(&self, hosts: &[HostStatus], roll: Option<&RollView>, watching: bool) {
        if self.is_json {
            return self.print_json("status", &StatusDocument { hosts, roll });
        }
        if watching && std::io::stdout().is_terminal() {
            // Home, and clear to the end: the screen does not flicker as a full clear would.
            self.print_text("\x1b[H\x1b[J");
        }
        for status in hosts {
            self.print_text(&format_host_status(status));
        }
        if let Some(view) = roll {
            self.print_text(&format!("\n{}", format_roll_status(view, &self.service_flag)));
        }
        if watching {
            self.print_text("\n");
        }
    }
}

#[derive(Serialize)]
struct StatusDocument<'a> {
    hosts: &'a [HostStatus],
    /// The last roll, while it is not finished, and the holder of the fleet lock.
    roll: Option<&'a RollView>,
}

fn format_host_status(status: &HostStatus) -> String {
    let mut text = String::new();
    let address = status.host.address.map(|address| format!(" ({address})")).unwrap_or_default();
    let _ = writeln!(text, "{}{address}  service {}", status.host.name.bold(), status.service);
    match &status.view {
        Ok(view) => write_host_side(&mut text, status, view),
        Err(error) => {
            let _ = writeln!(text, "host      {} {error}", "not known:".red());
        }
    }
    text.push('\n');
    text.push_str(&format_balancers(status));
    text
}

fn write_host_side(text: &mut String, status: &HostStatus, view: &HostView) {
    let main = status.ports.main;
    let _ = writeln!(text, "forward   {}", format_forward(status, view));
    let _ = writeln!(text, "rules     {}", format_rules(view));
    if let Ok(Some(ServiceRecord { routes: Some(routes), .. })) = &view.record {
        let _ = writeln!(text, "versions  {}", format_routes(routes));
    }
    if let Some(packet) = &view.packet {
        let proof = packet.to_string();
        let is_contradicted = packet.describe_contradiction().is_some();
        let _ = writeln!(text, "packet    {}", if is_contradicted { proof.red().to_string() } else { proof });
    }
    let health = match &view.main_health {
        Ok(()) => format!("main vhost healthy on {main}"),
        Err(error) => format!("{} {error}", "main vhost not healthy:".red()),
    };
    let _ = writeln!(text, "health    {health}");
    let sockets = match &view.main_sockets {
        Ok(count) => {
            format!("{} busy, {} idle, {} ambiguous on {main}", count.busy, count.idle, count.ambiguous)
        }
        Err(reason) => reason.to_string(),
    };
    let _ = writeln!(text, "sockets   {sockets}");
    for drift in &view.drift {
        let _ = writeln!(text, "drift     {}", drift.yellow());
    }
    if let Ok(Some(ServiceRecord { owner: Some(owner), .. })) = &view.record {
        let _ = writeln!(text, "owner     {owner}");
    }
    if let Some(last) = &view.last_entry {
        let (action, phase, name, at) = (&last.action, last.phase.as_str(), last.actor.name(), last.at);
        let _ = writeln!(text, "last      {action} {phase} by {name} at {at:.0}");
    }
}

fn format_forward(status: &HostStatus, view: &HostView) -> String {
    let ports = status.ports;
    let now = match status.switch() {
        Some(Switch::On) => format!("{}  {} -> {}", "on".green().bold(), ports.check, ports.main),
        Some(Switch::Off) => format!("{}  maintenance: {} is refused", "off".yellow().bold(), ports.check),
        None if view.kernel.is_ok() => "mixed".red().bold().to_string() + "  not the same in IPv4 and IPv6",
        None => "unknown".red().bold().to_string(),
    };
    match &view.record {
        Ok(Some(record)) => format!("{now}, recorded {} at {:.0}", record.switch, record.changed_at),
        Ok(None) => format!("{now}, nothing recorded"),
        Err(error) => format!("{now}, record not readable: {error}"),
    }
}

/// The data ports that deployed versions have: what else listens on them is not reached.
fn format_routes(routes: &Routes) -> String {
    let format = |route: &Route| format!("{} -> {} ({})", route.port, route.target, route.deployment);
    format!("{}, {}", format(&routes.main), format(&routes.backup))
}

fn format_rules(view: &HostView) -> String {
    match &view.kernel {
        Ok(families) => {
            let one =
                |family: &KernelForward| format!("{} {} {}", family.family, family.variant, family.switch());
            families.iter().map(one).collect::<Vec<_>>().join(", ")
        }
        Err(reason) => reason.to_string(),
    }
}

fn format_balancers(status: &HostStatus) -> String {
    let rows = status.balancers.iter().flat_map(format_balancer_rows).collect();
    table::format_table(&["HAPROXY", "SERVER", "STATUS", "CHECK", "SESSIONS", "QUEUED", "WEIGHT"], rows)
}

fn format_balancer_rows(balancer: &BalancerStatus) -> Vec<Vec<String>> {
    let name = balancer.balancer.to_string();
    match &balancer.servers {
        Err(error) => vec![vec![name, "-".into(), format!("not known: {error}")]],
        Ok(servers) => {
            let line = |role: &str, server: Option<&ServerView>| match server {
                None => vec![name.clone(), role.to_owned(), "no such server line".into()],
                Some(server) => vec![
                    name.clone(),
                    server.name.clone(),
                    format_server_state(server),
                    server.last_check.clone(),
                    server.work.sessions.to_string(),
                    server.work.queued.to_string(),
                    server.weight.to_string(),
                ],
            };
            vec![line("main", servers.main.as_ref()), line("backup", servers.backup.as_ref())]
        }
    }
}

/// HAProxy's own status text, with the maintenance an operator set on its side, which the status text may hide.
fn format_server_state(server: &ServerView) -> String {
    let maint = server.admin_state.is_some_and(crate::model::balancer::AdminState::is_in_maintenance);
    if maint && !server.status.starts_with("MAINT") {
        format!("{} (MAINT set)", server.status)
    } else {
        server.status.clone()
    }
}
