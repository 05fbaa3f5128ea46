//! The steps after `init`, in the order in which no request is lost, each with its machine.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::model::deployment::WebServer;
use crate::model::fleet::Fleet;
use crate::model::host::{Host, Transport};

/// A step of the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetupStep {
    pub machine: String,
    pub action: String,
    pub commands: Vec<String>,
}

fn step(machine: impl Into<String>, action: impl Into<String>, commands: Vec<String>) -> SetupStep {
    SetupStep { machine: machine.into(), action: action.into(), commands }
}

const OPERATOR: &str = "the operator machine";
const BALANCER: &str = "the load balancer";

/// The parts of a new set that are examples, or that depend on the web server.
#[derive(Debug, Clone, Copy)]
pub struct NewSet<'a> {
    pub dir: &'a Path,
    pub server: WebServer,
    /// The hosts and the load balancer have the addresses of an example.
    pub has_example_addresses: bool,
}

/// The steps after a whole set was written: vhosts, units, haproxy.cfg and switchman.yaml.
pub fn list_new_set_steps(fleet: &Fleet, set: &NewSet<'_>) -> Vec<SetupStep> {
    let dir = set.dir.display().to_string();
    let above = set.dir.parent().unwrap_or(Path::new("/")).display().to_string();
    let name = set.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let service = &fleet.service;
    let (program, package) = match set.server {
        WebServer::Nginx => ("nginx", "nginx-light"),
        WebServer::Apache => ("apache2", "apache2"),
        WebServer::Caddy => ("caddy", "caddy"),
    };
    let hosts = name_hosts(&fleet.hosts);
    let mut steps = Vec::new();
    if set.has_example_addresses {
        let action =
            "replace the example addresses in switchman.yaml and haproxy.cfg, then look for mistakes";
        let check = format!("cd {dir} && switchman check --offline --haproxy-cfg haproxy.cfg");
        steps.push(step(OPERATOR, action, vec![check]));
    }
    let copies = fleet.hosts.iter().map(|host| {
        format!(
            "tar -C {above} -cf - {name} | ssh {host} \"mkdir -p {above} && tar -C {above} -xf -\"",
            host = find_ssh_destination(host)
        )
    });
    steps.push(step(
        OPERATOR,
        format!("copy the set to the same directory of each host (as root; the packages switchman and {package} are installed there)"),
        copies.collect(),
    ));
    steps.push(step(
        &hosts,
        format!(
            "start the vhosts and the agent. `{program}` of the package is stopped, because its default site can hold port {}; if \
             it serves users, keep it, and run `init` again with other ports: `--backup-port`, `--main-port`",
            fleet.ports.backup
        ),
        vec![
            format!("systemctl disable --now {program}"),
            format!("install -m 644 {dir}/systemd/*.service /etc/systemd/system/"),
            format!("install -D -m 644 {dir}/switchman.yaml /etc/switchman/switchman.yaml"),
            format!("systemctl daemon-reload && systemctl enable --now {service}-backup {service}-main switchman"),
        ],
    ));
    steps.push(step(
        BALANCER,
        format!("copy {dir}/haproxy.cfg to /etc/haproxy/haproxy.cfg. It replaces the file there: `switchman init --from FILE` keeps one that is in use"),
        vec!["haproxy -c -q -f /etc/haproxy/haproxy.cfg && systemctl restart haproxy".to_owned()],
    ));
    steps.push(step(&hosts, "put the host into service", vec!["switchman enable-forward".to_owned()]));
    steps.push(step(OPERATOR, "look at the result", vec![format!("cd {dir} && switchman status")]));
    steps
}

/// A switchman.yaml that was read from haproxy.cfg.
#[derive(Debug, Clone, Copy)]
pub struct AdoptedSet<'a> {
    pub dir: &'a Path,
    /// The files of HAProxy, as absolute paths.
    pub files: &'a [PathBuf],
    /// The file lacks lines.
    pub has_changes: bool,
    /// The state of HAProxy can be read already, before the changes are made.
    pub is_state_readable: bool,
}

/// The steps after switchman.yaml was read from an existing haproxy.cfg.
pub fn list_adoption_steps(fleet: &Fleet, set: &AdoptedSet<'_>) -> Vec<SetupStep> {
    let AdoptedSet { dir, files, has_changes, is_state_readable } = *set;
    let hosts = name_hosts(&fleet.hosts);
    let mut steps = Vec::new();
    if has_changes {
        let backup = fleet.ports.backup;
        let action = format!(
            "serve the site on port {backup} too, by a second process: the backup vhost. \
             /usr/share/doc/switchman/examples/systemd has units for nginx and for an application"
        );
        steps.push(step(&hosts, action, vec![]));
        let action = format!("connect to the backup vhosts. Each must print {}", fleet.health.status);
        steps.push(step(BALANCER, action, list_probes(fleet, backup.get())));
    }
    let copies = fleet.hosts.iter().map(|host| {
        format!(
            "ssh {host} install -D -m 644 /dev/stdin /etc/switchman/switchman.yaml < {}/switchman.yaml",
            dir.display(),
            host = find_ssh_destination(host)
        )
    });
    steps.push(step(
        OPERATOR,
        "copy switchman.yaml to each host, where the package switchman is installed. ssh must reach a host by its name; `ssh:` in \
         switchman.yaml names another destination",
        copies.collect(),
    ));
    let mut action = format!(
        "start the agent and turn the forward on: port {} of the host then answers",
        fleet.ports.check
    );
    let enable = match (has_changes, is_state_readable) {
        (false, _) => "switchman enable-forward",
        (true, false) => "switchman enable-forward --no-wait",
        (true, true) => {
            action.push_str(". `--force` overrides one refusal: HAProxy does not check that port yet");
            "switchman enable-forward --no-wait --force"
        }
    };
    let commands = vec!["systemctl enable --now switchman".to_owned(), enable.to_owned()];
    steps.push(step(&hosts, action, commands));
    if has_changes {
        steps.push(step(
            BALANCER,
            format!(
                "connect to the check port of every host. Do not continue before each prints {}: with the new lines HAProxy would \
                 mark that host DOWN. A firewall may have to open port {}",
                fleet.health.status, fleet.ports.check
            ),
            list_probes(fleet, fleet.ports.check.get()),
        ));
        steps.push(step(
            BALANCER,
            "make all changes of haproxy.cfg at once, then reload",
            vec![format!("haproxy -c -q{} && systemctl reload haproxy", repeat_flag("-f", files))],
        ));
    }
    let flags = repeat_flag("--haproxy-cfg", files);
    let check = format!("cd {} && switchman check{flags} && switchman status", dir.display());
    steps.push(step(OPERATOR, "look at the result, with a copy of haproxy.cfg", vec![check]));
    steps
}

/// ` -f FILE`, once for each file.
fn repeat_flag(flag: &str, files: &[PathBuf]) -> String {
    files.iter().map(|file| format!(" {flag} {}", file.display())).collect()
}

/// Requests to one port of each host, as HAProxy's health check makes them.
fn list_probes(fleet: &Fleet, port: u16) -> Vec<String> {
    let header = fleet.health.host.as_ref().map(|host| format!(" -H 'Host: {host}'")).unwrap_or_default();
    let addresses = fleet.hosts.iter().filter_map(|host| host.address);
    let probe = |address: IpAddr| {
        let endpoint = SocketAddr::new(address, port);
        format!(
            "curl -s -o /dev/null -w '%{{http_code}}\\n'{header} 'http://{endpoint}{}'",
            fleet.health.path
        )
    };
    addresses.map(probe).collect()
}

/// The lines of haproxy.cfg for a new host: the name of each backend with its two lines.
pub fn list_server_lines(fleet: &Fleet, host: &Host) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let services = fleet.service_names().filter_map(|name| fleet.for_service(name));
    for service in services {
        for balancer in &service.balancers {
            let Some(address) = host.address else { continue };
            let (check, main, backup) = (service.ports.check, service.ports.main, service.ports.backup);
            let lines = vec![
                format!(
                    "    server {} {} check port {check} cookie {}",
                    balancer.servers.main_server_name(&host.name),
                    SocketAddr::new(address, main.get()),
                    host.name
                ),
                format!(
                    "    server {} {} check port {backup} cookie {} backup",
                    balancer.servers.backup_server_name(&host.name),
                    SocketAddr::new(address, backup.get()),
                    host.name
                ),
            ];
            let entry = (format!("backend `{}` of {}", balancer.backend, balancer.name), lines);
            if !found.contains(&entry) {
                found.push(entry);
            }
        }
    }
    found
}

/// The steps after hosts were added to switchman.yaml.
pub fn list_added_host_steps(fleet: &Fleet, added: &[Host], file: &Path) -> Vec<SetupStep> {
    let new = name_hosts(added);
    let copies = fleet.hosts.iter().map(|host| {
        format!(
            "ssh {host} install -D -m 644 /dev/stdin /etc/switchman/switchman.yaml < {}",
            file.display(),
            host = find_ssh_destination(host)
        )
    });
    vec![
        step(
            &new,
            format!(
                "install the package switchman, and start the two vhosts on the ports {} and {}. The forward stays off",
                fleet.ports.main, fleet.ports.backup
            ),
            vec![],
        ),
        step(OPERATOR, "copy switchman.yaml to every host", copies.collect()),
        step(&new, "start the agent", vec!["systemctl enable --now switchman".to_owned()]),
        step(
            BALANCER,
            "add the lines to haproxy.cfg. Both vhosts must listen before the reload, because HAProxy counts a new server as UP \
             until its first check",
            vec!["haproxy -c -q -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy".to_owned()],
        ),
        step(&new, "put the host into service", vec!["switchman enable-forward".to_owned()]),
        step(
            OPERATOR,
            "look at the result",
            vec!["switchman check".to_owned(), "switchman status".to_owned()],
        ),
    ]
}

/// The destination of ssh for a host; a host that is driven through its agent is assumed to be reached by its name.
fn find_ssh_destination(host: &Host) -> &str {
    match &host.transport {
        Transport::Ssh(destination) => destination,
        _ => host.name.as_str(),
    }
}

fn name_hosts(hosts: &[Host]) -> String {
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
        None => "each host".to_owned(),
    }
}
