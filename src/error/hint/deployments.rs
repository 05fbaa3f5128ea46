//! The next action for errors of commands about versions.

use super::fleet::{lock_hint, roll_hint};
use super::host::link_hint;
use crate::ops::fleet::deployments::FleetDeployError;
use crate::ops::fleet::roll::RollError;
use crate::plan::compare::ComparisonVerdict;
use crate::plan::roll::PlanError;
use crate::plan::versions::ReleaseDifference;
use crate::plan::weights::WeightsError;
use crate::world::archives::ArchiveError;
use crate::world::balancer::BalancerError;

pub const ANSWERS_DIFFER_HINT: &str = "`switchman mirror NAME VERSION --control P` finds what main answers differently by \
                                              itself; leave out what is meant to differ with `--ignore FIELD`";
pub const INSUFFICIENT_SAMPLES_HINT: &str =
    "`switchman mirror NAME VERSION` sends it copies, and each answer is compared";

pub fn deployments_hint(error: &FleetDeployError) -> String {
    let text = match error {
        FleetDeployError::Partial { .. } => {
            "the hosts that are done were changed: `switchman ls --wide` shows every host; remove the cause on the others, then run the \
             command again"
        }
        FleetDeployError::Hosts(failed)
        | FleetDeployError::Unread { hosts: failed, .. }
        | FleetDeployError::PartlyRead { unread: failed, .. } => match failed.first() {
            Some((_, error)) => return link_hint(error),
            None => "`switchman ls --wide` shows every host",
        },
        FleetDeployError::Owned { hosts } => {
            let host = hosts.first().map(|(host, _)| host.to_string()).unwrap_or_default();
            return format!(
                "no host was changed; `switchman status` shows every owner; `switchman disable-forward --host {host} --force --reason \
                 TEXT` takes a host over"
            );
        }
        FleetDeployError::Lock(error) => return lock_hint(error),
        FleetDeployError::Roll(RollError::Plan(PlanError::CapacityFloor { .. })) => {
            "take a smaller `--batch`, or lower `roll.min_up`; `--strategy flip` takes no host out"
        }
        FleetDeployError::Roll(error) => return roll_hint(error),
        FleetDeployError::RollIncomplete { finished: false, service, recovery, .. } => {
            return recovery.describe_next(service);
        }
        FleetDeployError::NoVersion { service, version } => {
            return format!(
                "`switchman ls {service}` lists its versions, `switchman deploy {service} {version} SOURCE` adds this one"
            );
        }
        FleetDeployError::NoMain(service) => {
            return format!(
                "`switchman deploy {service} VERSION SOURCE` adds its first version, which is main; `switchman ls {service}` lists \
                 its versions if it has some, `switchman assign {service} VERSION` makes one main"
            );
        }
        FleetDeployError::NoMatch => "`switchman ls --wide` lists the names, versions and ids",
        FleetDeployError::MatchNotProven { verdict: ComparisonVerdict::Insufficient, .. } => {
            INSUFFICIENT_SAMPLES_HINT
        }
        FleetDeployError::MatchNotProven { .. }
        | FleetDeployError::RolledBack { .. }
        | FleetDeployError::SecondMain { .. }
        | FleetDeployError::RollbackSplit { .. } => return version_hint(error),
        FleetDeployError::WeightNotSet { source, .. } => {
            return format!("{}; weights that were set before stay, `--off` sets 100", weight_hint(source));
        }
        FleetDeployError::RollIncomplete { .. } | FleetDeployError::Overtaken { .. } => {
            "`switchman ls --wide` shows every host"
        }
        FleetDeployError::MissingOnHosts { service, version, hosts } => {
            let flags: String = hosts.iter().map(|host| format!(" --host {host}")).collect();
            return format!(
                "`switchman deploy {service} {version} SOURCE{flags}` adds it there; or name the hosts that have it with \
                 `--host`"
            );
        }
        FleetDeployError::MainWithShadows { service, .. } => {
            return format!(
                "nothing was changed; `switchman kill {service}` kills all its versions, `switchman assign {service} VERSION` makes \
                 another one main first"
            );
        }
        FleetDeployError::OtherRelease { .. }
        | FleetDeployError::SplitVersion { .. }
        | FleetDeployError::AlteredReleases { .. }
        | FleetDeployError::CannotMerge { .. } => return identity_hint(error),
        FleetDeployError::Archive(error) => archive_hint(error),
        FleetDeployError::NoBalancer => "add `haproxy:` to an entry of `load_balancers` in switchman.yaml",
        FleetDeployError::NoWeights(error) => share_hint(error),
        FleetDeployError::WeightsNotAllowed(_) => {
            "add an admin socket that no network reaches: `stats socket /run/haproxy/switchman.sock user USER mode 600 level \
             admin` in haproxy.cfg, and `haproxy: ssh://USER@HOST/run/haproxy/switchman.sock` in switchman.yaml; or share by \
             request without `--via haproxy`"
        }
        FleetDeployError::Interrupted => "nothing was changed; run the command again",
        FleetDeployError::TaskFailed(_) => "run the command again; `-vv` logs every step",
    };
    text.to_owned()
}

/// The next action where no weights come to the share.
const fn share_hint(error: &WeightsError) -> &'static str {
    match error {
        WeightsError::NoCanary | WeightsError::NoMain => {
            "`switchman assign NAME VERSION --host HOST` makes a version main on some hosts only"
        }
        WeightsError::TooFine { .. } => {
            "give a larger share, make it main on fewer hosts, or share by request without `--via haproxy`"
        }
    }
}

/// The next action where a version was not good enough.
fn version_hint(error: &FleetDeployError) -> String {
    match error {
        FleetDeployError::MatchNotProven { service, version, .. } => {
            format!("`switchman compare {service} {version}` shows what differs")
        }
        FleetDeployError::RolledBack { service, version, .. } => {
            format!("`switchman logs {service} {version}` shows what it wrote")
        }
        FleetDeployError::SecondMain { service, version, hosts, main, .. } => {
            let flags: String = hosts.iter().map(|host| format!(" --host {host}")).collect();
            format!(
                "nothing was changed; place its main there first: `switchman deploy {service} {main} SOURCE{flags}`, then deploy \
                 {version}; `--assign` makes {version} main on the hosts of this command"
            )
        }
        FleetDeployError::RollbackSplit { service, .. } => format!(
            "nothing was changed; `switchman assign {service} VERSION` makes one version main on every host, `switchman rollback \
             {service} --host HOST` goes back on one"
        ),
        _ => String::new(),
    }
}

/// The next action where a version is not the same deployment on every host.
fn identity_hint(error: &FleetDeployError) -> String {
    match error {
        FleetDeployError::OtherRelease { difference: ReleaseDifference::HealthCheck(_), .. } => {
            "nothing was changed; omit `--health`: a deployment has one health check on all hosts; or deploy it as another version"
                .to_owned()
        }
        FleetDeployError::OtherRelease { service, version, .. } => format!(
            "`switchman update {service} {version} SOURCE` replaces its code in place; or deploy it as another version"
        ),
        FleetDeployError::SplitVersion { service, version, .. } => {
            format!("`switchman merge {service} {version}` makes them one deployment; nothing is restarted")
        }
        FleetDeployError::CannotMerge {
            service, version, difference: ReleaseDifference::HealthCheck(_), host, ..
        } => format!(
            "nothing was changed; `switchman kill {service} {version} --host {host}`, then `switchman deploy {service} {version} SOURCE \
             --host {host}` joins the deployment with its health check"
        ),
        FleetDeployError::AlteredReleases { .. } => {
            "find out who changed them; `switchman update NAME VERSION SOURCE` replaces a version's code by a new release"
                .to_owned()
        }
        _ => "`switchman update ID SOURCE` gives both hosts the same release; `switchman ls --wide` shows the ids"
            .to_owned(),
    }
}

const fn archive_hint(error: &ArchiveError) -> &'static str {
    match error {
        ArchiveError::Missing { .. } | ArchiveError::UnsupportedFormat { .. } => {
            "give a directory, a .tar.gz file or an address that starts with http://"
        }
        ArchiveError::Refused { .. } => "nothing was changed; remove it from the source, then deploy again",
        ArchiveError::Full { .. } => "nothing was changed; free some space, then deploy again",
        ArchiveError::Failed { .. } => "nothing was changed; check who may read the source",
    }
}

const fn weight_hint(error: &BalancerError) -> &'static str {
    match error {
        BalancerError::Unreachable { .. } => {
            "start HAProxy, or correct its `haproxy:` address in switchman.yaml, then run the command again"
        }
        BalancerError::TimedOut { .. } | BalancerError::Truncated { .. } => {
            "run the command again: it sets every weight"
        }
        BalancerError::Malformed { .. } | BalancerError::Refused { .. } | BalancerError::MasterCli { .. } => {
            "correct `haproxy:` in switchman.yaml: it has to name a stats socket of HAProxy, of level `admin`"
        }
        BalancerError::NotUpAfterFlush { .. } => {
            "its health checks decide when it is UP: `switchman status` shows it; `init-state` of that line makes it start DOWN"
        }
        BalancerError::NoBackend { .. } => {
            "name the backend as in haproxy.cfg with `load_balancers[].backend` in switchman.yaml"
        }
        BalancerError::NoServer { .. } => {
            "name the server lines as in haproxy.cfg with `load_balancers[].servers` in switchman.yaml"
        }
    }
}
