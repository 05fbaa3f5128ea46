//! Versions and the services beside the first one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_yaml::Spanned;

use super::{health, is_haproxy_name, line, other, quoted, time, wrong};
use crate::config::Wrong;
use crate::config::file::{File, Versions};
use crate::model::fleet::{OtherService, VersionPolicy};
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::ports::{Port, Ports};

/// Below the ports that the kernel gives to connections (`ip_local_port_range`, 32768 and up).
const RANGE: (u16, u16) = (20_000, 29_999);

pub(super) fn versions(entry: &Versions) -> Result<VersionPolicy, Wrong> {
    let default = || (Port::new(RANGE.0), Port::new(RANGE.1));
    let range = entry.ports.as_ref().map(|text| {
        let (first, last) = text.value.split_once('-').unwrap_or_default();
        (first.trim().parse().ok(), last.trim().parse().ok())
    });
    let ports = match range.unwrap_or_else(default) {
        (Some(first), Some(last)) if first <= last => (first, last),
        _ => {
            let expected = "two ports such as 20000-29999";
            return Err(match &entry.ports {
                Some(text) => wrong(text, "versions.ports", quoted(&text.value), expected),
                None => other(1, "versions.ports", expected),
            });
        }
    };
    let watch = entry.watch.as_ref().map(|time| time.value.0);
    Ok(VersionPolicy {
        ports,
        keep_releases: entry.keep_releases.unwrap_or(5),
        watch: watch.unwrap_or(Duration::from_secs(10)),
        health_timeout: time(entry.health_timeout.as_ref(), "versions.health_timeout")?
            .unwrap_or(Duration::from_mins(1)),
    })
}

/// No two services share a port: HAProxy connects to each of them.
pub(super) fn others(
    file: &File,
    first: Ports,
    first_health: &Health,
) -> Result<BTreeMap<ServiceName, OtherService>, Wrong> {
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
            return Err(other(line(&ports.check), &format!("services.{name}"), &text));
        }
        for (field, port) in [("check", &ports.check), ("main", &ports.main), ("backup", &ports.backup)] {
            let key = key(&format!("ports.{field}"));
            if let Some(first) = seen.insert(port.value, key.clone()) {
                let text = format!("port {} is already `{first}`", port.value);
                return Err(other(line(port), &key, &text));
            }
        }
        let backend = backend(name, entry.backend.as_ref(), &key("backend"))?;
        let health = entry.health.as_ref().map_or_else(|| Ok(first_health.clone()), health)?;
        let ports = Ports { check: ports.check.value, main: ports.main.value, backup: ports.backup.value };
        others.insert(name.clone(), OtherService { ports, health, backend });
    }
    Ok(others)
}

fn backend(name: &ServiceName, entry: Option<&Spanned<String>>, key: &str) -> Result<String, Wrong> {
    match entry {
        Some(text) if !is_haproxy_name(&text.value) => {
            Err(wrong(text, key, quoted(&text.value), "a name of letters, digits and `-_.:`"))
        }
        Some(text) => Ok(text.value.clone()),
        None => Ok(name.to_string()),
    }
}
