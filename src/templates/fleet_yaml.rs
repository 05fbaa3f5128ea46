//! switchman.yaml of a fleet that was read from somewhere else.

use std::fmt::Write as _;
use std::time::Duration;

use crate::model::balancer::{BalancerSpec, ServerNames, StatsEndpoint};
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::health::Health;
use crate::model::host::{Host, Transport};
use crate::model::ports::Ports;

/// Renders the services, hosts, load balancers and health checks of a fleet; everything else has its default. `origin` is
/// named in the first line.
pub fn render_fleet_yaml(fleet: &Fleet, origin: &str) -> String {
    let mut text = format!(
        "# switchman's view of {}, from {}. `switchman schema` prints the shape of this file, `switchman check` looks for mistakes.\n\
         service: {}\n\n\
         # HAProxy checks `check`; only a kernel rule answers there, and it forwards to `main`.\n\
         ports: {}\n\n\
         # Name -> the address HAProxy connects to. `ssh: deploy@web1` sets the destination of ssh, which is the name otherwise.\n\
         hosts:\n",
        fleet.service,
        origin.escape_debug(),
        quote_scalar(fleet.service.as_str()),
        format_ports(fleet.ports),
    );
    for host in &fleet.hosts {
        let _ = writeln!(text, "  {}", render_host_entry(host));
    }
    text.push_str("\nload_balancers:\n");
    for balancer in &fleet.balancers {
        text.push_str(&render_balancer(balancer));
    }
    let _ = write!(
        text,
        "\n# The same check that HAProxy makes.\nhealth: {}\n\n\
         # How many other hosts must have their main vhost UP before one is taken out, and how long a drain may take.\n\
         roll: {{min_up: {}, drain_timeout: {}}}\n",
        format_health(&fleet.health),
        fleet.limits.min_up,
        format_time(fleet.limits.drain_timeout),
    );
    if !fleet.additional_services.is_empty() {
        text.push_str("\nservices:\n");
    }
    for (name, service) in &fleet.additional_services {
        let _ = write!(
            text,
            "  {}:\n    ports: {}\n    backend: {}\n    health: {}\n",
            quote_scalar(name.as_str()),
            format_ports(service.ports),
            quote_text(&service.backend),
            format_health(&service.health),
        );
    }
    text
}

/// The line of a host below `hosts:`, without its indent.
pub fn render_host_entry(host: &Host) -> String {
    let address = host.address.map(|address| format!("address: \"{address}\"")).unwrap_or_default();
    let transport = match &host.transport {
        Transport::Ssh(destination) if destination == host.name.as_str() => String::new(),
        Transport::Ssh(destination) => format!(", ssh: {}", quote_text(destination)),
        Transport::Socket(path) => format!(", agent: {}", quote_text(&format!("unix://{}", path.display()))),
        Transport::Tls(address) => format!(", agent: {}", quote_text(&format!("https://{address}"))),
        Transport::Local => String::new(),
    };
    format!("{}: {{{address}{transport}}}", quote_scalar(host.name.as_str()))
}

fn render_balancer(balancer: &BalancerSpec) -> String {
    let BalancerSpec { name, stats_endpoint, backend, servers, check, is_on_host } = balancer;
    let mut text = format!("  - name: {}\n", quote_scalar(name.as_str()));
    match stats_endpoint {
        Some(StatsEndpoint::Http(url)) => {
            let _ = writeln!(text, "    haproxy: {}", quote_text(url));
        }
        Some(endpoint) => {
            let _ = writeln!(text, "    haproxy: {}", quote_text(&endpoint.to_string()));
        }
        None => text.push_str(
            "    # haproxy: a stats socket such as tcp://HOST:PORT; without it, the time computed from `check` is waited.\n",
        ),
    }
    let _ = writeln!(text, "    backend: {}", quote_text(backend));
    if *servers != ServerNames::default() {
        let (main, backup) = (quote_text(&servers.main), quote_text(&servers.backup));
        let _ = writeln!(text, "    servers: {{main: {main}, backup: {backup}}}");
    }
    let optional = |key: &str, time: Option<Duration>| {
        time.map(|time| format!(", {key}: {}", format_time(time))).unwrap_or_default()
    };
    let _ = writeln!(
        text,
        "    # As in haproxy.cfg.\n    check: {{inter: {}{}, fall: {}, rise: {}{}}}\n    on_host: {is_on_host}",
        format_time(check.inter),
        optional("fastinter", check.fastinter),
        check.fall,
        check.rise,
        optional("timeout", check.timeout),
    );
    text
}

fn format_ports(ports: Ports) -> String {
    format!("{{check: {}, main: {}, backup: {}}}", ports.check, ports.main, ports.backup)
}

fn format_health(health: &Health) -> String {
    let host = health.host.as_ref().map(|host| format!(", host: {}", quote_text(host))).unwrap_or_default();
    format!(
        "{{path: {}{host}, status: {}, timeout: {}}}",
        quote_text(&health.path),
        health.status,
        format_time(health.timeout)
    )
}

/// switchman.yaml has whole milliseconds, and no zero.
fn format_time(time: Duration) -> String {
    duration::format(time.max(Duration::from_millis(1)))
}

/// A name as it is, where YAML reads it as a text.
pub(super) fn quote_scalar(text: &str) -> String {
    const RESERVED: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { quote_text(text) }
}

/// A text in double quotes. The escapes of JSON are escapes of YAML.
fn quote_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
