//! The mains of a service over its hosts: who has which version, and the commands that make one version main everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::model::host_main::HostMain;
use crate::model::name::{HostName, ServiceName};
use crate::model::promote::PromotionId;
use crate::model::roll::RollId;
use crate::model::version::Version;
use crate::plan::promote::PromotionProgress;
use crate::plan::roll::progress::RollProgress;

/// The hosts that have one main.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MainGroup {
    pub version: Option<Version>,
    pub hosts: Vec<HostName>,
}

/// An operation that gives hosts different mains on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceCause {
    /// A rolling assign that is not finished.
    Roll(RollId),
    Promotion(PromotionId),
    /// `canary --via haproxy` shares requests between the hosts by weight.
    Weights,
}

impl fmt::Display for DifferenceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roll(roll) => write!(f, "roll {roll} is not finished"),
            Self::Promotion(promotion) => write!(f, "promotion {promotion} is not finished"),
            Self::Weights => f.write_str("weights of a canary share the requests between them"),
        }
    }
}

/// Hosts with different mains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MainsDifference {
    pub service: ServiceName,
    /// The largest group first.
    pub groups: Vec<MainGroup>,
    /// Absent where no known operation explains it.
    pub cause: Option<DifferenceCause>,
}

/// The weights of main's server lines on one balancer.
pub type MainWeights = Vec<(HostName, u32)>;

/// Finds the operation that explains different mains: a rolling assign or a promotion that is not finished, or weights that are the
/// same for the hosts with one main and differ between mains.
pub fn find_cause(
    mains: &[HostMain],
    roll: Option<&RollProgress>,
    promotion: Option<&PromotionProgress>,
    weights: &[MainWeights],
) -> Option<DifferenceCause> {
    let is_open = |roll: &&RollProgress| !roll.is_finished() && roll.spec.work.new_main().is_some();
    if let Some(roll) = roll.filter(is_open) {
        return Some(DifferenceCause::Roll(roll.roll.clone()));
    }
    if let Some(promotion) = promotion.filter(|promotion| !promotion.is_finished()) {
        return Some(DifferenceCause::Promotion(promotion.promotion.clone()));
    }
    let groups = group_mains(mains);
    weights.iter().any(|weights| are_shares(&groups, weights)).then_some(DifferenceCause::Weights)
}

fn are_shares(groups: &[MainGroup], weights: &MainWeights) -> bool {
    let mut of_groups = BTreeSet::new();
    for group in groups {
        let of_group: BTreeSet<u32> = weights
            .iter()
            .filter(|(host, _)| group.hosts.contains(host))
            .map(|(_, weight)| *weight)
            .collect();
        if of_group.len() != 1 {
            return false;
        }
        of_groups.extend(of_group);
    }
    of_groups.len() == groups.len()
}

/// Returns the difference, where hosts have more than one main.
pub fn find_difference(
    service: &ServiceName,
    mains: &[HostMain],
    cause: Option<DifferenceCause>,
) -> Option<MainsDifference> {
    let groups = group_mains(mains);
    (groups.len() > 1).then(|| MainsDifference { service: service.clone(), groups, cause })
}

fn group_mains(mains: &[HostMain]) -> Vec<MainGroup> {
    let mut by_version: BTreeMap<Option<String>, MainGroup> = BTreeMap::new();
    for HostMain { host, version } in mains {
        let key = version.as_ref().map(ToString::to_string);
        let group =
            by_version.entry(key).or_insert_with(|| MainGroup { version: version.clone(), hosts: vec![] });
        group.hosts.push(host.clone());
    }
    let mut groups: Vec<MainGroup> = by_version.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.hosts.len()));
    groups
}

impl fmt::Display for MainsDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hosts have different mains: ")?;
        for (at, MainGroup { version, hosts }) in self.groups.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            let names = hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ");
            match version {
                Some(version) => write!(f, "{separator}{version} on {names}")?,
                None => write!(f, "{separator}no deployment on {names}")?,
            }
        }
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
    }
}

/// More hosts than this are not named in a command: it is given for all.
const MAX_NAMED_HOSTS: usize = 4;

impl MainsDifference {
    /// Returns the next command, for one version or the other.
    pub fn describe_next(&self) -> String {
        let service = &self.service;
        match &self.cause {
            Some(DifferenceCause::Roll(_)) => format!(
                "`switchman roll --service {service} --resume` continues it, `switchman roll --service {service} --abort` ends it"
            ),
            Some(DifferenceCause::Promotion(_)) => {
                format!("`switchman promote {service} --status` shows its progress")
            }
            Some(DifferenceCause::Weights) | None => {
                let commands: Vec<String> =
                    self.groups.iter().filter_map(|group| self.describe_command(group)).collect();
                // A host with another main may lack the version.
                let are_deployed = self.groups.iter().filter(|group| group.version.is_some()).count() > 1;
                let note = if are_deployed {
                    "; `switchman ls --wide` shows which hosts have a version, `switchman deploy` adds it to the others first"
                } else {
                    ""
                };
                format!("{}{note}", commands.join(", "))
            }
        }
    }

    fn describe_command(&self, group: &MainGroup) -> Option<String> {
        let (service, version) = (&self.service, group.version.as_ref()?);
        let others: Vec<&HostName> =
            self.groups.iter().filter(|other| *other != group).flat_map(|other| &other.hosts).collect();
        let flags: String = if others.len() > MAX_NAMED_HOSTS {
            String::new()
        } else {
            others.iter().map(|host| format!(" --host {host}")).collect()
        };
        let assign =
            format!("`switchman assign {service} {version}{flags}` makes {version} main on every host");
        // A host that has no deployment cannot have the version.
        let without = |other: &&&HostName| {
            let empty = self.groups.iter().filter(|group| group.version.is_none());
            empty.flat_map(|group| &group.hosts).any(|host| host == **other)
        };
        let empty: String = others.iter().filter(without).map(|host| format!(" --host {host}")).collect();
        Some(if empty.is_empty() {
            assign
        } else {
            format!("`switchman deploy {service} {version} SOURCE{empty}`, then {assign}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_mains(mains: &[(&str, &str)]) -> Vec<HostMain> {
        let main = |(host, version): &(&str, &str)| HostMain {
            host: host.parse().unwrap(),
            version: (!version.is_empty()).then(|| version.parse().unwrap()),
        };
        mains.iter().map(main).collect()
    }

    fn find(mains: &[(&str, &str)], cause: Option<DifferenceCause>) -> Option<(String, String)> {
        let found = find_difference(&"shop".parse().unwrap(), &make_mains(mains), cause)?;
        Some((found.to_string(), found.describe_next()))
    }

    #[test]
    fn difference_names_hosts_and_the_command_for_each_version() {
        assert_eq!(find(&[("web1", "1.0.0"), ("web2", "1.0.0")], None), None);
        assert_eq!(find(&[], None), None);
        let (text, next) = find(&[("web1", "2.0.0"), ("web2", "1.0.0"), ("web3", "1.0.0")], None).unwrap();
        assert_eq!(text, "hosts have different mains: 1.0.0 on web2, web3; 2.0.0 on web1");
        assert_eq!(
            next,
            "`switchman assign shop 1.0.0 --host web1` makes 1.0.0 main on every host, `switchman assign shop 2.0.0 --host web2 \
             --host web3` makes 2.0.0 main on every host; `switchman ls --wide` shows which hosts have a version, `switchman \
             deploy` adds it to the others first"
        );
        // No version can be assigned that is no version.
        let (text, next) = find(&[("web1", "1.0.0"), ("web2", "")], None).unwrap();
        assert!(text.contains("no deployment on web2"), "{text}");
        assert_eq!(
            next,
            "`switchman deploy shop 1.0.0 SOURCE --host web2`, then `switchman assign shop 1.0.0 --host web2` makes 1.0.0 main on \
             every host"
        );
    }

    #[test]
    fn weights_explain_different_mains_where_each_main_has_one() {
        let mains = make_mains(&[("web1", "2.0.0"), ("web2", "1.0.0"), ("web3", "1.0.0")]);
        let cause = |weights: &[(&str, u32)]| {
            let weights = weights.iter().map(|(host, weight)| (host.parse().unwrap(), *weight)).collect();
            find_cause(&mains, None, None, &[weights])
        };
        assert_eq!(cause(&[("web1", 11), ("web2", 100), ("web3", 100)]), Some(DifferenceCause::Weights));
        assert_eq!(cause(&[("web1", 100), ("web2", 100), ("web3", 100)]), None);
        assert_eq!(cause(&[("web1", 50), ("web2", 100), ("web3", 50)]), None, "machines of two sizes");
        assert_eq!(cause(&[("web1", 50)]), None);
    }

    #[test]
    fn difference_names_the_operation_that_explains_it() {
        let roll = RollId::new(jiff::Timestamp::UNIX_EPOCH, 1);
        let mains = [("web1", "2.0.0"), ("web2", "1.0.0")];
        let (text, next) = find(&mains, Some(DifferenceCause::Roll(roll.clone()))).unwrap();
        assert!(text.ends_with(&format!("(roll {roll} is not finished)")), "{text}");
        assert!(next.starts_with("`switchman roll --service shop --resume` continues it"), "{next}");
    }
}
