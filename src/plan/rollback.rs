//! A rollback of a service over its hosts: every host ends with one version, or none is touched.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::host_main::HostMain;
use crate::model::name::{HostName, ServiceName};
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

/// The hosts that an assign has changed, by the version that was main before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssignRecovery {
    pub returns: Vec<(Version, Vec<HostName>)>,
}

impl AssignRecovery {
    /// Groups the hosts whose main is the target now and was another version before.
    pub fn new(before: &[HostMain], after: &[HostMain], target: &Version) -> Self {
        let mut returns: Vec<(Version, Vec<HostName>)> = Vec::new();
        for HostMain { host, version } in before {
            let has_target = |now: &HostMain| now.host == *host && now.version.as_ref() == Some(target);
            let Some(old) = version.as_ref().filter(|old| *old != target) else { continue };
            if !after.iter().any(has_target) {
                continue;
            }
            match returns.iter_mut().find(|(version, _)| version == old) {
                Some((_, hosts)) => hosts.push(host.clone()),
                None => returns.push((old.clone(), vec![host.clone()])),
            }
        }
        Self { returns }
    }

    /// Returns the next commands after an assign that is not finished. `rollback` is none of them: it moves a fleet where no host
    /// was changed to an older version, and refuses where the target was main before.
    pub fn describe_next(&self, service: &ServiceName) -> String {
        let roll = format!("switchman roll --service {service}");
        let resume = format!("`{roll} --resume` continues it");
        if self.returns.is_empty() {
            return format!("{resume}, `{roll} --abort` ends it; no host has the new main");
        }
        let commands: Vec<String> = self
            .returns
            .iter()
            .map(|(version, hosts)| {
                let flags: String = hosts.iter().map(|host| format!(" --host {host}")).collect();
                format!("`switchman assign {service} {version}{flags}`")
            })
            .collect();
        format!("{resume}; to go back: `{roll} --abort`, then {}", commands.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_mains(mains: &[&str]) -> Vec<HostMain> {
        let main = |(number, version): (usize, &&str)| HostMain {
            host: format!("web{}", number + 1).parse().unwrap(),
            version: (!version.is_empty()).then(|| version.parse().unwrap()),
        };
        mains.iter().enumerate().map(main).collect()
    }

    fn describe_next(before: &[&str], after: &[&str]) -> String {
        let target = "2.0.0".parse().unwrap();
        AssignRecovery::new(&list_mains(before), &list_mains(after), &target)
            .describe_next(&"shop".parse().unwrap())
    }

    /// `rollback` would move every host to an older version.
    #[test]
    fn recovery_of_an_assign_that_changed_no_host_is_resume_or_abort() {
        assert_eq!(
            describe_next(&["1.0.0", "1.0.0"], &["1.0.0", "1.0.0"]),
            "`switchman roll --service shop --resume` continues it, `switchman roll --service shop --abort` ends it; no host has the \
             new main"
        );
        assert!(!describe_next(&["2.0.0", "1.0.0"], &["2.0.0", "1.0.0"]).contains("assign"));
    }

    #[test]
    fn recovery_names_the_old_main_of_each_changed_host() {
        assert_eq!(
            describe_next(&["1.0.0", "1.0.0", "0.9.0", "1.0.0"], &["2.0.0", "2.0.0", "2.0.0", "1.0.0"]),
            "`switchman roll --service shop --resume` continues it; to go back: `switchman roll --service shop --abort`, then \
             `switchman assign shop 1.0.0 --host web1 --host web2`, `switchman assign shop 0.9.0 --host web3`"
        );
    }

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
