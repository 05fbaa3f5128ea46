//! Turns the shape of the file into a fleet, with the checks that YAML and types cannot express.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_yaml::Spanned;

use super::file::{self, Check, ConfigFile, Journal, LoadBalancer, Ports as PortsEntry, Roll, Servers};
use super::problem::ConfigFault;
use crate::model::balancer::{BalancerSpec, CheckTiming, ServerNames, StatsEndpoint};
use crate::model::fleet::{Fleet, FleetLimits, Hooks, RollPolicy, Webhook};
use crate::model::host::{ConnectConfig, Host};
use crate::model::name::HostName;
use crate::model::ports::{Port, Ports};
use crate::model::roll::{Batch, OnFailure};
use crate::model::ssh::SshFiles;

mod discovery;
mod health;
mod journal;
mod services;
mod transport;
mod values;

pub use journal::build_journal;
use transport::build_transport;
use values::{
    build_other_problem, build_wrong_value, check_count, check_duration, check_unique, is_haproxy_name,
    line_number, quote,
};

/// Checks the place of the journal alone.
pub fn check_journal(journal: &Spanned<Journal>) -> Result<(), ConfigFault> {
    journal::build_journal(Some(journal), &[]).map(drop)
}

/// Checks every rule that relates two values, and fills in the defaults.
pub fn build_fleet(file: ConfigFile) -> Result<Fleet, ConfigFault> {
    let ports = build_ports(&file.ports)?;
    let hosts = build_hosts(&file)?;
    let discovery = discovery::build_sources(&file.hosts, file.agents.ca.as_deref())?;
    let mut seen = BTreeMap::new();
    let mut balancers = Vec::new();
    for (at, entry) in file.load_balancers.iter().enumerate() {
        check_unique(&mut seen, entry.name.value.as_str(), &entry.name, || {
            format!("load_balancers[{at}].name")
        })?;
        balancers.push(build_balancer(at, entry, &file.ssh.options)?);
    }
    let reach = build_connect_config(&file)?;
    let health = health::build_health(&file.health)?;
    let journal = journal::build_journal(file.journal.as_ref(), &hosts)?;
    let others = services::build_additional_services(&file, ports, &health)?;
    Ok(Fleet {
        service: file.service,
        ports,
        hosts,
        discovery,
        balancers,
        health,
        journal,
        versions: services::build_deploy_policy(&file.versions)?,
        additional_services: others,
        limits: build_limits(&file.roll)?,
        reach,
        roll: build_roll_policy(&file.roll)?,
        hooks: Hooks {
            timeout: check_duration(file.hooks.timeout.as_ref(), "hooks.timeout")?
                .unwrap_or(Duration::from_mins(5)),
            before_roll: file.hooks.before_roll,
            before_host: file.hooks.before_host,
            after_host: file.hooks.after_host,
            after_roll: file.hooks.after_roll,
            on_failure: file.hooks.on_failure,
        },
        webhooks: file.webhooks.iter().enumerate().map(build_webhook).collect::<Result<_, _>>()?,
    })
}

fn build_connect_config(file: &ConfigFile) -> Result<ConnectConfig, ConfigFault> {
    let (ssh, agents) = (&file.ssh, &file.agents);
    let words = |text: &Spanned<String>| text.value.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let remote = ssh.switchman.as_ref().map(words).unwrap_or_default();
    if let Some(empty) = ssh.switchman.as_ref().filter(|_| remote.is_empty()) {
        return Err(build_wrong_value(
            empty,
            "ssh.switchman",
            quote(&empty.value),
            "a command line such as `sudo -n switchman`",
        ));
    }
    match (&agents.certificate, &agents.key) {
        (Some(alone), None) => {
            return Err(build_other_problem(
                line_number(alone),
                "agents.certificate",
                "its `key` is missing",
            ));
        }
        (None, Some(alone)) => {
            return Err(build_other_problem(
                line_number(alone),
                "agents.key",
                "its `certificate` is missing",
            ));
        }
        _ => {}
    }
    Ok(ConnectConfig {
        ssh_options: ssh.options.clone(),
        ssh_files: SshFiles::default(),
        remote_switchman: remote,
        ca: agents.ca.clone(),
        certificate: agents.certificate.as_ref().map(|path| path.value.clone()),
        key: agents.key.as_ref().map(|path| path.value.clone()),
        token_file: agents.token_file.clone(),
    })
}

fn build_webhook((at, entry): (usize, &file::Webhook)) -> Result<Webhook, ConfigFault> {
    let url = &entry.url.value;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    if rest.is_empty() || rest.starts_with(['/', ':']) || url.contains(char::is_whitespace) {
        let key = format!("webhooks[{at}].url");
        return Err(build_wrong_value(
            &entry.url,
            &key,
            quote(url),
            "an address such as https://chat.example/hook",
        ));
    }
    let timeout = check_duration(entry.timeout.as_ref(), &format!("webhooks[{at}].timeout"))?;
    Ok(Webhook { url: url.clone(), timeout: timeout.unwrap_or(Duration::from_secs(5)) })
}

fn build_roll_policy(roll: &Roll) -> Result<RollPolicy, ConfigFault> {
    let batch = match &roll.batch {
        None => Batch::Hosts(1),
        Some(text) => text.value.parse().map_err(|_| {
            build_wrong_value(
                text,
                "roll.batch",
                quote(&text.value),
                "a number of hosts or a percentage such as 25%",
            )
        })?,
    };
    Ok(RollPolicy {
        batch,
        max_failures: roll.max_failures.unwrap_or(0),
        on_failure: match roll.on_failure {
            Some(file::OnFailure::Return) => OnFailure::Return,
            Some(file::OnFailure::Stop) | None => OnFailure::Stop,
        },
        health_timeout: check_duration(roll.health_timeout.as_ref(), "roll.health_timeout")?
            .unwrap_or(Duration::from_mins(1)),
    })
}

fn build_ports(entry: &PortsEntry) -> Result<Ports, ConfigFault> {
    let port_or = |setting: &Option<Spanned<Port>>, default: u16| match setting {
        Some(port) => Ok(port.value),
        None => Port::new(default).ok_or_else(|| build_other_problem(1, "ports", "no default")),
    };
    let ports = Ports {
        check: port_or(&entry.check, 8888)?,
        main: port_or(&entry.main, 8080)?,
        backup: port_or(&entry.backup, 80)?,
    };
    let mut known: BTreeMap<u16, &str> = BTreeMap::new();
    for (key, port, setting) in [
        ("check", ports.check, &entry.check),
        ("main", ports.main, &entry.main),
        ("backup", ports.backup, &entry.backup),
    ] {
        if let Some(first) = known.insert(port.get(), key) {
            let line =
                setting.as_ref().or(entry.check.as_ref()).or(entry.main.as_ref()).map_or(1, line_number);
            let text = format!("port {port} is already `ports.{first}`; the three ports differ");
            return Err(build_other_problem(line, &format!("ports.{key}"), &text));
        }
    }
    Ok(ports)
}

fn build_hosts(file: &ConfigFile) -> Result<Vec<Host>, ConfigFault> {
    let mut seen: BTreeMap<IpAddr, &HostName> = BTreeMap::new();
    let mut hosts = Vec::new();
    for (name, entry) in &file.hosts.written {
        let key = |field: &str| format!("hosts.{name}.{field}");
        let address = &entry.address;
        if let Some(first) = seen.insert(address.value, name) {
            let text = format!("address {} is already that of `{first}`", address.value);
            return Err(build_other_problem(line_number(address), &key("address"), &text));
        }
        if address.value.is_unspecified() || address.value.is_multicast() {
            let found = address.value.to_string();
            return Err(build_wrong_value(
                address,
                &key("address"),
                found,
                "the address HAProxy connects to",
            ));
        }
        hosts.push(Host {
            name: name.clone(),
            address: Some(address.value),
            transport: build_transport(
                &format!("hosts.{name}"),
                name.as_str(),
                (entry.ssh.as_ref(), entry.agent.as_ref()),
                file.agents.ca.as_deref(),
            )?,
        });
    }
    Ok(hosts)
}

fn build_balancer(
    at: usize,
    entry: &LoadBalancer,
    ssh_options: &[String],
) -> Result<BalancerSpec, ConfigFault> {
    let key = |field: &str| format!("load_balancers[{at}].{field}");
    let mut access = entry.haproxy.as_ref().map(|access| access.0.clone());
    if let Some(StatsEndpoint::Ssh(socket)) = &mut access {
        socket.options = ssh_options.to_vec();
    }
    if !is_haproxy_name(&entry.backend.value) {
        let found = quote(&entry.backend.value);
        return Err(build_wrong_value(
            &entry.backend,
            &key("backend"),
            found,
            "a name of letters, digits and `-_.:`",
        ));
    }
    Ok(BalancerSpec {
        name: entry.name.value.clone(),
        backend: entry.backend.value.clone(),
        servers: build_server_names(&entry.servers, &key("servers"))?,
        check: build_check_timing(&entry.check, &key("check"))?,
        is_on_host: entry.on_host.unwrap_or_else(|| access.as_ref().is_some_and(is_local_endpoint)),
        stats_endpoint: access,
    })
}

fn build_server_names(entry: &Servers, key: &str) -> Result<ServerNames, ConfigFault> {
    let mut names = ServerNames::default();
    for (field, setting, name) in
        [("main", &entry.main, &mut names.main), ("backup", &entry.backup, &mut names.backup)]
    {
        let Some(pattern) = setting else { continue };
        let rest = pattern.value.replacen("{host}", "", 1);
        let fits = rest.len() < pattern.value.len() && (rest.is_empty() || is_haproxy_name(&rest));
        if !fits {
            let expected = "a server name with `{host}` in it, such as main-{host}";
            return Err(build_wrong_value(
                pattern,
                &format!("{key}.{field}"),
                quote(&pattern.value),
                expected,
            ));
        }
        name.clone_from(&pattern.value);
    }
    if names.main == names.backup {
        let line = entry.backup.as_ref().or(entry.main.as_ref()).map_or(1, line_number);
        return Err(build_other_problem(line, key, "main and backup need server names that differ"));
    }
    Ok(names)
}

fn is_local_endpoint(access: &StatsEndpoint) -> bool {
    match access {
        StatsEndpoint::Unix(_) => true,
        StatsEndpoint::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        StatsEndpoint::Ssh(_) | StatsEndpoint::Http(_) => false,
    }
}

fn build_check_timing(entry: &Check, key: &str) -> Result<CheckTiming, ConfigFault> {
    let default = CheckTiming::default();
    let field = |name: &str| format!("{key}.{name}");
    Ok(CheckTiming {
        inter: check_duration(entry.inter.as_ref(), &field("inter"))?.unwrap_or(default.inter),
        fastinter: check_duration(entry.fastinter.as_ref(), &field("fastinter"))?,
        fall: check_count(entry.fall.as_ref(), &field("fall"))?.unwrap_or(default.fall),
        rise: check_count(entry.rise.as_ref(), &field("rise"))?.unwrap_or(default.rise),
        timeout: check_duration(entry.timeout.as_ref(), &field("timeout"))?,
    })
}

fn build_limits(roll: &Roll) -> Result<FleetLimits, ConfigFault> {
    Ok(FleetLimits {
        min_up: roll.min_up.unwrap_or(1),
        drain_timeout: check_duration(roll.drain_timeout.as_ref(), "roll.drain_timeout")?
            .unwrap_or(Duration::from_secs(30)),
    })
}
