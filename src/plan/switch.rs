//! When a switch is refused, how long it may take to be seen, and when it has been seen.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::model::address_conflict::AddressConflict;
use crate::model::balancer::{BackendView, BalancerSpec, CheckTiming, ServerView};
use crate::model::fleet::Fleet;
use crate::model::name::{BalancerName, HostName, ServiceName};
use crate::model::plural::Count;
use crate::model::port_conflict::PortConflict;
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::plan::host_servers::{HostServer, find_backup, find_main};

/// A reason not to switch. `--force` overrides any of them, and the report lists those it overrode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Refusal {
    /// The balancer cannot be read, so nothing is known of it.
    BalancerUnreadable {
        balancer: BalancerName,
        #[serde(rename = "why")]
        cause: String,
    },
    /// The backend has no server with the address of the host, and none with the configured name.
    NoServer {
        balancer: BalancerName,
        server: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<SocketAddr>,
    },
    /// Users of the host would have nowhere to go.
    BackupNotUp { balancer: BalancerName, server: String, status: String },
    /// Another backend sends its users to the main vhost, whether its forward is on or off.
    OtherLine { balancer: BalancerName, line: String, check: Port },
    /// The operator machine has another port than the host or the balancer.
    OtherPort { conflict: PortConflict },
    /// A server line of the host has the address of another machine.
    OtherAddress { conflict: AddressConflict },
    /// The service is private on the host: no rule forwards to it there.
    Private { host: HostName, service: ServiceName },
    /// Too few other hosts would be left.
    CapacityFloor { balancer: BalancerName, up: u32, min_up: u32 },
    /// Too few other hosts would be left by the configuration; no balancer reports how many of them are UP.
    CapacityFloorByConfig { left: u32, min_up: u32 },
    /// Every main vhost of the fleet at once.
    AllHosts { hosts: usize },
    /// The real port does not answer its health check.
    Unhealthy {
        #[serde(rename = "why")]
        cause: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BalancerUnreadable { balancer, cause } => write!(f, "`{balancer}` cannot be read: {cause}"),
            Self::NoServer { balancer, server, address } => {
                write!(f, "`{balancer}` has no server `{server}` in this backend")?;
                match address {
                    Some(address) => write!(f, ", and none with the address `{address}`"),
                    None => Ok(()),
                }
            }
            Self::BackupNotUp { balancer, server, status } => {
                write!(f, "the backup vhost is not UP: `{balancer}` reports `{server}` as {status}")
            }
            Self::OtherLine { balancer, line, check } => write!(
                f,
                "`{balancer}` sends users to the main vhost by the server line `{line}` too, which does not health-check port {check}: they would get errors"
            ),
            Self::OtherPort { conflict } => conflict.fmt(f),
            Self::OtherAddress { conflict } => conflict.fmt(f),
            Self::Private { host, service } => write!(
                f,
                "`{service}` is private on `{host}`: no port is forwarded before `switchman access {service} public --host {host}`"
            ),
            Self::CapacityFloor { balancer, up, min_up } => write!(
                f,
                "the capacity floor would break: `{balancer}` has {} UP, `roll.min_up` requires {min_up}",
                Count(up, "other main vhost")
            ),
            Self::CapacityFloorByConfig { left, min_up } => write!(
                f,
                "the capacity floor would break: {} would be left, `roll.min_up` requires {min_up}",
                Count(left, "other host")
            ),
            Self::AllHosts { hosts } => {
                write!(f, "these {hosts} hosts are all there are: every user would be on a backup vhost")
            }
            Self::Unhealthy { cause } => write!(f, "the main vhost is not healthy: {cause}"),
        }
    }
}

/// The state that one balancer reported, or the reason why it could not be read.
pub type BalancerReading<'a> = (&'a BalancerSpec, Result<&'a BackendView, &'a str>);

/// Why these hosts may not be taken out together now; empty when they may. Balancers that are not read by configuration
/// are not among the readings. Without any reading, the floor is counted by the configuration.
pub fn find_disable_refusals(
    fleet: &Fleet,
    hosts: &[&HostName],
    readings: &[BalancerReading<'_>],
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (spec, reading) in readings {
        let balancer = spec.name.clone();
        let view = match reading {
            Ok(view) => view,
            Err(error) => {
                refusals.push(Refusal::BalancerUnreadable { balancer, cause: (*error).to_owned() });
                continue;
            }
        };
        let mains: BTreeSet<String> =
            hosts.iter().map(|host| find_main(fleet, spec, host, view).name).collect();
        for host in hosts {
            refusals.extend(find_balancer_refusals(fleet, spec, view, host));
        }
        let up = count_others_up(view, &mains);
        if up < fleet.limits.min_up {
            refusals.push(Refusal::CapacityFloor { balancer, up, min_up: fleet.limits.min_up });
        }
    }
    if readings.is_empty() && !fleet.hosts.is_empty() {
        let left = fleet.hosts.iter().filter(|host| !hosts.contains(&&host.name)).count();
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        if left < fleet.limits.min_up {
            refusals.push(Refusal::CapacityFloorByConfig { left, min_up: fleet.limits.min_up });
        }
    }
    refusals
}

/// The reasons of one balancer against taking out one host.
fn find_balancer_refusals(
    fleet: &Fleet,
    spec: &BalancerSpec,
    view: &BackendView,
    host: &HostName,
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let balancer = &spec.name;
    // The address is worth a word only where the balancer reports addresses.
    let has_addresses = view.servers().iter().any(|server| server.address.is_some());
    let no_server = |server: HostServer<'_>| Refusal::NoServer {
        balancer: balancer.clone(),
        server: server.name,
        address: server.endpoint.filter(|_| has_addresses),
    };
    let (main, backup) = (find_main(fleet, spec, host, view), find_backup(fleet, spec, host, view));
    if main.view.is_none() {
        refusals.push(no_server(main));
    }
    match backup.view {
        None => refusals.push(no_server(backup)),
        Some(server) if !server.state.is_up() => {
            let status = server.status.clone();
            let server = backup.label;
            refusals.push(Refusal::BackupNotUp { balancer: balancer.clone(), server, status });
        }
        Some(_) => {}
    }
    refusals
}

/// Main vhosts of other hosts that take traffic: every server of the backend that is neither a backup nor one of these, and
/// has a weight (set to 0 at run time, a server still reads UP and gets no new user; measured on 2.6,
/// docs/design/measurements.md#m35).
fn count_others_up(view: &BackendView, mains: &BTreeSet<String>) -> u32 {
    let takes_new_users = |server: &&ServerView| server.state.is_up() && server.weight > 0;
    let other =
        |server: &&ServerView| !server.backup && !mains.contains(&server.name) && takes_new_users(server);
    u32::try_from(view.servers().iter().filter(other).count()).unwrap_or(u32::MAX)
}

/// Whether a balancer has seen the switch: DOWN in any of its forms for off, UP without a failing check for on.
pub fn is_observed(switch: Switch, server: &ServerView) -> bool {
    match switch {
        Switch::Off => server.state.is_out_of_service(),
        Switch::On => server.state.is_up(),
    }
}

/// Returns the time after which every check of a balancer has seen the switch:
/// `(fall-1) x (fastinter or inter) + inter + timeout` for off, with `rise` for on (docs/design/measurements.md#m4). A limit
/// that is computed, not measured: no balancer is read.
pub fn compute_detection_time(check: &CheckTiming, switch: Switch) -> Duration {
    let count = match switch {
        Switch::Off => check.fall,
        Switch::On => check.rise,
    };
    let repeated = check.fastinter.unwrap_or(check.inter);
    repeated * count.saturating_sub(1) + check.inter + check.timeout.unwrap_or(check.inter)
}

/// How long a balancer that is read may take before the switch counts as not seen: twice the bound of its configured
/// timing, which may lag behind the real one, and five seconds.
pub fn compute_wait_timeout(check: &CheckTiming, switch: Switch) -> Duration {
    compute_detection_time(check, switch) * 2 + Duration::from_secs(5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balancer::ServerState;
    use crate::model::example;
    use crate::model::example::make_server;

    fn make_fleet(min_up: u32) -> Fleet {
        let mut fleet = example::fleet();
        fleet.limits.min_up = min_up;
        fleet
    }

    fn make_spec() -> BalancerSpec {
        example::balancer("lb1", None)
    }

    fn make_view(main2: ServerState, backup1: ServerState) -> BackendView {
        let servers = vec![
            make_server("main-web1", ServerState::Up),
            make_server("backup-web1", backup1),
            make_server("main-web2", main2),
            make_server("backup-web2", ServerState::Up),
        ];
        BackendView::new(servers)
    }

    fn list_refusals(min_up: u32, view: Result<&BackendView, &str>) -> Vec<String> {
        let spec = make_spec();
        let refusals =
            find_disable_refusals(&make_fleet(min_up), &[&"web1".parse().unwrap()], &[(&spec, view)]);
        refusals.iter().map(Refusal::to_string).collect()
    }

    #[test]
    fn healthy_pair_has_no_refusals() {
        assert_eq!(list_refusals(1, Ok(&make_view(ServerState::Up, ServerState::Up))), Vec::<String>::new());
        assert_eq!(
            list_refusals(0, Ok(&make_view(ServerState::Down, ServerState::Up))),
            Vec::<String>::new()
        );
    }

    #[test]
    fn refusals_name_balancer_and_server() {
        let floor =
            "the capacity floor would break: `lb1` has 0 other main vhosts UP, `roll.min_up` requires 1";
        let others = [
            ServerState::GoingDown,
            ServerState::Down,
            ServerState::GoingUp,
            ServerState::Maint,
            ServerState::Drain,
            ServerState::Unknown,
        ];
        for verdict in others {
            assert_eq!(list_refusals(1, Ok(&make_view(verdict, ServerState::Up))), [floor]);
        }
        let backup = "the backup vhost is not UP: `lb1` reports `backup-web1` as DOWN";
        assert_eq!(list_refusals(1, Ok(&make_view(ServerState::Up, ServerState::Down))), [backup]);
        assert_eq!(list_refusals(1, Err("no answer")), ["`lb1` cannot be read: no answer"]);
        let empty = BackendView::default();
        let none = |server| format!("`lb1` has no server `{server}` in this backend");
        assert_eq!(list_refusals(0, Ok(&empty)), [none("main-web1"), none("backup-web1")]);
    }

    #[test]
    fn capacity_floor_counts_the_whole_batch() {
        let spec = make_spec();
        let servers = ["main-web1", "backup-web1", "main-web2", "backup-web2", "main-web3"];
        let view = BackendView::new(servers.iter().map(|name| make_server(name, ServerState::Up)).collect());
        let (web1, web2) = ("web1".parse().unwrap(), "web2".parse().unwrap());
        let both =
            |min_up| find_disable_refusals(&make_fleet(min_up), &[&web1, &web2], &[(&spec, Ok(&view))]);
        assert_eq!(both(1), []);
        let lb1 = spec.name.clone();
        assert_eq!(both(2), [Refusal::CapacityFloor { balancer: lb1, up: 1, min_up: 2 }]);
    }

    #[test]
    fn capacity_floor_uses_configuration_without_readable_balancers() {
        let hosts = vec![example::host("web1", "10.0.0.1"), example::host("web2", "10.0.0.2")];
        let fleet = Fleet { hosts, ..make_fleet(1) };
        let (web1, web2) = ("web1".parse().unwrap(), "web2".parse().unwrap());
        assert_eq!(find_disable_refusals(&fleet, &[&web1], &[]), []);
        let all = find_disable_refusals(&fleet, &[&web1, &web2], &[]);
        assert_eq!(all, [Refusal::CapacityFloorByConfig { left: 0, min_up: 1 }]);
    }

    #[test]
    fn zero_weight_server_is_no_capacity() {
        let mut servers = make_view(ServerState::Up, ServerState::Up).servers().to_vec();
        servers[2].weight = 0;
        let view = BackendView::new(servers);
        assert_eq!(list_refusals(1, Ok(&view)).len(), 1);
    }

    #[test]
    fn backup_server_does_not_count_for_the_floor() {
        let servers =
            vec![make_server("main-web1", ServerState::Up), make_server("backup-web1", ServerState::Up)];
        assert_eq!(list_refusals(1, Ok(&BackendView::new(servers))).len(), 1);
    }

    #[test]
    fn observed_means_out_or_fully_up() {
        let seen = |switch, verdict| is_observed(switch, &make_server("main-web1", verdict));
        assert!(seen(Switch::Off, ServerState::Down) && seen(Switch::Off, ServerState::GoingUp));
        assert!(!seen(Switch::Off, ServerState::GoingDown) && !seen(Switch::Off, ServerState::Unknown));
        assert!(!seen(Switch::Off, ServerState::Drain), "drain keeps cookie clients");
        assert!(seen(Switch::On, ServerState::Up));
        assert!(!seen(Switch::On, ServerState::GoingDown) && !seen(Switch::On, ServerState::GoingUp));
    }

    /// Rows: Z10.
    #[test]
    fn detection_time_follows_the_formula() {
        let ms = Duration::from_millis;
        let slow = CheckTiming::default();
        assert_eq!(
            (compute_detection_time(&slow, Switch::Off), compute_detection_time(&slow, Switch::On)),
            (ms(8000), ms(6000))
        );
        let fast = CheckTiming { inter: ms(1000), fastinter: Some(ms(100)), timeout: Some(ms(500)), ..slow };
        assert_eq!(
            (compute_detection_time(&fast, Switch::Off), compute_detection_time(&fast, Switch::On)),
            (ms(1700), ms(1600))
        );
    }
}
