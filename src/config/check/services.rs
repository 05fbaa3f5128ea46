//! Versions and the services beside the first one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_yaml::Spanned;

use super::health::build_health;
use super::values::{
    build_other_problem, build_wrong_value, check_duration, is_haproxy_name, line_number, quote,
};
use crate::config::file::{ConfigFile, Versions};
use crate::config::problem::ConfigFault;
use crate::model::fleet::{AdditionalService, DeployPolicy};
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::ports::{Port, Ports};

/// Below the ports that the kernel gives to connections (`ip_local_port_range`, 32768 and up).
const DEFAULT_PORT_RANGE: (u16, u16) = (20_000, 29_999);

pub(super) fn build_deploy_policy(entry: &Versions) -> Result<DeployPolicy, ConfigFault> {
    let default = || (Port::new(DEFAULT_PORT_RANGE.0), Port::new(DEFAULT_PORT_RANGE.1));
    let range = entry.ports.as_ref().map(|text| {
        let (first, last) = text.value.split_once('-').unwrap_or_default();
        (first.trim().parse().ok(), last.trim().parse().ok())
    });
    let ports = match range.unwrap_or_else(default) {
        (Some(first), Some(last)) if first <= last => (first, last),
        _ => {
            let expected = "two ports such as 20000-29999";
            return Err(match &entry.ports {
                Some(text) => build_wrong_value(text, "versions.ports", quote(&text.value), expected),
                None => build_other_problem(1, "versions.ports", expected),
            });
        }
    };
    let watch = entry.watch.as_ref().map(|time| time.value.0);
    Ok(DeployPolicy {
        port_range: ports,
        keep_releases: entry.keep_releases.unwrap_or(5),
        watch: watch.unwrap_or(Duration::from_secs(10)),
        health_timeout: check_duration(entry.health_timeout.as_ref(), "versions.health_timeout")?
            .unwrap_or(Duration::from_mins(1)),
    })
}

/// No two services share a port: HAProxy connects to each of them.
pub(super) fn build_additional_services(
    file: &ConfigFile,
    first: Ports,
    first_health: &Health,
) -> Result<BTreeMap<ServiceName, AdditionalService>, ConfigFault> {
    let mut seen: BTreeMap<Port, String> = BTreeMap::new();
    for (field, port) in [("check", first.check), ("main", first.main), ("backup", first.backup)] {
        seen.insert(port, format!("ports.{field}"));
    }
    let mut others = BTreeMap::new();
    for (name, entry) in &file.services {
        let key = |field: &str| format!("services.{name}.{field}");
        let ports = &entry.ports;
        if *name == file.service {
            let text = format!("`{name}` is the first service already");
            return Err(build_other_problem(line_number(&ports.check), &format!("services.{name}"), &text));
        }
        for (field, port) in [("check", &ports.check), ("main", &ports.main), ("backup", &ports.backup)] {
            let key = key(&format!("ports.{field}"));
            if let Some(first) = seen.insert(port.value, key.clone()) {
                let text = format!("port {} is already `{first}`", port.value);
                return Err(build_other_problem(line_number(port), &key, &text));
            }
        }
        let backend = build_backend_name(name, entry.backend.as_ref(), &key("backend"))?;
        let health = entry.health.as_ref().map_or_else(|| Ok(first_health.clone()), build_health)?;
        let ports = Ports { check: ports.check.value, main: ports.main.value, backup: ports.backup.value };
        others.insert(name.clone(), AdditionalService { ports, health, backend });
    }
    Ok(others)
}

fn build_backend_name(
    name: &ServiceName,
    entry: Option<&Spanned<String>>,
    key: &str,
) -> Result<String, ConfigFault> {
    match entry {
        Some(text) if !is_haproxy_name(&text.value) => {
            Err(build_wrong_value(text, key, quote(&text.value), "a name of letters, digits and `-_.:`"))
        }
        Some(text) => Ok(text.value.clone()),
        None => Ok(name.to_string()),
    }
}
