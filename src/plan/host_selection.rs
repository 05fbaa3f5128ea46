//! Which host of the fleet this machine is.

use std::net::IpAddr;

use crate::model::fleet::Fleet;
use crate::model::host::{Host, Transport};
use crate::model::name::HostName;

/// The known names of the machine. `addresses` are those of its interfaces.
#[derive(Debug, Clone)]
pub struct MachineIdentity<'a> {
    pub host_name: &'a str,
    pub addresses: &'a [IpAddr],
}

/// Why no host can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    #[error("cannot select the host `{requested}`: the configuration has {}", if .known.is_empty() { "no hosts".to_owned() } else { join_names(.known) })]
    Unknown { requested: HostName, known: Vec<HostName> },
    #[error("cannot select a host: this machine, `{machine}`, is none of {}", join_names(.known))]
    NotAHost { machine: String, known: Vec<HostName> },
    #[error("cannot select this machine: its name `{machine}` is no host name: {reason}")]
    BadName { machine: String, reason: String },
}

/// Which hosts a command names.
#[derive(Debug, Clone, Copy)]
pub enum HostSelection<'a> {
    /// No host is named: this machine, when it is one of the hosts.
    ThisMachine,
    /// No host is named, and the command takes all of them when this machine is not one.
    ThisOrAll,
    Named(&'a [HostName]),
    All,
}

/// The hosts to act on, each with its transport. `local`: the operator declares that this machine is the named host.
pub fn select_hosts(
    fleet: &Fleet,
    requested: HostSelection<'_>,
    local: bool,
    machine: &MachineIdentity<'_>,
) -> Result<Vec<Host>, SelectionError> {
    if fleet.hosts.is_empty() {
        return match requested {
            HostSelection::Named([one]) => select_this_machine(Some(one), machine),
            HostSelection::Named([_, other, ..]) => {
                Err(SelectionError::Unknown { requested: other.clone(), known: vec![] })
            }
            HostSelection::Named([])
            | HostSelection::ThisMachine
            | HostSelection::ThisOrAll
            | HostSelection::All => select_this_machine(None, machine),
        }
        .map(|host| vec![host]);
    }
    let known = || fleet.hosts.iter().map(|host| host.name.clone()).collect();
    let routed = |host: &Host| {
        let transport =
            if is_this_machine(host, machine) { Transport::Local } else { host.transport.clone() };
        Host { transport, ..host.clone() }
    };
    let this = fleet.hosts.iter().find(|host| is_this_machine(host, machine));
    match (requested, this) {
        (HostSelection::All, _) | (HostSelection::ThisOrAll, None) => {
            Ok(fleet.hosts.iter().map(routed).collect())
        }
        (HostSelection::ThisMachine | HostSelection::ThisOrAll, Some(this)) => Ok(vec![routed(this)]),
        (HostSelection::ThisMachine, None) => {
            Err(SelectionError::NotAHost { machine: machine.host_name.to_owned(), known: known() })
        }
        (HostSelection::Named(names), _) => {
            let mut hosts: Vec<Host> = Vec::new();
            for name in names {
                let host = fleet.find_host(name);
                let host =
                    host.ok_or_else(|| SelectionError::Unknown { requested: name.clone(), known: known() })?;
                if hosts.iter().all(|other| other.name != host.name) {
                    hosts.push(routed(host));
                }
            }
            if let ([host], true) = (hosts.as_mut_slice(), local) {
                host.transport = Transport::Local;
            }
            Ok(hosts)
        }
    }
}

/// Without `hosts:`, the machine itself under its short name: haproxy.cfg has `main-web1`, not `main-web1.example.org`.
fn select_this_machine(
    requested: Option<&HostName>,
    machine: &MachineIdentity<'_>,
) -> Result<Host, SelectionError> {
    let short = machine.host_name.split('.').next().unwrap_or("");
    let name = match requested {
        Some(requested) => requested.clone(),
        None => short.parse().map_err(|error: crate::model::name::NameError| SelectionError::BadName {
            machine: machine.host_name.to_owned(),
            reason: error.to_string(),
        })?,
    };
    Ok(Host { name, address: None, transport: Transport::Local })
}

/// Chooses the transport to a host that any command may need, whatever hosts it is about.
pub fn choose_transport(host: &Host, machine: &MachineIdentity<'_>) -> Transport {
    // Another machine by ssh may have this machine's name in the ssh configuration alone.
    let is_here = host.address.is_some() && is_this_machine(host, machine);
    if is_here { Transport::Local } else { host.transport.clone() }
}

fn is_this_machine(host: &Host, machine: &MachineIdentity<'_>) -> bool {
    let by_address = host.address.is_some_and(|address| machine.addresses.contains(&address));
    let short = machine.host_name.split('.').next();
    by_address || host.name.as_str() == machine.host_name || Some(host.name.as_str()) == short
}

fn join_names(known: &[HostName]) -> String {
    known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;

    fn make_fleet(hosts: &[(&str, &str)]) -> Fleet {
        let hosts = hosts.iter().map(|(name, address)| example::host(name, address)).collect();
        Fleet { hosts, ..example::fleet() }
    }

    const PAIR: [(&str, &str); 2] = [("web1", "10.0.0.11"), ("web2", "10.0.0.12")];

    /// `web2` is this machine; `NAME@ROUTE` for each host.
    fn select_names(
        hosts: &[(&str, &str)],
        requested: HostSelection<'_>,
        local: bool,
    ) -> Result<Vec<String>, String> {
        let addresses = ["10.0.0.12".parse().unwrap()];
        let machine = MachineIdentity { host_name: "node7.example.org", addresses: &addresses };
        let mut fleet = make_fleet(hosts);
        for host in &mut fleet.hosts {
            host.transport = Transport::Ssh(host.name.to_string());
        }
        let picked = select_hosts(&fleet, requested, local, &machine).map_err(|error| error.to_string())?;
        Ok(picked.iter().map(|host| format!("{}@{}", host.name, host.transport)).collect())
    }

    fn make_names(text: &str) -> [HostName; 1] {
        [text.parse().unwrap()]
    }

    #[test]
    fn found_by_address_or_by_name() {
        let this = |name: &str| Ok(vec![format!("{name}@this machine")]);
        assert_eq!(select_names(&PAIR, HostSelection::ThisMachine, false), this("web2"));
        assert_eq!(select_names(&PAIR, HostSelection::ThisOrAll, false), this("web2"));
        assert_eq!(select_names(&[("node7", "10.9.9.9")], HostSelection::ThisMachine, false), this("node7"));
        assert_eq!(select_names(&[], HostSelection::ThisMachine, false), this("node7"));
        assert_eq!(select_names(&[], HostSelection::Named(&make_names("web9")), false), this("web9"));
    }

    #[test]
    fn others_are_reached_by_their_route() {
        let both = Ok(vec!["web1@ssh web1".to_owned(), "web2@this machine".to_owned()]);
        assert_eq!(select_names(&PAIR, HostSelection::All, false), both);
        let twice = [make_names("web1"), make_names("web2"), make_names("web1")].concat();
        assert_eq!(select_names(&PAIR, HostSelection::Named(&twice), false), both);
        assert_eq!(
            select_names(&PAIR, HostSelection::Named(&make_names("web1")), true),
            Ok(vec!["web1@this machine".to_owned()])
        );
        let elsewhere = [("a", "10.0.0.1"), ("b", "10.0.0.2")];
        let all = Ok(vec!["a@ssh a".to_owned(), "b@ssh b".to_owned()]);
        assert_eq!(select_names(&elsewhere, HostSelection::ThisOrAll, false), all);
    }

    #[test]
    fn nobody_is_taken_for_another() {
        let unknown = "cannot select the host `web3`: the configuration has `web1`, `web2`";
        assert_eq!(select_names(&PAIR, HostSelection::Named(&make_names("web3")), true), Err(unknown.into()));
        let none = "cannot select a host: this machine, `node7.example.org`, is none of `web1`";
        assert_eq!(select_names(&PAIR[..1], HostSelection::ThisMachine, true), Err(none.into()));
    }
}
