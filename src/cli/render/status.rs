//! The screen of `status`.

use std::fmt::Write as _;
use std::io::IsTerminal;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::renderer::Renderer;
use super::roll::{RollView, format_roll_status};
use super::table;
use super::time_format::TimeFormat;
use crate::model::api::HostView;
use crate::model::balancer::ServerView;
use crate::model::forward::{KernelForward, Route, Routes, ServiceRecord};
use crate::model::percent::Percent;
use crate::model::port_forward::{Forward, Switch};
use crate::model::ports::Port;
use crate::model::registration::RegistrationState;
use crate::ops::fleet::status::{BalancerStatus, HostStatus};
use crate::plan::mains::MainsDifference;

impl Renderer {
    pub fn print_status(
        &self,
        hosts: &[HostStatus],
        mains: Option<&MainsDifference>,
        roll: Option<&RollView>,
        watching: bool,
    ) {
        if self.is_json {
            return self.print_json("status", &StatusDocument { hosts, mains_difference: mains, roll });
        }
        if watching && std::io::stdout().is_terminal() {
            // Home, and clear to the end: the screen does not flicker as a full clear would.
            self.print_text("\x1b[H\x1b[J");
        }
        if hosts.len() > 1 {
            self.print_text(&format!("{}\n", format_summary(hosts, self.time_format)));
        }
        if let Some(difference) = mains {
            self.print_text(&format_mains(difference));
        }
        for status in hosts {
            self.print_text(&format_host_status(status, self.time_format));
        }
        if let Some(view) = roll {
            self.print_text(&format!("\n{}", format_roll_status(view, &self.service_flag, self.time_format)));
        }
        if watching {
            self.print_text("\n");
        }
    }
}

#[derive(Serialize)]
struct StatusDocument<'a> {
    hosts: &'a [HostStatus],
    /// The groups of hosts with different mains, and the operation that explains them.
    #[serde(skip_serializing_if = "Option::is_none")]
    mains_difference: Option<&'a MainsDifference>,
    /// The last roll, while it is not finished, and the holder of the fleet lock.
    roll: Option<&'a RollView>,
}

fn format_mains(difference: &MainsDifference) -> String {
    let text = difference.to_string();
    let text = if difference.cause.is_some() { text } else { text.red().to_string() };
    format!("{text}\nnext: {}\n\n", difference.describe_next())
}

/// A line for each host: what serves its users.
fn format_summary(hosts: &[HostStatus], time: TimeFormat) -> String {
    let rows = hosts.iter().map(|status| format_summary_row(status, time)).collect();
    table::format_table(&["HOST", "FORWARD", "MAIN", "PORT", "SHARE", "OWNER"], rows)
}

fn format_summary_row(status: &HostStatus, time: TimeFormat) -> Vec<String> {
    let (switch, version, port, owner) = match &status.view {
        Err(_) => ["not known", "-", "-", "-"].map(str::to_owned).into(),
        Ok(view) => {
            let record = view.record.as_ref().ok().and_then(Option::as_ref);
            let owner = record.and_then(|record| record.owner.as_ref());
            (
                format_summary_forward(status, view),
                view.main_version.as_ref().map_or("vhost".to_owned(), ToString::to_string),
                record.map_or_else(|| status.ports.main.to_string(), format_targets),
                owner.map_or("-".to_owned(), |owner| owner.describe(|since| time.format(since))),
            )
        }
    };
    vec![status.host.name.to_string(), switch, version, port, format_share(status), owner]
}

/// The slot in DNS, and why the host is not in it.
fn format_registration(registration: &RegistrationState) -> String {
    let slot = registration.slot.map_or("none".to_owned(), |slot| slot.to_string());
    let withdrawn = if registration.is_withdrawn { ", withdrawn from DNS" } else { "" };
    match &registration.problem {
        Some(problem) => format!("{slot}{withdrawn}: {}", problem.red()),
        None => slot + withdrawn,
    }
}

/// The kernel's state, unless the service is private; packets may contradict it.
fn format_summary_forward(status: &HostStatus, view: &HostView) -> String {
    let text = match status.switch() {
        _ if status.is_private() => "private".to_owned(),
        Some(switch) => switch.to_string(),
        None => "not known".to_owned(),
    };
    let is_contradicted =
        view.packet.as_ref().is_some_and(|packet| packet.describe_contradiction().is_some());
    if is_contradicted { format!("{text}, contradicted") } else { text }
}

/// The share that every balancer agrees on, or the range.
fn format_share(status: &HostStatus) -> String {
    let read = status.balancers.iter().filter_map(|balancer| balancer.servers.as_ref().ok());
    let shares: Vec<Percent> = read.map(|servers| servers.share.unwrap_or(Percent::ZERO)).collect();
    match (shares.iter().min(), shares.iter().max()) {
        (Some(least), Some(most)) if least == most => most.to_string(),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        _ => "-".to_owned(),
    }
}

fn format_host_status(status: &HostStatus, time: TimeFormat) -> String {
    let mut text = String::new();
    let address = status.host.address.map(|address| format!(" ({address})")).unwrap_or_default();
    let _ = writeln!(text, "{}{address}  service {}", status.host.name.bold(), status.service);
    match &status.view {
        Ok(view) => write_host_side(&mut text, status, view, time),
        Err(error) => {
            let _ = writeln!(text, "host      {} {error}", "not known:".red());
        }
    }
    text.push('\n');
    text.push_str(&format_balancers(status));
    text
}

fn write_host_side(text: &mut String, status: &HostStatus, view: &HostView, time: TimeFormat) {
    let record = view.record.as_ref().ok().and_then(Option::as_ref);
    let ports = match record {
        Some(record) if record.routes.is_some() => record.instance_ports(status.ports.main),
        record => vec![record.map_or(status.ports.main, |record| record.forward.target)],
    };
    let all_ports = ports.iter().map(Port::to_string).collect::<Vec<_>>().join(", ");
    let main = record.filter(|_| ports.len() > 1).map(|record| record.instance_port(status.ports.main));
    let main = main.or_else(|| ports.first().copied()).unwrap_or(status.ports.main);
    let _ = writeln!(text, "forward   {}", format_forward(status, view, time));
    let _ = writeln!(text, "rules     {}", format_rules(view));
    if let Ok(Some(ServiceRecord { routes: Some(routes), .. })) = &view.record
        && !status.is_private()
    {
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
            format!("{} busy, {} idle, {} ambiguous on {all_ports}", count.busy, count.idle, count.ambiguous)
        }
        Err(reason) => reason.to_string(),
    };
    let _ = writeln!(text, "sockets   {sockets}");
    for conflict in &status.port_conflicts {
        let _ = writeln!(text, "ports     {}", conflict.to_string().red());
    }
    for conflict in &status.address_conflicts {
        let _ = writeln!(text, "address   {}", conflict.to_string().red());
    }
    if let Some(registration) = &view.registration {
        let _ = writeln!(text, "slot      {}", format_registration(registration));
    }
    for drift in &view.drift {
        let _ = writeln!(text, "drift     {}", drift.yellow());
    }
    if let Ok(Some(ServiceRecord { owner: Some(owner), .. })) = &view.record {
        let _ = writeln!(text, "owner     {}", owner.describe(|since| time.format(since)));
    }
    if let Some(last) = &view.last_entry {
        let (action, phase, name, at) =
            (&last.action, last.phase.as_str(), last.actor.name(), time.format(last.at));
        let _ = writeln!(text, "last      {action} {phase} by {name} at {at}");
    }
}

fn format_forward(status: &HostStatus, view: &HostView, time: TimeFormat) -> String {
    let now = match status.switch() {
        _ if status.is_private() => format!(
            "{}  no port is forwarded before `switchman access {} public --host {}`",
            "private".yellow().bold(),
            status.service,
            status.host.name
        ),
        Some(Switch::On) => format!("{}  {}", "on".green().bold(), format_ports(view)),
        Some(Switch::Off) => {
            let check = view.record.as_ref().ok().and_then(Option::as_ref).map(|record| record.forward.check);
            let check = check.unwrap_or(status.ports.check);
            format!("{}  maintenance: {check} is refused", "off".yellow().bold())
        }
        None if view.kernel.is_ok() => "mixed".red().bold().to_string() + "  not the same in IPv4 and IPv6",
        None => "unknown".red().bold().to_string(),
    };
    match &view.record {
        Ok(Some(record)) => {
            format!("{now}, record: {}, changed {}", record.switch, time.format(record.changed_at))
        }
        Ok(None) => format!("{now}, nothing recorded"),
        Err(error) => format!("{now}, record not readable: {error}"),
    }
}

/// The data ports that deployed versions have: what else listens on them is not reached.
fn format_routes(routes: &Routes) -> String {
    let format = |route: &Route| {
        let target = |port: Port| {
            let is_out = routes.unhealthy.contains(&port);
            if is_out { format!("{port} unhealthy") } else { port.to_string() }
        };
        let targets: Vec<String> = route.targets().map(target).collect();
        format!("{} -> {} ({})", route.port, targets.join(", "), route.deployment)
    };
    format!("{}, {}", format(&routes.main), format(&routes.backup))
}

/// The kernel's forward: `8888 -> 20000 (2.0.0)`.
fn format_ports(view: &HostView) -> String {
    let kernel = view.kernel.as_deref().unwrap_or_default();
    let forward = kernel.iter().find_map(|family| family.forward.as_ref());
    let version = view.main_version.as_ref().map(|version| format!(" ({version})")).unwrap_or_default();
    let record = view.record.as_ref().ok().and_then(Option::as_ref);
    let targets = |forward: &Forward| match record.filter(|record| record.check_targets().len() > 1) {
        Some(record) => format_targets(record),
        None => forward.target.to_string(),
    };
    forward.map(|forward| format!("{} -> {}{version}", forward.check, targets(forward))).unwrap_or_default()
}

/// Formats the ports of main's instances that get connections.
fn format_targets(record: &ServiceRecord) -> String {
    let ports = match &record.routes {
        Some(routes) => routes.healthy_targets(&routes.main),
        None => vec![record.forward.target],
    };
    ports.iter().map(Port::to_string).collect::<Vec<_>>().join(",")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deployment::Access;
    use crate::model::example;
    use crate::ops::fleet::status::read_status;
    use crate::ops::testing::site::site;

    /// The forward of a private service is on by the record, and no port routes to it.
    #[tokio::test(start_paused = true)]
    async fn private_service_has_the_command_that_makes_it_public() {
        let fake = site(1, 1);
        let mut status = read_status(&fake.world, &fake.fleet, &fake.fleet.hosts[0]).await;
        assert_eq!(format_summary_row(&status, TimeFormat::Human)[1], "on");
        let record = ServiceRecord { access: Access::Private, ..example::make_record("shop", Switch::On) };
        status.view.as_mut().unwrap().record = Ok(Some(record));
        assert_eq!(format_summary_row(&status, TimeFormat::Human)[1], "private");
        let text = format_host_status(&status, TimeFormat::Human);
        assert!(text.contains("before `switchman access shop public --host web1`"), "{text}");
        assert!(!text.contains("versions "), "no port routes to one: {text}");
    }

    #[test]
    fn slot_names_what_keeps_the_host_out_of_dns() {
        let good = RegistrationState { slot: Some(3), ..RegistrationState::default() };
        assert_eq!(format_registration(&good), "3");
        let withdrawn = RegistrationState { is_withdrawn: true, ..good };
        assert_eq!(format_registration(&withdrawn), "3, withdrawn from DNS");
        let problem = Some("no slot is free".to_owned());
        let text = format_registration(&RegistrationState { problem, ..RegistrationState::default() });
        assert!(text.starts_with("none: ") && text.contains("no slot is free"), "{text}");
    }
}
