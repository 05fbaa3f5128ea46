//! The ports of the configuration, compared with those of a host's record and kernel and with a balancer's server lines.

use crate::model::balancer::{BalancerSpec, ServerLine};
use crate::model::fleet::Fleet;
use crate::model::forward::{KernelForward, Routes, ServiceRecord};
use crate::model::name::HostName;
use crate::model::port_conflict::{PortConflict, PortSetting, PortSide};
use crate::model::ports::{Port, Ports};
use crate::plan::host_servers::find_main_line;

/// Compares the ports with what a host has: its record or, without one, the forward in its kernel.
pub fn compare_host(
    ports: Ports,
    host: &HostName,
    record: Option<&ServiceRecord>,
    kernel: &[KernelForward],
) -> Vec<PortConflict> {
    let found = match record {
        Some(ServiceRecord { forward, routes: Some(Routes { main, backup, .. }), .. }) => {
            [Some(forward.check), Some(main.port), Some(backup.port)]
        }
        Some(ServiceRecord { forward, routes: None, .. }) => {
            [Some(forward.check), Some(forward.target), None]
        }
        None => {
            let forward = kernel.iter().find_map(|family| family.forward.as_ref());
            // The target may be an instance of a managed service.
            [forward.map(|forward| forward.check), None, None]
        }
    };
    let found = found.map(|port| port.map(Port::get));
    list_conflicts(ports, found, |_| PortSide::Host(host.clone()))
}

/// Compares the ports with the lines of a host on one balancer. A line that is not there, or that has no check or no port of its own,
/// is no conflict of ports: `check` judges it.
pub fn compare_lines(
    fleet: &Fleet,
    spec: &BalancerSpec,
    host: &HostName,
    lines: &[ServerLine],
) -> Vec<PortConflict> {
    let find = |server: &str| lines.iter().find(|line| line.backend == spec.backend && line.server == server);
    // The slot of a `server-template` has its check port under another name.
    let at_address = || find_main_line(fleet, spec, host, lines);
    let main = find(&spec.servers.main_server_name(host)).or_else(at_address);
    let backup = find(&spec.servers.backup_server_name(host));
    let data_port = |line: &ServerLine| Some(line.address.port()).filter(|port| *port != 0);
    let found = [main.and_then(|line| line.check_port), main.and_then(data_port), backup.and_then(data_port)];
    list_conflicts(fleet.ports, found, |setting| {
        let line = if setting == PortSetting::Backup { backup } else { main };
        let line = line.map(ToString::to_string).unwrap_or_default();
        PortSide::Line { balancer: spec.name.clone(), line }
    })
}

/// `found`: the check port, main's data port and the backup's, where they are known.
fn list_conflicts(
    ports: Ports,
    found: [Option<u16>; 3],
    side: impl Fn(PortSetting) -> PortSide,
) -> Vec<PortConflict> {
    let settings = [
        (PortSetting::Check, ports.check),
        (PortSetting::Main, ports.main),
        (PortSetting::Backup, ports.backup),
    ];
    let pairs = settings.into_iter().zip(found);
    pairs
        .filter_map(|((setting, configured), found)| {
            let found = found.filter(|found| *found != configured.get())?;
            Some(PortConflict { side: side(setting), setting, configured, found })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balancer::ServerCounters;
    use crate::model::example::{self, make_record, port};
    use crate::model::forward::Route;
    use crate::model::port_forward::{Forward, Switch};
    use crate::model::rules::{Family, Variant};

    fn ports(check: u16, main: u16, backup: u16) -> Ports {
        Ports { check: port(check), main: port(main), backup: port(backup) }
    }

    fn texts(conflicts: &[PortConflict]) -> Vec<String> {
        conflicts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn record_has_the_ports_of_the_host() {
        let host: HostName = "web1".parse().unwrap();
        let mut record = make_record("shop", Switch::On);
        record.forward = Forward { check: port(8888), target: port(8080), ..record.forward };
        let compare = |ports, record: &ServiceRecord| texts(&compare_host(ports, &host, Some(record), &[]));
        assert_eq!(compare(ports(8888, 8080, 80), &record), [""; 0]);
        assert_eq!(
            compare(ports(8889, 8081, 81), &record),
            [
                "`web1` has check port 8888, and this configuration has `ports.check: 8889`",
                "`web1` has main port 8080, and this configuration has `ports.main: 8081`",
            ]
        );
        // A managed service: main answers on the port of its instance.
        let route = |number: u16| Route::new(port(number), "dp_0123456789".parse().unwrap(), port(20001));
        record.forward.target = port(20001);
        record.routes = Some(Routes::new(route(8080), route(80)));
        assert_eq!(compare(ports(8888, 8080, 80), &record), [""; 0]);
        assert_eq!(
            compare(ports(8888, 8080, 81), &record),
            ["`web1` has backup port 80, and this configuration has `ports.backup: 81`"]
        );
    }

    #[test]
    fn kernel_decides_without_record() {
        let host: HostName = "web1".parse().unwrap();
        let forward = Forward { service: "shop".parse().unwrap(), check: port(8888), target: port(8080) };
        let kernel = |forward| {
            [KernelForward { family: Family::V4, variant: Variant::NfTables, forward, hooked: true }]
        };
        let compare =
            |kernel: &[KernelForward]| compare_host(ports(8889, 8080, 80), &host, None, kernel).len();
        assert_eq!((compare(&kernel(Some(forward))), compare(&kernel(None)), compare(&[])), (1, 0, 0));
    }

    #[test]
    fn lines_have_the_ports_of_haproxy() {
        let spec = example::balancer("lb1", None);
        let host: HostName = "web1".parse().unwrap();
        let hosts = vec![example::host("web1", "10.0.0.11")];
        let fleet = Fleet { hosts, ports: ports(8888, 8080, 80), ..example::fleet() };
        let line = |server: String, address: &str, check_port| ServerLine {
            backend: spec.backend.clone(),
            server,
            address: address.parse().unwrap(),
            check_port,
            is_in_maintenance: false,
            work: ServerCounters::default(),
        };
        let lines = |check, main: &str, backup: &str| {
            [
                line(spec.servers.main_server_name(&host), main, check),
                line(spec.servers.backup_server_name(&host), backup, Some(80)),
            ]
        };
        let compare = |lines: &[ServerLine]| texts(&compare_lines(&fleet, &spec, &host, lines));
        assert_eq!(compare(&lines(Some(8888), "10.0.0.11:8080", "10.0.0.11:80")), [""; 0]);
        assert_eq!(compare(&[]), [""; 0]);
        let slot = line("srv7".into(), "10.0.0.11:8080", Some(8889));
        let text = format!(
            "`lb1` health-checks `{}/srv7` on port 8889, and this configuration has `ports.check: 8888`",
            spec.backend
        );
        assert_eq!(compare(&[slot]), [text], "found by its address");
        // No port: HAProxy uses the frontend's. No check: the lint judges it.
        assert_eq!(compare(&lines(None, "10.0.0.11:0", "10.0.0.11:80")), [""; 0]);
        let (main, backup) = (spec.servers.main_server_name(&host), spec.servers.backup_server_name(&host));
        let backend = &spec.backend;
        assert_eq!(
            compare(&lines(Some(8889), "10.0.0.11:9090", "10.0.0.11:81")),
            [
                format!(
                    "`lb1` health-checks `{backend}/{main}` on port 8889, and this configuration has `ports.check: 8888`"
                ),
                format!(
                    "`lb1` sends the requests of `{backend}/{main}` to port 9090, and this configuration has `ports.main: 8080`"
                ),
                format!(
                    "`lb1` sends the requests of `{backend}/{backup}` to port 81, and this configuration has `ports.backup: 80`"
                ),
            ]
        );
    }
}
