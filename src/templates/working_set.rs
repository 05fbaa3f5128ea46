//! A working set for one service, from the templates in `vhosts/`: vhosts for one of three web servers, haproxy.cfg,
//! switchman.yaml.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::fleet_yaml::quote_scalar;
use crate::model::balancer::CheckTiming;
use crate::model::deployment::WebServer;
use crate::model::duration;
use crate::model::host::Host;
use crate::model::name::ServiceName;
use crate::model::ports::{Port, Ports};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VhostRole {
    Main,
    Backup,
}

impl VhostRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Backup => "backup",
        }
    }
}

/// The values of all placeholders in the templates. Paths are absolute.
#[derive(Debug, Clone)]
pub struct WorkingSet {
    pub project: ServiceName,
    pub server: WebServer,
    pub ports: Ports,
    pub hosts: Vec<Host>,
    pub health_path: String,
    pub health_host: String,
    /// Holds `main` and `backup`, links to versioned directories.
    pub root: String,
    pub run_dir: String,
    pub log_dir: String,
    /// nginx's `worker_processes`.
    pub workers: String,
    pub balancer: BalancerParams,
    /// Slots that HAProxy resolves instead of written hosts.
    pub slots: Option<SlotParams>,
}

/// The slots of a service in Consul.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotParams {
    /// Name of the service in Consul.
    pub catalog_name: String,
    pub count: u16,
}

#[derive(Debug, Clone)]
pub struct BalancerParams {
    /// The `log` line's target and facility.
    pub log: String,
    pub bind: String,
    pub stats: String,
    pub backend: String,
    pub admin_socket: String,
    /// A second stats socket that may only read, for hosts that are not this machine.
    pub read_only_socket: Option<SocketAddr>,
    pub state_file: String,
    pub check: CheckTiming,
}

/// A file of the working set, relative to its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    pub path: PathBuf,
    pub content: FileContent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    Text(String),
    /// A symbolic link to this target.
    Link(String),
}

/// A placeholder that a template names and that has no value, or the other way round.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the placeholder `{placeholder}` has no value, or is not in the template")]
pub struct TemplateError {
    pub placeholder: String,
}

/// The drop-in with the flags of the agent, in the directory of the set.
pub const REGISTER_UNIT: &str = "systemd/switchman-register.conf";

const NGINX: &str = include_str!("../../vhosts/nginx/vhost.conf");
const NGINX_STATIC: &str = include_str!("../../vhosts/nginx/static.conf");
const NGINX_PROXY: &str = include_str!("../../vhosts/nginx/proxy.conf");
const APACHE: &str = include_str!("../../vhosts/apache/vhost.conf");
const CADDY: &str = include_str!("../../vhosts/caddy/Caddyfile");
const HAPROXY: &str = include_str!("../../vhosts/haproxy.cfg");
const REGISTER: &str = include_str!("../../vhosts/switchman-register.conf");
const RESOLVERS: &str = include_str!("../../vhosts/resolvers.cfg");
const YAML: &str = include_str!("../../vhosts/switchman.yaml");

/// Main and backup of a slot have one address, and a slot without a host has none.
const SLOT_OPTIONS: &str = " resolvers consul resolve-prefer ipv4 init-addr none resolve-opts allow-dup-ip";

impl WorkingSet {
    /// Renders one vhost of one host. `file` is its future path; `who` goes into the header `X-Switchman-Vhost`.
    pub fn render_vhost(
        &self,
        role: VhostRole,
        file: &str,
        who: &str,
        application: Option<SocketAddr>,
    ) -> Result<String, TemplateError> {
        let template = match self.server {
            WebServer::Nginx => NGINX,
            WebServer::Apache => APACHE,
            WebServer::Caddy => CADDY,
        };
        let port = match role {
            VhostRole::Main => self.ports.main,
            VhostRole::Backup => self.ports.backup,
        };
        let locations = match (self.server, application) {
            (WebServer::Nginx, Some(application)) => {
                fill_template(NGINX_PROXY, &[("application", &application.to_string())])?
            }
            (WebServer::Nginx, None) => fill_template(NGINX_STATIC, &[("health_path", &self.health_path)])?,
            _ => String::new(),
        };
        let port = port.to_string();
        let mut values = vec![
            ("project", self.project.as_str()),
            ("role", role.as_str()),
            ("port", &port),
            ("file", file),
            ("who", who),
            ("root", &self.root),
            ("run_dir", &self.run_dir),
            ("log_dir", &self.log_dir),
        ];
        match self.server {
            WebServer::Nginx => {
                values.extend([("workers", self.workers.as_str()), ("locations", locations.trim_end())]);
            }
            WebServer::Apache => values
                .extend([("health_path", self.health_path.as_str()), ("health_host", &self.health_host)]),
            WebServer::Caddy => values.push(("health_path", &self.health_path)),
        }
        fill_template(template, &values)
    }

    /// haproxy.cfg for the load balancer.
    pub fn render_haproxy(&self) -> Result<String, TemplateError> {
        let balancer = &self.balancer;
        let check = &balancer.check;
        let (fall, rise) = (check.fall.to_string(), check.rise.to_string());
        let fastinter = duration::format(check.fastinter.unwrap_or(check.inter));
        fill_template(
            HAPROXY,
            &[
                ("project", self.project.as_str()),
                ("log", &balancer.log),
                ("admin_socket", &balancer.admin_socket),
                ("reader", &render_reader(balancer.read_only_socket)),
                ("state_file", &balancer.state_file),
                ("timeout", &duration::format(check.timeout.unwrap_or(check.inter))),
                ("stats", &balancer.stats),
                ("bind", &balancer.bind),
                ("backend", &balancer.backend),
                ("health_path", &self.health_path),
                ("health_host", &self.health_host),
                ("inter", &duration::format(check.inter)),
                ("fastinter", &fastinter),
                ("fall", &fall),
                ("rise", &rise),
                ("resolvers", if self.slots.is_some() { RESOLVERS } else { "" }),
                ("server_options", if self.slots.is_some() { SLOT_OPTIONS } else { "" }),
                ("servers", self.render_servers().trim_end()),
            ],
        )
    }

    /// switchman.yaml; `access` is how the hosts reach each balancer's statistics: the first is called lb1.
    pub fn render_yaml(&self, access: &[String]) -> Result<String, TemplateError> {
        let mut hosts = String::new();
        if let Some(SlotParams { catalog_name, .. }) = &self.slots {
            let _ = writeln!(hosts, "  consul: {{service: {}}}", quote_scalar(catalog_name));
        }
        for host in &self.hosts {
            if let Some(address) = host.address {
                let _ = writeln!(hosts, "  {}: {{address: \"{address}\"}}", quote_scalar(host.name.as_str()));
            }
        }
        let check = &self.balancer.check;
        let timing = format!(
            "inter: {}, fastinter: {}, fall: {}, rise: {}, timeout: {}",
            duration::format(check.inter),
            duration::format(check.fastinter.unwrap_or(check.inter)),
            check.fall,
            check.rise,
            duration::format(check.timeout.unwrap_or(check.inter)),
        );
        let mut balancers = String::new();
        for (number, access) in (1..).zip(access) {
            let backend = &self.balancer.backend;
            let _ = writeln!(
                balancers,
                "  - {{name: lb{number}, haproxy: \"{access}\", backend: {backend}, check: {{{timing}}}}}"
            );
        }
        let count = self.slots.as_ref().map_or(self.hosts.len(), |slots| slots.count.into());
        let floor = if count > 1 { "1" } else { "0" };
        fill_template(
            YAML,
            &[
                ("project", self.project.as_str()),
                ("service", &quote_scalar(self.project.as_str())),
                ("check", &self.ports.check.to_string()),
                ("main", &self.ports.main.to_string()),
                ("backup", &self.ports.backup.to_string()),
                ("hosts", hosts.trim_end()),
                ("balancers", balancers.trim_end()),
                ("health_path", &self.health_path),
                ("health_host", &self.health_host),
                ("min_up", floor),
            ],
        )
    }

    /// How the hosts read the balancer: its reader's socket, else the one on its own machine.
    pub fn stats_address(&self) -> String {
        self.balancer
            .read_only_socket
            .map_or_else(|| self.balancer.admin_socket.clone(), |address| format!("tcp://{address}"))
    }

    fn render_servers(&self) -> String {
        let Ports { check, main, backup } = self.ports;
        let mut lines = String::new();
        if let Some(SlotParams { catalog_name, count }) = &self.slots {
            lines.push_str("    # A slot is the host that has claimed it, and without one in MAINT. A name has one address: HAProxy shares none.\n");
            for slot in 1..=*count {
                let at = |port: Port| format!("{slot}.{catalog_name}.service.consul:{port}");
                let _ = writeln!(
                    lines,
                    "    server main-{slot} {} check port {check} cookie s{slot}\n    \
                     server backup-{slot} {} check port {backup} cookie s{slot} backup",
                    at(main),
                    at(backup)
                );
            }
        }
        for host in &self.hosts {
            let Host { name, address: Some(address), .. } = host else { continue };
            let at = |port: Port| SocketAddr::new(*address, port.get());
            let _ =
                writeln!(lines, "    # The check port is a kernel rule on {name}: no rule, no main vhost.");
            let _ = writeln!(lines, "    server main-{name} {} check port {check} cookie {name}", at(main));
            let _ = writeln!(
                lines,
                "    server backup-{name} {} check port {backup} cookie {name} backup",
                at(backup)
            );
        }
        lines
    }

    /// The directory of the vhosts in the set, and the ending of their names.
    pub const fn vhost_folder(&self) -> (&'static str, &'static str) {
        match self.server {
            WebServer::Nginx => ("nginx", ".conf"),
            WebServer::Apache => ("apache", ".conf"),
            WebServer::Caddy => ("caddy", ".Caddyfile"),
        }
    }

    /// The whole set for a directory (absolute): everything in it, and a first release to look at.
    pub fn render_files(&self, dir: &str) -> Result<Vec<NewFile>, TemplateError> {
        let text = |path: &str, text: String| NewFile { path: path.into(), content: FileContent::Text(text) };
        let link = |path: &str, target: &str| NewFile {
            path: path.into(),
            content: FileContent::Link(target.into()),
        };
        let (folder, ending) = self.vhost_folder();
        let who = match self.server {
            WebServer::Nginx => "$hostname",
            WebServer::Apache => "%{SERVER_NAME}e",
            WebServer::Caddy => "{system.hostname}",
        };
        let mut files = vec![
            text("switchman.yaml", self.render_yaml(&[self.stats_address()])?),
            text("haproxy.cfg", self.render_haproxy()?),
        ];
        for role in [VhostRole::Main, VhostRole::Backup] {
            let path = format!("{folder}/{}{ending}", role.as_str());
            let who = match self.server {
                // Apache expands no variable of the host here.
                WebServer::Apache => role.as_str().to_owned(),
                _ => format!("{who} {}", role.as_str()),
            };
            files.push(text(&path, self.render_vhost(role, &format!("{dir}/{path}"), &who, None)?));
        }
        let page = format!("<!doctype html>\n<title>{0}</title>\n<h1>{0} 1.0.0 works!</h1>\n", self.project);
        files.push(text("site/releases/1.0.0/index.html", page));
        files.push(link("site/main", "releases/1.0.0"));
        files.push(link("site/backup", "releases/1.0.0"));
        if let Some(slots) = &self.slots {
            let unit = fill_template(REGISTER, &[("slots", &slots.count.to_string())])?;
            files.push(text(REGISTER_UNIT, unit));
        }
        files.push(text("run/.keep", String::new()));
        files.push(text("log/.keep", String::new()));
        Ok(files)
    }
}

fn render_reader(address: Option<SocketAddr>) -> String {
    match address {
        None => "    # Hosts that are not this machine read the state over TCP; `level user` may look and change nothing:\n    \
                 # stats socket ipv4@10.0.0.2:9999 level user"
            .to_owned(),
        Some(address) => {
            let family = if matches!(address.ip(), IpAddr::V4(_)) { "ipv4" } else { "ipv6" };
            format!("    # For switchman on the hosts: may look and change nothing.\n    stats socket {family}@{address} level user")
        }
    }
}

/// Puts values in for `{{name}}`; every placeholder has a value and every value a placeholder.
pub(super) fn fill_template(template: &str, values: &[(&str, &str)]) -> Result<String, TemplateError> {
    let missing = |placeholder: &str| TemplateError { placeholder: placeholder.to_owned() };
    let mut text = String::with_capacity(template.len());
    let mut used = vec![false; values.len()];
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").ok_or_else(|| missing("{{"))?;
        let at = values.iter().position(|(key, _)| *key == name).ok_or_else(|| missing(name))?;
        used[at] = true;
        text.push_str(before);
        text.push_str(values[at].1);
        rest = after;
    }
    text.push_str(rest);
    match used.iter().position(|used| !used) {
        Some(at) => Err(missing(values[at].0)),
        None => Ok(text),
    }
}

#[cfg(test)]
pub(crate) mod tests;
