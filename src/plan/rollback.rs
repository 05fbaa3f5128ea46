//! A rollback of a service over its hosts: every host ends with one version, or none is touched.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::name::HostName;
use crate::model::version::Version;

/// The effect of a rollback of one host alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRollback {
    pub host: HostName,
    /// Main now; `None`: not known, or there is none.
    pub main: Option<Version>,
    /// The last good main before it; `None`: the host refuses, because it has none or because that version is not healthy.
    pub target: Option<Version>,
}

impl fmt::Display for HostRollback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, main, target } = self;
        match (main, target) {
            (Some(main), Some(target)) => write!(f, "`{host}` has main {main} and would go back to {target}"),
            (Some(main), None) => write!(f, "`{host}` has main {main} and no version to go back to"),
            (None, Some(target)) => write!(f, "`{host}` would go back to {target}"),
            (None, None) => write!(f, "`{host}` has no main"),
        }
    }
}

/// The version that is main on every host after a rollback, and the hosts where it is not main now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetRollback {
    pub version: Version,
    pub going: Vec<HostName>,
}

/// Chooses the one version that hosts go back to or have already, as after an assign that was interrupted. `None`: there is no
/// such version, or more than one.
pub fn choose_rollback(hosts: &[HostRollback]) -> Option<FleetRollback> {
    let targets: BTreeSet<String> =
        hosts.iter().filter_map(|host| host.target.as_ref()).map(ToString::to_string).collect();
    let mut found = hosts.iter().filter_map(|host| host.target.as_ref()).filter(|version| {
        hosts
            .iter()
            .all(|host| host.target.as_ref() == Some(*version) || host.main.as_ref() == Some(*version))
    });
    let version = found.next()?.clone();
    // Hosts that have each other's versions could go either way.
    if targets.len() > 1 && found.any(|other| *other != version) {
        return None;
    }
    let is_going = |host: &&HostRollback| host.main.as_ref() != Some(&version);
    let going = hosts.iter().filter(is_going).map(|host| host.host.clone()).collect();
    Some(FleetRollback { version, going })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(hosts: &[(&str, &str)]) -> Option<(String, Vec<String>)> {
        let version = |text: &str| (!text.is_empty()).then(|| format!("{text}.0.0").parse().unwrap());
        let turn = |(number, (main, target)): (usize, &(&str, &str))| HostRollback {
            host: format!("web{}", number + 1).parse().unwrap(),
            main: version(main),
            target: version(target),
        };
        let hosts: Vec<HostRollback> = hosts.iter().enumerate().map(turn).collect();
        let chosen = choose_rollback(&hosts)?;
        Some((chosen.version.to_string(), chosen.going.iter().map(ToString::to_string).collect()))
    }

    fn to(version: &str, hosts: &[&str]) -> Option<(String, Vec<String>)> {
        Some((format!("{version}.0.0"), hosts.iter().map(|host| (*host).to_owned()).collect()))
    }

    #[test]
    fn equal_hosts_go_back_together() {
        assert_eq!(choose(&[("2", "1"), ("2", "1")]), to("1", &["web1", "web2"]));
    }

    #[test]
    fn hosts_of_an_interrupted_assign_go_to_the_version_that_the_others_have() {
        assert_eq!(choose(&[("2", "1"), ("1", "0"), ("1", "0")]), to("1", &["web1"]));
        // The others have nothing to go back to.
        assert_eq!(choose(&[("2", "1"), ("1", "")]), to("1", &["web1"]));
    }

    #[test]
    fn hosts_that_would_differ_are_refused() {
        assert_eq!(choose(&[("2", "1"), ("2", "0")]), None);
        assert_eq!(choose(&[("2", "1"), ("1", "2")]), None, "either version would do");
        assert_eq!(choose(&[("2", "1"), ("3", "")]), None);
        assert_eq!(choose(&[("1", ""), ("1", "")]), None);
        assert_eq!(choose(&[]), None);
    }
}
