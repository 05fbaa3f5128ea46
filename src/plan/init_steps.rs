//! The steps after `init`, in the order in which no request is lost, each with its machine.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::model::balancer::{BalancerSpec, StatsEndpoint};
use crate::model::deployment::WebServer;
use crate::model::fleet::Fleet;
use crate::model::host::{Host, Transport};
use crate::model::ports::Port;
use crate::templates::working_set::REGISTER_UNIT;

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
    let is_discovered = !fleet.discovery.is_empty();
    let destinations = fleet.hosts.iter().map(find_ssh_destination).chain(is_discovered.then_some("HOST"));
    let copies = destinations.map(|host| {
        format!("tar -C {above} -cf - {name} | ssh {host} \"mkdir -p {above} && tar -C {above} -xf -\"")
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
        [
            Some(format!("systemctl disable --now {program}")),
            Some(format!("install -m 644 {dir}/systemd/*.service /etc/systemd/system/")),
            is_discovered.then(|| format!("install -D -m 644 {dir}/{REGISTER_UNIT} /etc/systemd/system/switchman.service.d/register.conf")),
            Some(format!("install -D -m 644 {dir}/switchman.yaml /etc/switchman/switchman.yaml")),
            Some(format!("systemctl daemon-reload && systemctl enable --now {service}-backup {service}-main && systemctl enable switchman && systemctl restart switchman"))
                .filter(|_| is_discovered),
            Some(format!("systemctl daemon-reload && systemctl enable --now {service}-backup {service}-main switchman"))
                .filter(|_| !is_discovered),
        ]
        .into_iter()
        .flatten()
        .collect(),
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
    /// The address of the load balancer, if the operator named it.
    pub balancer: Option<IpAddr>,
}

/// The steps after switchman.yaml was read from an existing haproxy.cfg.
pub fn list_adoption_steps(fleet: &Fleet, set: &AdoptedSet<'_>) -> Vec<SetupStep> {
    let AdoptedSet { dir, files, has_changes, is_state_readable, .. } = *set;
    let hosts = name_hosts(&fleet.hosts);
    let services = list_services(fleet);
    let mut steps = Vec::new();
    if has_changes {
        let action = format!(
            "serve the site on another port too, by a second process: the backup vhost ({}). \
             /usr/share/doc/switchman/examples/systemd has units for nginx and for an application",
            describe_ports(&services, |service| format!("port {}", service.ports.backup))
        );
        steps.push(step(&hosts, action, vec![]));
        let action = format!("connect to the backup vhosts. {}", describe_status(&services));
        steps.push(step(BALANCER, action, list_probes(&services, |service| service.ports.backup)));
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
    let check_ports = describe_ports(&services, |service| format!("port {}", service.ports.check));
    let mut action =
        format!("start the agent and turn the forward on: the host then answers on {check_ports}");
    let flags = match (has_changes, is_state_readable) {
        (false, _) => "",
        (true, false) => " --no-wait",
        (true, true) => {
            action.push_str(". `--force` overrides one refusal: HAProxy does not check that port yet");
            " --no-wait --force"
        }
    };
    let mut commands = vec!["systemctl enable --now switchman".to_owned()];
    commands.extend(for_services(&services, &format!("switchman enable-forward{flags}")));
    steps.push(step(&hosts, action, commands));
    if has_changes {
        steps.push(step(
            BALANCER,
            format!(
                "connect to the check port of every host. {} Do not continue before that: with the new lines HAProxy would mark the \
                 host DOWN. A firewall may have to open {check_ports}",
                describe_status(&services)
            ),
            list_probes(&services, |service| service.ports.check),
        ));
        let there = list_balancer_files(files);
        steps.push(step(
            BALANCER,
            format!("make all changes of {} there at once, then reload", join_paths(&there, ", ")),
            vec![format!("haproxy -c -q{} && systemctl reload haproxy", repeat_flag("-f", &there))],
        ));
    }
    steps.push(list_last_step(fleet, &services, set));
    steps
}

/// The last step: the changed haproxy.cfg is copied back, and every service is checked.
fn list_last_step(fleet: &Fleet, services: &[Fleet], set: &AdoptedSet<'_>) -> SetupStep {
    let there = list_balancer_files(set.files);
    let balancer = set.balancer.or_else(|| fleet.balancers.iter().find_map(find_endpoint_address));
    let machine = balancer.map_or_else(
        || "LOAD_BALANCER".to_owned(),
        |address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        },
    );
    let dir = set.dir.display();
    let copies: Vec<PathBuf> =
        there.iter().map(|file| PathBuf::from(file.file_name().unwrap_or(file.as_os_str()))).collect();
    let mut commands = vec![format!("cd {dir}")];
    commands.extend(there.iter().map(|file| format!("scp -r '{machine}:{}' .", file.display())));
    let check = format!("switchman check{}", repeat_flag("--haproxy-cfg", &copies));
    commands.extend(for_services(services, &check));
    commands.extend(for_services(services, "switchman status"));
    step(
        OPERATOR,
        "copy haproxy.cfg of the load balancer into this directory, and look at the result",
        commands,
    )
}

/// The paths of the files on the load balancer. A copy that is somewhere else here is taken to be under `/etc/haproxy` there.
fn list_balancer_files(files: &[PathBuf]) -> Vec<PathBuf> {
    const DIR: &str = "/etc/haproxy";
    match files {
        [file] if !file.starts_with(DIR) => vec![Path::new(DIR).join("haproxy.cfg")],
        files => {
            let find = |file: &PathBuf| match file.file_name() {
                Some(name) if !file.starts_with(DIR) => Path::new(DIR).join(name),
                _ => file.clone(),
            };
            files.iter().map(find).collect()
        }
    }
}

fn find_endpoint_address(balancer: &BalancerSpec) -> Option<IpAddr> {
    match balancer.stats_endpoint.as_ref()? {
        StatsEndpoint::Tcp { host, .. } => host.parse().ok(),
        _ => None,
    }
}

fn join_paths(files: &[PathBuf], separator: &str) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(separator)
}

/// The fleet as it is for each of its services, the first one first.
fn list_services(fleet: &Fleet) -> Vec<Fleet> {
    fleet.service_names().filter_map(|name| fleet.for_service(name)).collect()
}

/// A command for each service: without `--service` it acts on the first.
fn for_services(services: &[Fleet], command: &str) -> Vec<String> {
    let others = services.iter().skip(1).map(|service| format!("{command} --service {}", service.service));
    std::iter::once(command.to_owned()).chain(others).collect()
}

/// `port 80`, or `shop on port 80, api on port 8081`.
fn describe_ports(services: &[Fleet], describe: impl Fn(&Fleet) -> String) -> String {
    match services {
        [only] => describe(only),
        services => {
            let each = services.iter().map(|service| format!("{} on {}", service.service, describe(service)));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// What the probes have to print.
fn describe_status(services: &[Fleet]) -> String {
    let first = services.first().map_or(0, |service| service.health.status);
    if services.iter().all(|service| service.health.status == first) {
        return format!("Each must print {first}.");
    }
    let each = services.iter().map(|service| format!("{} for {}", service.health.status, service.service));
    format!("They must print {}.", each.collect::<Vec<_>>().join(", "))
}

/// ` -f FILE`, once for each file.
fn repeat_flag(flag: &str, files: &[PathBuf]) -> String {
    files.iter().map(|file| format!(" {flag} {}", file.display())).collect()
}

/// Requests to one port of each service on each host, as HAProxy's health check makes them.
fn list_probes(services: &[Fleet], port: impl Fn(&Fleet) -> Port) -> Vec<String> {
    let mut found = Vec::new();
    for service in services {
        let header =
            service.health.host.as_ref().map(|host| format!(" -H 'Host: {host}'")).unwrap_or_default();
        for address in service.hosts.iter().filter_map(|host| host.address) {
            let endpoint = SocketAddr::new(address, port(service).get());
            let path = &service.health.path;
            found.push(format!(
                "curl -s -o /dev/null -w '%{{http_code}}\\n'{header} 'http://{endpoint}{path}'"
            ));
        }
    }
    found
}

/// The lines of haproxy.cfg for a new host: the name of each backend with its two lines.
pub fn list_server_lines(fleet: &Fleet, host: &Host) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for service in list_services(fleet) {
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
    let services = list_services(fleet);
    let vhosts = describe_ports(&services, |service| {
        format!("the ports {} and {}", service.ports.main, service.ports.backup)
    });
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
                "install the package switchman, and start the two vhosts of {}: {vhosts}. The forward stays off",
                if services.len() > 1 { "each service" } else { "the service" }
            ),
            vec![],
        ),
        step(OPERATOR, "copy switchman.yaml to every host", copies.collect()),
        step(&new, "start the agent", vec!["systemctl enable --now switchman".to_owned()]),
        step(
            BALANCER,
            "add the lines to haproxy.cfg. The vhosts must listen before the reload, because HAProxy counts a new server as UP \
             until its first check",
            vec!["haproxy -c -q -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy".to_owned()],
        ),
        step(&new, "put the host into service", for_services(&services, "switchman enable-forward")),
        step(
            OPERATOR,
            "look at the result",
            ["switchman check", "switchman status"]
                .iter()
                .flat_map(|command| for_services(&services, command))
                .collect(),
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
