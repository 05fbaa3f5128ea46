//! Which host of the fleet this machine is.

use std::net::IpAddr;

use crate::model::fleet::Fleet;
use crate::model::host::Host;
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
    #[error("`{asked}` is not this machine (`{machine}`)")]
    Elsewhere { asked: HostName, machine: String },
    #[error("this machine's name `{machine}` cannot be a host name: {why}")]
    BadName { machine: String, why: String },
}

/// The host to act on. `asked` is `--host`; `local` takes the operator's word that this machine is that host.
pub fn pick(
    fleet: &Fleet,
    asked: Option<&HostName>,
    local: bool,
    machine: &Identity<'_>,
) -> Result<Host, PickError> {
    let name = machine.host_name.to_owned();
    if fleet.hosts.is_empty() {
        return alone(asked, machine);
    }
    let known = || fleet.hosts.iter().map(|host| host.name.clone()).collect();
    match asked {
        None => {
            let here = fleet.hosts.iter().find(|host| is_here(host, machine));
            here.cloned().ok_or_else(|| PickError::NotAHost { machine: name, known: known() })
        }
        Some(asked) => {
            let host = fleet.host(asked);
            let host = host.ok_or_else(|| PickError::Unknown { asked: asked.clone(), known: known() })?;
            if local || is_here(host, machine) {
                return Ok(host.clone());
            }
            Err(PickError::Elsewhere { asked: asked.clone(), machine: name })
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
    Ok(Host { name, address: None, ssh: None })
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

    fn picked(hosts: &[(&str, &str)], asked: Option<&str>, local: bool) -> Result<String, String> {
        let addresses = ["10.0.0.12".parse().unwrap()];
        let machine = Identity { host_name: "node7.example.org", addresses: &addresses };
        let asked = asked.map(|name| name.parse().unwrap());
        let host = pick(&fleet(hosts), asked.as_ref(), local, &machine);
        host.map(|host| host.name.to_string()).map_err(|error| error.to_string())
    }

    const PAIR: [(&str, &str); 2] = [("web1", "10.0.0.11"), ("web2", "10.0.0.12")];

    #[test]
    fn found_by_address_or_by_name() {
        assert_eq!(picked(&PAIR, None, false), Ok("web2".into()));
        assert_eq!(picked(&[("node7", "10.9.9.9")], None, false), Ok("node7".into()));
        assert_eq!(picked(&[], None, false), Ok("node7".into()));
        assert_eq!(picked(&[], Some("web9"), false), Ok("web9".into()));
    }

    #[test]
    fn another_host_is_not_taken_for_this_one() {
        assert_eq!(
            picked(&PAIR, Some("web1"), false),
            Err("`web1` is not this machine (`node7.example.org`)".into())
        );
        assert_eq!(picked(&PAIR, Some("web1"), true), Ok("web1".into()));
        let unknown = "the configuration has no host `web3`; it has `web1`, `web2`";
        assert_eq!(picked(&PAIR, Some("web3"), true), Err(unknown.into()));
        let none = "this machine (`node7.example.org`) is none of the configured hosts: `web1`";
        assert_eq!(picked(&PAIR[..1], None, true), Err(none.into()));
    }
}
