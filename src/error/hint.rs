//! The next action for every kind of error, printed after `next:`.

use crate::config::ConfigError;
use crate::lab::LabError;
use crate::model::failure::ErrorCode;
use crate::model::name::ServiceName;
use crate::model::port_forward::Switch;
use crate::ops::fleet::balancer_wait::BalancerWaitError;
use crate::ops::fleet::discovery::DiscoveryError;
use crate::ops::fleet::drain::DrainError;
use crate::ops::fleet::forward::SwitchError;
use crate::plan::discovery::HostListError;
use crate::plan::host_selection::SelectionError;
use crate::plan::switch::Refusal;
use crate::world::discovery::HostSourceError;
use crate::world::link::LinkError;

pub mod deployments;
pub mod fleet;
pub mod host;
pub mod init;

pub(super) const fn config_hint(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::NotFound => "write one with `switchman init`, or name it with `--config FILE`",
        ConfigError::ReadFailed { .. } => {
            "check the path and who may read it; `switchman init` writes a new configuration"
        }
        ConfigError::Untrusted { .. } => {
            "give it to root with `chown` and `chmod go-w`, or read what it runs and give `--trust-config`"
        }
        ConfigError::Invalid { .. } => "`switchman schema` prints the shape of the file for your editor",
    }
}

pub(super) fn discovery_hint(error: &DiscoveryError) -> &'static str {
    match error {
        DiscoveryError::Unreadable { error: HostSourceError::Refused { .. }, .. } => {
            "correct the source under `hosts:`; nothing was changed"
        }
        DiscoveryError::Unreadable { .. } => {
            "start it or correct its address under `hosts:`; on the host itself, `--local --host NAME` needs no source"
        }
        DiscoveryError::Unusable { error: HostListError::Empty, .. } => {
            "check that the hosts are registered there, and the names under `hosts:`; a fleet is never taken for empty"
        }
        DiscoveryError::Unusable { .. } => {
            "correct the registrations at the source; a host that is written under `hosts:` goes before them"
        }
    }
}

pub(super) const fn selection_hint(error: &SelectionError) -> &'static str {
    match error {
        SelectionError::Unknown { .. } => {
            "name one of its hosts with `--host NAME`, or add it under `hosts:`"
        }
        SelectionError::NotAHost { .. } => {
            "name one with `--host NAME`, or all with `--all`; `--local --host NAME` if this machine is that host"
        }
        SelectionError::BadName { .. } => "name it with `--host NAME`",
    }
}

/// Names the nearest service, if it is near enough to be the intended one.
pub(super) fn service_hint(requested: &ServiceName, known: &[ServiceName]) -> String {
    let likeness = |name: &ServiceName| strsim::jaro_winkler(requested.as_str(), name.as_str());
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|name| likeness(name) > 0.75) {
        Some(name) => format!(
            "name the service `{name}`, or add `{requested}` under `services:` with three ports of its own"
        ),
        None => format!(
            "name one of the configuration ({}), or add `{requested}` under `services:` with three ports of its own",
            super::message::join_services(known)
        ),
    }
}

pub(super) fn lab_hint(error: &LabError) -> String {
    let text = match error {
        LabError::NoPrivilege { .. } => "run it as root: `sudo switchman lab ...`",
        LabError::Exec(_) => {
            "the lab needs iproute2, iptables, haproxy and nginx: `make setup` installs them"
        }
        LabError::Up { name } => {
            return format!(
                "remove it with `switchman lab down --name {name}`, or take another name: `switchman lab up --name {name}2`"
            );
        }
        LabError::InUse { name } => {
            return format!("wait for it, or take another name: `switchman lab up --name {name}2`");
        }
        LabError::Unknown { known, .. } => match known.first() {
            Some(first) => return format!("`switchman lab down --name {first}` removes that one"),
            None => "nothing is left to remove; `switchman lab up` builds a lab",
        },
        LabError::Process(_)
        | LabError::Command { .. }
        | LabError::Files { .. }
        | LabError::Template(_)
        | LabError::TimedOut { .. }
        | LabError::Load { .. }
        | LabError::Interrupted => "`switchman lab down` removes what is left; then run it again",
    };
    text.to_owned()
}

pub(super) fn switch_hint(error: &SwitchError) -> String {
    match error {
        SwitchError::Refused { refusals, .. } => refusal_hint(refusals).into(),
        SwitchError::NotChanged { host, switch, source: LinkError::Refused { code: ErrorCode::Owned, .. } } => {
            let command = format!("{}-forward --host {host} --force --reason TEXT", switch_verb(*switch));
            format!(
                "nothing was changed; `switchman status --host {host}` shows more; `switchman {command}` takes the host over, and \
                 both histories record it"
            )
        }
        SwitchError::NotChanged { source, .. } => host::link_hint(source),
        SwitchError::Contradicted { host, switch: Switch::On, .. } => format!(
            "the forward stays on: remove the cause, then run the command again, or take the host out with `switchman disable-forward \
             --host {host}`; `switchman check` lists the rules of other programs"
        ),
        SwitchError::Contradicted { host, switch: Switch::Off, .. } => format!(
            "the forward stays off, and HAProxy may keep the host UP: remove the cause, then run the command again, or go back with \
             `switchman enable-forward --host {host}`; `switchman check` lists the rules of other programs"
        ),
        SwitchError::NotObserved { host, source: BalancerWaitError::TimedOut { .. }, switch: Switch::Off } => {
            format!(
                "the host still answers, so nothing is lost; `switchman check --haproxy-cfg FILE` looks for the reason, \
                 `switchman enable-forward --host {host}` puts the host back into service"
            )
        }
        SwitchError::NotObserved { source: BalancerWaitError::TimedOut { .. }, switch: Switch::On, .. } => {
            "its users stay on its backup vhost; `switchman check --haproxy-cfg FILE` looks for the reason (MAINT was set \
             on HAProxy's side: `set server BACKEND/SERVER state ready`)"
                .into()
        }
        SwitchError::NotDrained { source: DrainError::TimedOut { .. }, is_restored: true, .. } => {
            "`switchman status --watch` shows what is in flight; raise `roll.drain_timeout`, or add `--force` to leave \
             the host in maintenance with these requests still running"
                .into()
        }
        SwitchError::NotDrained { host, is_restored: false, .. }
        | SwitchError::NotObserved {
            host,
            switch: Switch::Off,
            source: BalancerWaitError::Interrupted { .. },
        } => format!(
            "`switchman status --host {host}` shows its state; `switchman enable-forward --host {host}` puts the host back"
        ),
        SwitchError::NotObserved { host, .. } | SwitchError::NotDrained { host, .. } => {
            format!("`switchman status --host {host}` shows its state")
        }
    }
}

fn refusal_hint(refusals: &[Refusal]) -> &'static str {
    // All hosts at once break the capacity floor too: to bring others back is no way out then.
    let all = refusals.iter().find(|refusal| matches!(refusal, Refusal::AllHosts { .. }));
    match all.or(refusals.first()) {
        Some(Refusal::BalancerUnreadable { .. }) => {
            "`switchman check` shows details; `--force` switches without knowing that balancer's state"
        }
        Some(Refusal::NoServer { .. }) => {
            "name the server lines as in haproxy.cfg with `load_balancers[].servers`, or the host with `--host`"
        }
        Some(Refusal::OtherLine { .. }) => {
            "add `check port PORT` to that line, or `track BACKEND/SERVER` with the main line; `--force` switches all the same"
        }
        Some(Refusal::OtherPort { .. }) => fleet::OTHER_PORT_HINT,
        Some(Refusal::OtherAddress { .. }) => fleet::OTHER_ADDRESS_HINT,
        Some(Refusal::Private { .. }) => fleet::PRIVATE_HINT,
        Some(Refusal::BackupNotUp { .. }) => {
            "start the backup vhost first; `--force` switches all the same, and this host's users go elsewhere"
        }
        Some(Refusal::CapacityFloor { .. }) => {
            "bring the others back first, or lower `roll.min_up`; `--force` switches all the same"
        }
        Some(Refusal::CapacityFloorByConfig { .. }) => {
            "take fewer hosts at once, or lower `roll.min_up`; `--force` switches all the same"
        }
        Some(Refusal::AllHosts { .. }) => {
            "take some out with `switchman disable-forward --host NAME`, or do the work host by host with `switchman roll -- CMD`; \
             `--force` switches all the same, and `switchman enable-forward --all` brings them back"
        }
        Some(Refusal::Unhealthy { .. }) | None => {
            "repair the main vhost first; `--force` switches all the same, and HAProxy's own check decides"
        }
    }
}

const fn switch_verb(switch: Switch) -> &'static str {
    match switch {
        Switch::On => "enable",
        Switch::Off => "disable",
    }
}
