//! A fleet from an existing haproxy.cfg, with the lines that the file lacks. It takes what is written, and reports what is
//! not: it never chooses between two readings.

use std::collections::BTreeSet;

use backend_hosts::{AdoptedBackend, is_slower, read_backend};
use changes::{ChangeList, propose_backend};
use endpoint::{FoundEndpoint, find_endpoint};
use outcome::{Adoption, AdoptionError, AdoptionOptions, UnclearLine};

use super::cfg::{ParsedCfg, Section};
use super::checks::read_check_request;
use super::conditions::list_variants;
use super::first_variant::parse_first_variant;
use super::keywords::{ServerPort, read_servers};
use super::site::{Site, list_bind_ports};
use super::source::{HaproxyCfg, LineMap};
use super::timing::format_yaml;
use crate::model::balancer::BalancerSpec;
use crate::model::fleet::{AdditionalService, Fleet};
use crate::model::health::Health;
use crate::model::host::{Host, Transport};
use crate::model::name::ServiceName;
use crate::model::ports::{Port, Ports};

mod backend_hosts;
mod changes;
mod endpoint;
pub(super) mod outcome;
mod server_names;

/// Reads a fleet from the files of one HAProxy. Settings that haproxy.cfg cannot have are those of `base`.
pub fn adopt_haproxy(
    source: &HaproxyCfg,
    base: &Fleet,
    options: &AdoptionOptions,
) -> Result<Adoption, AdoptionError> {
    let map = LineMap::new(source);
    let cfg = parse_first_variant(source, &map);
    let site = Site { cfg: &cfg, addresses: &source.addresses };
    let mut backends = Vec::new();
    for section in select_sections(&cfg, &options.backends)? {
        backends.push(read_backend(&site, section, options, &map)?);
    }
    refuse_conditional_lines(source, &map, &backends)?;
    share_names(&mut backends);
    let Some((first, others)) = backends.split_first() else { return Err(AdoptionError::NoBackend) };
    check_hosts(first, others, options)?;
    let mut notes = list_condition_notes(source, &map);
    notes.extend(backends.iter().flat_map(|backend| backend.notes.clone()));
    notes.extend(backends.iter().filter_map(|backend| describe_other_backups(&cfg, backend)));
    let slowest = backends.iter().fold(first, |slowest, backend| {
        if is_slower(&backend.timing, &slowest.timing) { backend } else { slowest }
    });
    if backends.iter().any(|backend| backend.timing != slowest.timing) {
        notes.push(format!(
            "the backends have different check settings: those of `{}` were taken for all, {}, because HAProxy notices a switch \
             the latest by them",
            slowest.section.name,
            format_yaml(&slowest.timing)
        ));
    }

    let is_on_host =
        first.hosts.iter().any(|host| host.address.is_loopback() || options.balancer == Some(host.address));
    let FoundEndpoint { endpoint, new_socket, note } = find_endpoint(&cfg, options.balancer, is_on_host);
    notes.extend(note);
    let mut used = list_used_ports(&site, &backends, is_on_host);
    let ports = choose_ports(first, options.check_port, options.backup_port, options, &mut used, &mut notes)?;
    let mut fleet = Fleet {
        service: name_service(options.service.as_ref(), first.section)?,
        ports,
        hosts: first.hosts.iter().map(build_host).collect(),
        balancers: vec![BalancerSpec {
            name: "lb1".parse().map_err(|_| AdoptionError::NoBackend)?,
            stats_endpoint: endpoint,
            backend: first.section.name.clone(),
            servers: first.names.clone(),
            check: slowest.timing,
            is_on_host,
        }],
        health: read_health(&cfg, first.section, &base.health),
        ..base.clone()
    };
    fleet.limits.min_up = u32::from(fleet.hosts.len() > 1);
    for backend in others {
        let name = name_service(None, backend.section)?;
        let ports = choose_ports(backend, None, None, options, &mut used, &mut notes)?;
        let health = read_health(&cfg, backend.section, &base.health);
        let service = AdditionalService { ports, health, backend: backend.section.name.clone() };
        fleet.additional_services.insert(name, service);
    }
    let mut list = ChangeList::new(source, &map);
    let adds_socket = new_socket.is_some();
    match (cfg.find_first("global"), new_socket) {
        (Some(global), Some(line)) => list.add_after(global.number, vec![line]),
        (None, Some(line)) => {
            notes.push(format!("the files have no `global` section: add one with `{}`", line.trim()));
        }
        (_, None) => {}
    }
    for (at, backend) in backends.iter().enumerate() {
        let name = if at == 0 { fleet.service.clone() } else { name_service(None, backend.section)? };
        if let Some(own) = fleet.for_service(&name) {
            propose_backend(&site, backend, &own, at == 0, &mut list);
        }
    }
    let (changes, changed) = list.apply(source);
    if changes.iter().any(|change| change.new.iter().any(|line| line.contains("your.name"))) {
        notes.push("replace `your.name` with the host name that the vhosts answer to".to_owned());
    }
    Ok(Adoption { fleet, changes, adds_socket, notes, changed })
}

/// The sections that the operator named, else the only one with servers.
fn select_sections<'a>(cfg: &'a ParsedCfg, names: &[String]) -> Result<Vec<&'a Section>, AdoptionError> {
    let has_servers =
        |section: &&Section| section.kind != "frontend" && !read_servers(cfg, section).is_empty();
    let sections: Vec<&Section> = cfg.proxies().filter(has_servers).collect();
    let found = || sections.iter().map(|section| section.name.clone()).collect::<Vec<_>>();
    if names.is_empty() {
        return match sections.as_slice() {
            [] => Err(AdoptionError::NoBackend),
            [one] => Ok(vec![*one]),
            _ => Err(AdoptionError::SeveralBackends { found: found() }),
        };
    }
    let mut selected: Vec<&Section> = Vec::new();
    for name in names {
        let section = sections.iter().find(|section| section.name == *name);
        let missing = || AdoptionError::UnknownBackend { requested: name.clone(), found: found() };
        let section = section.ok_or_else(missing)?;
        if !selected.iter().any(|other| other.number == section.number) {
            selected.push(section);
        }
    }
    Ok(selected)
}

/// Gives backends without backup lines the names of those that have some: all services of a load balancer have one pattern.
fn share_names(backends: &mut [AdoptedBackend<'_>]) {
    let has_backups = |backend: &AdoptedBackend<'_>| backend.hosts.iter().any(|host| host.backup.is_some());
    let source = backends.iter().find(|backend| has_backups(backend)).or(backends.first());
    let Some(names) = source.map(|backend| backend.names.clone()) else { return };
    for backend in
        backends.iter_mut().filter(|backend| !has_backups(backend) && backend.names.main == names.main)
    {
        backend.names.clone_from(&names);
    }
}

/// All services run on the same hosts, by the same names.
fn check_hosts(
    first: &AdoptedBackend<'_>,
    others: &[AdoptedBackend<'_>],
    options: &AdoptionOptions,
) -> Result<(), AdoptionError> {
    let describe = |backend: &AdoptedBackend<'_>| {
        let names = &backend.names;
        let hosts = backend.hosts.iter().map(|host| {
            let (main, backup) = (names.main_server_name(&host.name), names.backup_server_name(&host.name));
            format!("{main} {backup} {}", host.address)
        });
        let mut hosts: Vec<String> = hosts.collect();
        hosts.sort();
        hosts
    };
    for other in others {
        if describe(first) != describe(other) {
            return Err(AdoptionError::HostsDiffer {
                first: first.section.name.clone(),
                first_hosts: describe(first),
                other: other.section.name.clone(),
                other_hosts: describe(other),
            });
        }
    }
    let is_known = |name| first.hosts.iter().any(|host| host.name == name);
    match options.addresses.iter().find(|(name, _)| !is_known(name.clone())) {
        None => Ok(()),
        Some((name, _)) => {
            let found = first.hosts.iter().map(|host| host.name.to_string()).collect();
            Err(AdoptionError::UnknownHost { name: name.clone(), found })
        }
    }
}

fn build_host(host: &backend_hosts::AdoptedHost<'_>) -> Host {
    let transport = Transport::Ssh(host.name.to_string());
    Host { name: host.name.clone(), address: Some(host.address), transport }
}

fn name_service(requested: Option<&ServiceName>, section: &Section) -> Result<ServiceName, AdoptionError> {
    match requested {
        Some(name) => Ok(name.clone()),
        None => section.name.parse().map_err(|error: crate::model::name::NameError| {
            AdoptionError::ServiceName { found: section.name.clone(), reason: error.to_string() }
        }),
    }
}

/// The ports that lines of the files reach on the hosts; where HAProxy runs on a host, its own ports too.
fn list_used_ports(site: &Site<'_>, backends: &[AdoptedBackend<'_>], is_on_host: bool) -> BTreeSet<u16> {
    let mut used = BTreeSet::new();
    for section in site.cfg.proxies() {
        if is_on_host {
            used.extend(list_bind_ports(section));
        }
        for server in read_servers(site.cfg, section) {
            let addresses = site.resolve(server.address());
            let hosts = || backends.iter().flat_map(|backend| &backend.hosts);
            if hosts().any(|host| addresses.contains(&host.address)) {
                used.extend(server.check_port());
                used.extend(match server.port() {
                    ServerPort::Fixed(port) => Some(port),
                    _ => None,
                });
            }
        }
    }
    used
}

/// The ports of the file, and free ones where it has none.
fn choose_ports(
    backend: &AdoptedBackend<'_>,
    check: Option<Port>,
    backup: Option<Port>,
    options: &AdoptionOptions,
    used: &mut BTreeSet<u16>,
    notes: &mut Vec<String>,
) -> Result<Ports, AdoptionError> {
    let no_port = |purpose| move || AdoptionError::NoPort { purpose };
    let main = Port::new(backend.main_port).ok_or_else(no_port("main vhost"))?;
    let name = &backend.section.name;
    used.extend(check.or(options.check_port).map(Port::get));
    let mut choose = |first: &[u16], then: u16, what: &'static str, flag: &str| {
        let mut free = first.iter().copied().chain(then..=u16::MAX).filter(|port| !used.contains(port));
        let port = free.next().and_then(Port::new).ok_or_else(no_port(what))?;
        used.insert(port.get());
        notes.push(format!("backend `{name}` has no {what}: port {port} was chosen. {flag}"));
        Ok(port)
    };
    let check = match check.or_else(|| backend.check_port.and_then(Port::new)) {
        Some(port) => port,
        None => choose(&[], 8888, "check port", "`--check-port` sets another")?,
    };
    let backup = match backup.or_else(|| backend.backup_port.and_then(Port::new)) {
        Some(port) => port,
        None => choose(&[80], 8081, "backup vhost", "`--backup-port` sets another")?,
    };
    Ok(Ports { check, main, backup })
}

fn read_health(cfg: &ParsedCfg, section: &Section, base: &Health) -> Health {
    let request = read_check_request(cfg, section).unwrap_or_default();
    let is_visible = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    let is_path = |text: &&str| text.starts_with('/') && is_visible(text);
    let is_known = |text: &&str| !text.contains('$');
    Health {
        path: request.path.filter(is_path).filter(is_known).unwrap_or(&base.path).to_owned(),
        host: request.host.filter(is_visible).filter(is_known).map(str::to_owned),
        status: request.status.filter(|status| (200..=599).contains(status)).unwrap_or(base.status),
        ..base.clone()
    }
}

fn list_condition_notes(source: &HaproxyCfg, map: &LineMap) -> Vec<String> {
    let lines: Vec<&str> = source.files.iter().flat_map(|file| file.text.lines()).collect();
    let conditions = list_variants(&lines).conditions;
    let places: Vec<String> = conditions.iter().map(|at| map.describe(at + 1)).collect();
    let note = || {
        format!(
            "`.if` is not judged: its first branch was read and the others were left out, at {}",
            places.join(", ")
        )
    };
    (!places.is_empty()).then(note).into_iter().collect()
}

/// Refuses server lines that HAProxy has only under a condition: without one of them the backend has other hosts.
fn refuse_conditional_lines(
    source: &HaproxyCfg,
    map: &LineMap,
    backends: &[AdoptedBackend<'_>],
) -> Result<(), AdoptionError> {
    let lines: Vec<&str> = source.files.iter().flat_map(|file| file.text.lines()).collect();
    let variants = list_variants(&lines).lines;
    let mut found: BTreeSet<(usize, String)> = BTreeSet::new();
    for variant in &variants {
        let numbered = variant.iter().filter_map(|at| Some((at + 1, *lines.get(*at)?)));
        let cfg = ParsedCfg::parse_lines(numbered, &map.list_starts());
        let is_read = |section: &&Section| {
            backends.iter().any(|backend| {
                (&backend.section.kind, &backend.section.name) == (&section.kind, &section.name)
            })
        };
        for section in cfg.proxies().filter(is_read) {
            for line in &section.lines {
                let keyword = line.words.first().map_or("", String::as_str);
                let is_server = ["server", "server-template", "default-server"].contains(&keyword);
                let is_always = || variants.iter().all(|other| other.contains(&(line.number - 1)));
                if is_server && !is_always() {
                    let name = line.words.get(1).filter(|_| keyword != "default-server");
                    let name = name.map(|name| format!(" {name}")).unwrap_or_default();
                    found.insert((line.number, format!("{keyword}{name}")));
                }
            }
        }
    }
    let unclear = found.into_iter().map(|(number, text)| UnclearLine {
        place: map.describe(number),
        reason: format!(
            "`{text}` is inside `.if`, which is not judged: it can be another line on another machine"
        ),
        lacks_address: false,
    });
    let lines: Vec<UnclearLine> = unclear.collect();
    if lines.is_empty() { Ok(()) } else { Err(AdoptionError::Unclear { lines }) }
}

/// The reason why `option allbackups` is not among the changes.
fn describe_other_backups(cfg: &ParsedCfg, backend: &AdoptedBackend<'_>) -> Option<String> {
    let AdoptedBackend { section, other_backups, .. } = backend;
    let has_option = cfg.find_setting(section, &["option", "allbackups"]).is_some();
    let names = other_backups.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    (!other_backups.is_empty() && !has_option).then(|| {
        format!(
            "`option allbackups` is not among the lines for backend `{}`, because {names} would get a share of the users. Without \
             it, the first backup line gets the users that have no cookie: keep {names} below the other backup lines",
            section.name
        )
    })
}
