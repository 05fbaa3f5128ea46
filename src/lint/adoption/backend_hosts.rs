//! The hosts of a backend, from its server lines.

use std::net::IpAddr;

use super::outcome::{AdoptionError, AdoptionOptions, UnclearLine};
use super::server_names::{LineNames, derive_server_names};
use crate::lint::cfg::Section;
use crate::lint::keywords::{ServerAddress, ServerLine, ServerPort, read_servers};
use crate::lint::site::{CheckTarget, Site};
use crate::lint::source::LineMap;
use crate::lint::timing::{format_yaml, read_check_timeout, read_timing};
use crate::model::balancer::{CheckTiming, ServerNames};
use crate::model::name::HostName;
use crate::model::port_forward::Switch;
use crate::plan::switch::compute_detection_time;

/// A backend with the hosts that its server lines describe.
pub(super) struct AdoptedBackend<'a> {
    pub section: &'a Section,
    pub hosts: Vec<AdoptedHost<'a>>,
    pub names: ServerNames,
    pub main_port: u16,
    /// `None`: no backup vhost is in the file.
    pub backup_port: Option<u16>,
    /// The port that all main lines are checked on, if it can be the check port of the forward.
    pub check_port: Option<u16>,
    pub timing: CheckTiming,
    /// Backup lines of other machines, such as a server with an apology.
    pub other_backups: Vec<String>,
    pub notes: Vec<String>,
}

pub(super) struct AdoptedHost<'a> {
    pub name: HostName,
    pub address: IpAddr,
    pub main: ServerLine<'a>,
    pub backup: Option<ServerLine<'a>>,
    pub cookie: String,
}

/// The lines that send traffic to one address.
struct AddressGroup<'a> {
    /// The address as it is written, without its port.
    text: String,
    main: ServerLine<'a>,
    backup: Option<ServerLine<'a>>,
}

/// Collects the lines that are unclear, so that all of them are reported at once.
struct LineReader<'a, 'b> {
    site: &'b Site<'a>,
    map: &'b LineMap,
    unclear: Vec<UnclearLine>,
    other_backups: Vec<String>,
    notes: Vec<String>,
}

/// Reads the hosts of a backend.
pub(super) fn read_backend<'a>(
    site: &Site<'a>,
    section: &'a Section,
    options: &AdoptionOptions,
    map: &LineMap,
) -> Result<AdoptedBackend<'a>, AdoptionError> {
    let mut reader = LineReader { site, map, unclear: vec![], other_backups: vec![], notes: vec![] };
    let servers = read_servers(site.cfg, section);
    let taken: Vec<String> = servers.iter().map(|server| server.name.to_string()).collect();
    let groups = reader.group_by_address(section, servers);
    let main_port = reader.read_port(groups.iter().map(|group| &group.main), "main");
    let backup_port = reader.read_port(groups.iter().filter_map(|group| group.backup.as_ref()), "backup");
    let named = reader.name_hosts(section, &groups, &taken);
    let (names, host_names) = named.unwrap_or_default();
    let mut hosts = Vec::new();
    let check_port = reader.read_check_port(section, &groups, main_port);
    let timing = reader.read_timings(section, &groups);
    for (name, group) in host_names.into_iter().zip(groups) {
        if let Some(address) = reader.find_address(&name, &group, options) {
            let cookie = String::new();
            hosts.push(AdoptedHost { name, address, main: group.main, backup: group.backup, cookie });
        }
    }
    reader.assign_cookies(&mut hosts);
    reader.check_addresses(&hosts);
    let LineReader { unclear, other_backups, notes, .. } = reader;
    match main_port {
        Some(main_port) if unclear.is_empty() => Ok(AdoptedBackend {
            section,
            hosts,
            names,
            main_port,
            backup_port,
            check_port,
            timing,
            other_backups,
            notes,
        }),
        _ => Err(AdoptionError::Unclear { lines: unclear }),
    }
}

impl<'a> LineReader<'a, '_> {
    fn add_unclear(&mut self, line: usize, reason: impl Into<String>) {
        let place = self.map.describe(line);
        self.unclear.push(UnclearLine { place, reason: reason.into(), lacks_address: false });
    }

    fn add_note(&mut self, line: usize, note: &str) {
        self.notes.push(format!("{}: {note}", self.map.describe(line)));
    }

    /// Groups the lines by the address that they send traffic to; lines that can be no vhost of a host are left out.
    fn group_by_address(&mut self, section: &Section, servers: Vec<ServerLine<'a>>) -> Vec<AddressGroup<'a>> {
        let templates: Vec<usize> = section.find_all(&["server-template"]).map(|line| line.number).collect();
        for line in &templates {
            self.add_note(
                *line,
                &format!("{TEMPLATE_REASON}, so its servers were left out. {TEMPLATE_REPAIR}"),
            );
        }
        let mut groups: Vec<AddressGroup<'a>> = Vec::new();
        let (backups, mains): (Vec<_>, Vec<_>) = servers
            .into_iter()
            .filter(|server| !server.is_slot)
            .partition(|server| server.has_flag("backup"));
        for main in mains {
            self.check_protocol(&main);
            match main.address() {
                ServerAddress::Local => {
                    let note = format!("`{}` is a unix socket and no host: it was left out", main.name);
                    self.add_note(main.number, &note);
                    continue;
                }
                ServerAddress::OfClient => {
                    let reason = format!("`{}` has no address of its own", main.name);
                    self.add_unclear(main.number, reason);
                    continue;
                }
                ServerAddress::Ip(_) | ServerAddress::Name(_) | ServerAddress::Unknown => {}
            }
            let text = read_address_text(&main);
            match groups.iter().find(|group| group.text == text) {
                None => groups.push(AddressGroup { text, main, backup: None }),
                Some(first) => {
                    let reason = format!(
                        "`{}` and `{}` are two lines without `backup` for {text}: a host has one main vhost",
                        first.main.name, main.name
                    );
                    self.add_unclear(main.number, reason);
                }
            }
        }
        for backup in backups {
            self.place_backup(&mut groups, backup);
        }
        if groups.is_empty() && self.unclear.is_empty() {
            for line in &templates {
                self.add_unclear(*line, format!("{TEMPLATE_REASON}. {TEMPLATE_REPAIR}"));
            }
        }
        if groups.is_empty() && self.unclear.is_empty() {
            let reason = format!("{} `{}` has no line of a host", section.kind, section.name);
            self.add_unclear(section.number, reason);
        }
        groups
    }

    fn place_backup(&mut self, groups: &mut [AddressGroup<'a>], backup: ServerLine<'a>) {
        let text = read_address_text(&backup);
        match groups.iter_mut().find(|group| group.text == text) {
            Some(AddressGroup { backup: place @ None, .. }) => *place = Some(backup),
            Some(AddressGroup { backup: Some(first), .. }) => {
                let reason =
                    format!("`{}` and `{}` are two backup lines for {text}", first.name, backup.name);
                self.add_unclear(backup.number, reason);
            }
            None => {
                let note = format!(
                    "`{}` is a backup line of {text}, which has no main line: it is no host of switchman",
                    backup.name
                );
                self.add_note(backup.number, &note);
                self.other_backups.push(backup.name.to_string());
            }
        }
    }

    /// switchman requests the health check over plain HTTP, and the forward passes HAProxy's checks on to the same port.
    fn check_protocol(&mut self, server: &ServerLine<'a>) {
        if let Some(keyword) = ["ssl", "check-ssl"].into_iter().find(|keyword| server.has_flag(keyword)) {
            let reason = format!(
                "`{}` has `{keyword}`, and switchman requests the health check of a vhost over plain HTTP: a vhost that answers \
                 over TLS only would never be healthy. Let the vhosts answer over plain HTTP, and remove `{keyword}`",
                server.name
            );
            self.add_unclear(server.number, reason);
        }
    }

    /// The port that all lines of a role have.
    fn read_port<'s>(&mut self, servers: impl Iterator<Item = &'s ServerLine<'a>>, role: &str) -> Option<u16>
    where
        'a: 's,
    {
        let mut first: Option<(u16, String)> = None;
        for server in servers {
            match (server.port(), &first) {
                (ServerPort::Fixed(port), None) => first = Some((port, server.name.to_string())),
                (ServerPort::Fixed(port), Some((other, _))) if port == *other => {}
                (ServerPort::Fixed(port), Some((other, name))) => {
                    let reason = format!(
                        "`{}` has port {port} and `{name}` port {other}: the {role} vhosts of a service have one port on all hosts",
                        server.name
                    );
                    self.add_unclear(server.number, reason);
                }
                (ServerPort::OfClient(_), _) => {
                    let reason = format!(
                        "`{}` has no port of its own: HAProxy connects to the port that the client used. Write the port",
                        server.name
                    );
                    self.add_unclear(server.number, reason);
                }
                (ServerPort::Unknown, _) => {
                    let reason =
                        format!("the port of `{}` comes from the environment of HAProxy", server.name);
                    self.add_unclear(server.number, reason);
                }
            }
        }
        first.map(|(port, _)| port)
    }

    fn name_hosts(
        &mut self,
        section: &Section,
        groups: &[AddressGroup<'a>],
        taken: &[String],
    ) -> Option<(ServerNames, Vec<HostName>)> {
        if groups.is_empty() {
            return None;
        }
        let lines: Vec<LineNames<'_>> = groups
            .iter()
            .map(|group| LineNames {
                main: &group.main.name,
                backup: group.backup.as_ref().map(|backup| &*backup.name),
            })
            .collect();
        let Some((names, hosts)) = derive_server_names(&lines, taken) else {
            let pairs = groups.iter().filter_map(|group| Some((&group.main, group.backup.as_ref()?)));
            let pairs: Vec<String> =
                pairs.map(|(main, backup)| format!("`{}` and `{}`", main.name, backup.name)).collect();
            let reason = format!(
                "the names of the server lines have no host in common ({}): rename them to `main-HOST` and `backup-HOST`",
                pairs.join(", ")
            );
            self.add_unclear(section.number, reason);
            return None;
        };
        let mut parsed: Vec<HostName> = Vec::new();
        for (host, group) in hosts.iter().zip(groups) {
            match host.parse() {
                Ok(name) => parsed.push(name),
                Err(error) => {
                    let reason = format!("`{}` cannot name a host: {error}", group.main.name);
                    self.add_unclear(group.main.number, reason);
                }
            }
        }
        for (at, name) in parsed.iter().enumerate() {
            let is_like = |other: &&HostName| other.as_str().eq_ignore_ascii_case(name.as_str());
            if let Some(other) = parsed[..at].iter().find(is_like) {
                let reason =
                    format!("`{name}` and `{other}` are one host name: upper and lower case do not differ");
                self.add_unclear(groups.get(at).map_or(section.number, |group| group.main.number), reason);
            }
        }
        (parsed.len() == groups.len()).then_some((names, parsed))
    }

    /// Finds the address of a host: of the line, of the operator, or of the hosts file. No name is looked up anywhere else.
    fn find_address(
        &mut self,
        name: &HostName,
        group: &AddressGroup<'a>,
        options: &AdoptionOptions,
    ) -> Option<IpAddr> {
        if let Some(address) = group.main.ip_address() {
            return Some(address);
        }
        if let Some((_, address)) = options.addresses.iter().find(|(own, _)| own == name) {
            return Some(*address);
        }
        let found = self.site.resolve(group.main.address());
        if let [address] = found.as_slice() {
            let note = format!("{} of `{}` is {address} in the hosts file of this machine", group.text, name);
            self.add_note(group.main.number, &note);
            return Some(*address);
        }
        let what = match (group.main.address(), found.len()) {
            (ServerAddress::Unknown, _) => {
                format!("the address of `{}` comes from the environment of HAProxy", group.main.name)
            }
            (_, 0) => format!(
                "`{}` has the name `{}`, which the hosts file of this machine does not have",
                group.main.name, group.text
            ),
            (_, count) => format!("`{}` has {count} addresses in the hosts file of this machine", group.text),
        };
        let reason = format!("{what}: give the address with `--host {name}=ADDRESS`");
        let place = self.map.describe(group.main.number);
        self.unclear.push(UnclearLine { place, reason, lacks_address: true });
        None
    }

    /// The port that every main line is checked on, where that is another port than its data port and backup lines exist.
    /// Without backup lines it is a port of the application.
    fn read_check_port(
        &mut self,
        section: &'a Section,
        groups: &[AddressGroup<'a>],
        main_port: Option<u16>,
    ) -> Option<u16> {
        let mut found = groups.iter().map(|group| match self.site.find_check(section, &group.main) {
            CheckTarget::Port { port, .. } => Some(port),
            _ => None,
        });
        let first = found.next()??;
        let is_common = found.all(|port| port == Some(first));
        if !is_common || Some(first) == main_port {
            return None;
        }
        if groups.iter().any(|group| group.backup.is_some()) {
            return Some(first);
        }
        let line = groups.first().map_or(section.number, |group| group.main.number);
        let note = format!(
            "the lines are checked on port {first} and no host has a backup line: if an application listens on {first}, it is \
             not the check port of a forward. Choose it with `--check-port {first}` if nothing listens there"
        );
        self.add_note(line, &note);
        None
    }

    fn read_timings(&mut self, section: &Section, groups: &[AddressGroup<'a>]) -> CheckTiming {
        let timeout = read_check_timeout(self.site.cfg, section);
        let Some(first) = groups.first() else { return CheckTiming::default() };
        let mut slowest = (&first.main, read_timing(&first.main, timeout));
        for group in groups {
            let timing = read_timing(&group.main, timeout);
            if is_slower(&timing, &slowest.1) {
                slowest = (&group.main, timing);
            }
        }
        let (server, timing) = slowest;
        let other = groups.iter().find(|group| read_timing(&group.main, timeout) != timing);
        if let Some(other) = other {
            let note = format!(
                "`{}` has other check settings than `{}`: those of `{}` were taken, {}, because HAProxy notices a switch the latest \
                 by them",
                other.main.name,
                server.name,
                server.name,
                format_yaml(&timing)
            );
            self.add_note(other.main.number, &note);
        }
        timing
    }

    /// Keeps the cookie of each main line, and finds one for lines that have none.
    fn assign_cookies(&mut self, hosts: &mut [AdoptedHost<'a>]) {
        let mut values: Vec<String> = Vec::new();
        for host in hosts.iter() {
            let Some(value) = host.main.value("cookie") else { continue };
            if values.iter().any(|other| other == value) {
                let reason = format!(
                    "`{}` has the cookie value `{value}` of another host: users of one host are sent to the other",
                    host.main.name
                );
                self.add_unclear(host.main.number, reason);
            }
            values.push(value.to_owned());
        }
        for host in hosts {
            let own = host.main.value("cookie").map(str::to_owned);
            host.cookie = own.unwrap_or_else(|| {
                let mut value = host.name.to_string();
                while values.contains(&value) {
                    value.push_str("-2");
                }
                values.push(value.clone());
                value
            });
        }
    }

    /// Two names can have one address.
    fn check_addresses(&mut self, hosts: &[AdoptedHost<'a>]) {
        for (at, host) in hosts.iter().enumerate() {
            if let Some(first) = hosts[..at].iter().find(|other| other.address == host.address) {
                let reason =
                    format!("`{}` has the address {} of `{}`", host.main.name, host.address, first.main.name);
                self.add_unclear(host.main.number, reason);
            }
        }
    }
}

/// Whether HAProxy can notice a switch later by these settings than by the others.
pub(super) fn is_slower(timing: &CheckTiming, other: &CheckTiming) -> bool {
    let measure =
        |timing: &CheckTiming| [Switch::Off, Switch::On].map(|switch| compute_detection_time(timing, switch));
    let (own, other) = (measure(timing), measure(other));
    own.iter().max().cmp(&other.iter().max()).then(own.cmp(&other)).is_gt()
}

const TEMPLATE_REASON: &str =
    "`server-template` numbers its servers: which of them is which host is not in the file";
const TEMPLATE_REPAIR: &str = "Write a `server` line for each host";

/// The address of a line without its port, one text for one address.
fn read_address_text(server: &ServerLine<'_>) -> String {
    match server.address() {
        ServerAddress::Ip(address) => address.to_string(),
        ServerAddress::Name(name) => name.to_owned(),
        _ => {
            let text = server.endpoint_text();
            text.rsplit_once(':').map_or(text, |(address, _)| address).to_owned()
        }
    }
}
