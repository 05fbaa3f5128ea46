//! Which host of the fleet this machine is.

use std::net::IpAddr;

use crate::model::fleet::Fleet;
use crate::model::host::{Host, Way};
use crate::model::name::HostName;

/// What is known of the machine. `addresses` are those of its interfaces.
#[derive(Debug, Clone)]
pub struct Identity<'a> {
    pub host_name: &'a str,
    pub addresses: &'a [IpAddr],
}

/// Why no host can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    #[error("the configuration has no host `{asked}`; it has {}", names(.known))]
    Unknown { asked: HostName, known: Vec<HostName> },
    #[error("this machine (`{machine}`) is none of the configured hosts: {}", names(.known))]
    NotAHost { machine: String, known: Vec<HostName> },
    #[error("this machine's name `{machine}` cannot be a host name: {why}")]
    BadName { machine: String, why: String },
}

/// Which hosts a command names.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// None: this machine, when it is one of the hosts.
    Nothing,
    /// None, by a command that means all of them when this machine is not one.
    Anything,
    These(&'a [HostName]),
    All,
}

/// The hosts to act on, each with the way to it. `local` takes the operator's word that this machine is the host asked for.
pub fn pick(
    fleet: &Fleet,
    asked: Asked<'_>,
    local: bool,
    machine: &Identity<'_>,
) -> Result<Vec<Host>, PickError> {
    if fleet.hosts.is_empty() {
        return match asked {
            Asked::These([one]) => alone(Some(one), machine),
            Asked::These([_, other, ..]) => Err(PickError::Unknown { asked: other.clone(), known: vec![] }),
            Asked::These([]) | Asked::Nothing | Asked::Anything | Asked::All => alone(None, machine),
        }
        .map(|host| vec![host]);
    }
    let known = || fleet.hosts.iter().map(|host| host.name.clone()).collect();
    let routed = |host: &Host| {
        let way = if is_here(host, machine) { Way::Here } else { host.way.clone() };
        Host { way, ..host.clone() }
    };
    let here = fleet.hosts.iter().find(|host| is_here(host, machine));
    match (asked, here) {
        (Asked::All, _) | (Asked::Anything, None) => Ok(fleet.hosts.iter().map(routed).collect()),
        (Asked::Nothing | Asked::Anything, Some(here)) => Ok(vec![routed(here)]),
        (Asked::Nothing, None) => {
            Err(PickError::NotAHost { machine: machine.host_name.to_owned(), known: known() })
        }
        (Asked::These(names), _) => {
            let mut hosts: Vec<Host> = Vec::new();
            for name in names {
                let host = fleet.host(name);
                let host = host.ok_or_else(|| PickError::Unknown { asked: name.clone(), known: known() })?;
                if hosts.iter().all(|other| other.name != host.name) {
                    hosts.push(routed(host));
                }
            }
            if let ([host], true) = (hosts.as_mut_slice(), local) {
                host.way = Way::Here;
            }
            Ok(hosts)
        }
    }
}

/// Without `hosts:`, the machine itself under its short name: haproxy.cfg says `main-web1`, not `main-web1.example.org`.
fn alone(asked: Option<&HostName>, machine: &Identity<'_>) -> Result<Host, PickError> {
    let short = machine.host_name.split('.').next().unwrap_or("");
    let name = match asked {
        Some(asked) => asked.clone(),
        None => short.parse().map_err(|why: crate::model::name::NameError| PickError::BadName {
            machine: machine.host_name.to_owned(),
            why: why.to_string(),
        })?,
    };
    Ok(Host { name, address: None, way: Way::Here })
}

fn is_here(host: &Host, machine: &Identity<'_>) -> bool {
    let by_address = host.address.is_some_and(|address| machine.addresses.contains(&address));
    let short = machine.host_name.split('.').next();
    by_address || host.name.as_str() == machine.host_name || Some(host.name.as_str()) == short
}

fn names(known: &[HostName]) -> String {
    known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;

    fn fleet(hosts: &[(&str, &str)]) -> Fleet {
        let hosts = hosts.iter().map(|(name, address)| example::host(name, address)).collect();
        Fleet { hosts, ..example::fleet() }
    }

    const PAIR: [(&str, &str); 2] = [("web1", "10.0.0.11"), ("web2", "10.0.0.12")];

    /// `web2` is this machine; `NAME@ROUTE` for each host.
    fn picked(hosts: &[(&str, &str)], asked: Asked<'_>, local: bool) -> Result<Vec<String>, String> {
        let addresses = ["10.0.0.12".parse().unwrap()];
        let machine = Identity { host_name: "node7.example.org", addresses: &addresses };
        let mut fleet = fleet(hosts);
        for host in &mut fleet.hosts {
            host.way = Way::Ssh(host.name.to_string());
        }
        let picked = pick(&fleet, asked, local, &machine).map_err(|error| error.to_string())?;
        Ok(picked.iter().map(|host| format!("{}@{}", host.name, host.way)).collect())
    }

    fn name(text: &str) -> [HostName; 1] {
        [text.parse().unwrap()]
    }

    #[test]
    fn found_by_address_or_by_name() {
        let here = |name: &str| Ok(vec![format!("{name}@this machine")]);
        assert_eq!(picked(&PAIR, Asked::Nothing, false), here("web2"));
        assert_eq!(picked(&PAIR, Asked::Anything, false), here("web2"));
        assert_eq!(picked(&[("node7", "10.9.9.9")], Asked::Nothing, false), here("node7"));
        assert_eq!(picked(&[], Asked::Nothing, false), here("node7"));
        assert_eq!(picked(&[], Asked::These(&name("web9")), false), here("web9"));
    }

    #[test]
    fn others_are_reached_by_their_route() {
        let both = Ok(vec!["web1@ssh web1".to_owned(), "web2@this machine".to_owned()]);
        assert_eq!(picked(&PAIR, Asked::All, false), both);
        let twice = [name("web1"), name("web2"), name("web1")].concat();
        assert_eq!(picked(&PAIR, Asked::These(&twice), false), both);
        assert_eq!(
            picked(&PAIR, Asked::These(&name("web1")), true),
            Ok(vec!["web1@this machine".to_owned()])
        );
        let elsewhere = [("a", "10.0.0.1"), ("b", "10.0.0.2")];
        let all = Ok(vec!["a@ssh a".to_owned(), "b@ssh b".to_owned()]);
        assert_eq!(picked(&elsewhere, Asked::Anything, false), all);
    }

    #[test]
    fn nobody_is_taken_for_another() {
        let unknown = "the configuration has no host `web3`; it has `web1`, `web2`";
        assert_eq!(picked(&PAIR, Asked::These(&name("web3")), true), Err(unknown.into()));
        let none = "this machine (`node7.example.org`) is none of the configured hosts: `web1`";
        assert_eq!(picked(&PAIR[..1], Asked::Nothing, true), Err(none.into()));
    }
}
