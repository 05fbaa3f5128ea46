//! `check`: looks for everything that would lose requests, and gives a fix for each problem.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::lint::{self, HaproxyCfg};
use crate::model::boot::StartedBy;
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::forward::ServiceRecord;
use crate::model::history::HistoryEntry;
use crate::model::host::Host;
use crate::model::name::ServiceName;
use crate::model::observation::ObservationError;
use crate::model::packet_proof::PacketProof;
use crate::model::ports::Port;
use crate::model::rules::{Family, Table, Tables};
use crate::plan::check::collect_findings;
use crate::plan::check::facts::{CheckFacts, VhostPacket};
use crate::plan::check::root_programs::find_root_programs;
use crate::plan::firewall::choose_variant;
use crate::world::HostWorld;

use super::packet_proof;
use super::port_sockets::resolve_target;
use super::rules;
use super::status;

pub async fn check(world: &HostWorld, fleet: &Fleet, host: &Host, cfg: Option<&HaproxyCfg>) -> Vec<Finding> {
    let facts = collect_facts(world, fleet, host).await;
    let mut all = collect_findings(fleet, &facts);
    all.extend(lint::lint_haproxy(fleet, cfg));
    all
}

async fn collect_facts(world: &HostWorld, fleet: &Fleet, host: &Host) -> CheckFacts {
    let recorded = world.store.load_records();
    let backup =
        SocketAddr::new(host.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), fleet.ports.backup.get());
    // Of a managed service nothing listens on the data ports: its instances answer.
    let target = |address| resolve_target(recorded.as_deref().unwrap_or_default(), address);
    let [main, backup] = [fleet.main_endpoint(host), backup].map(target);
    let record = recorded.iter().flatten().find(|record| record.forward.service == fleet.service);
    let is_managed = record.is_some_and(|record| record.routes.is_some());
    let find_vhost = |port| if is_managed { vec![] } else { find_listeners(world, port) };
    let [main_listeners, backup_listeners] = [fleet.ports.main, fleet.ports.backup].map(find_vhost);
    let (tables, native, views, main_health, backup_health) = tokio::join!(
        rules::observe(world),
        world.firewall.read_native_rules(),
        futures_util::future::join_all(world.balancers.iter().map(|balancer| balancer.read())),
        world.probe.check(main, &fleet.health),
        world.probe.check(backup, &fleet.health),
    );
    let filters = match &tables {
        Ok(tables) => read_filters(world, tables).await,
        Err(_) => vec![],
    };
    let vhosts = [
        ("main", fleet.ports.main, main_health.is_ok()),
        ("backup", fleet.ports.backup, backup_health.is_ok()),
    ];
    let (check_port_packet, vhost_packets) = send_packets(world, fleet, host, record, vhosts).await;
    let drift = match (&recorded, &tables) {
        (Ok(recorded), Ok(tables)) => status::describe_drift(recorded, tables),
        _ => vec![],
    };
    let view = |spec: &crate::model::balancer::BalancerSpec| {
        let at = world.balancers.iter().position(|balancer| balancer.spec().name == spec.name)?;
        views.get(at).map(|view| view.as_ref().map(|view| (**view).clone()).map_err(ObservationError::new))
    };
    CheckFacts {
        host: host.clone(),
        can_change_rules: world.machine.can_change_rules().map_err(ObservationError::new),
        tables: tables.map_err(ObservationError::new),
        native_rules: native.map_err(ObservationError::new),
        ipv6_obstacle: rules::find_ipv6_obstacle(world).await.map(ObservationError::new),
        hidden_legacy: world.firewall.list_hidden_legacy().await,
        client_ports: world.machine.read_client_ports(),
        filters,
        records: recorded.map_err(ObservationError::new),
        last_entry: find_last_entry(world, &fleet.service),
        drift,
        root_programs: find_root_programs(
            &world.deployments.all().unwrap_or_default(),
            world.runner.is_root(),
        ),
        booted_at: world.machine.read_boot_time().ok(),
        check_port_listeners: find_listeners(world, fleet.ports.check),
        vhost_starters: [&main_listeners, &backup_listeners].map(|listeners| list_starters(world, listeners)),
        is_agent_running: world.machine.find_installed_agent(),
        answering_ports: [main, backup].map(|address| Port::new(address.port()).unwrap_or(fleet.ports.main)),
        main_port_listeners: main_listeners,
        backup_port_listeners: backup_listeners,
        addresses: world.machine.list_addresses().unwrap_or_default(),
        check_port_packet,
        vhost_packets,
        main_health: main_health.map_err(ObservationError::new),
        backup_health: backup_health.map_err(ObservationError::new),
        balancers: fleet.balancers.iter().map(view).collect(),
    }
}

/// Sends packets to the check port, and to the data ports of the vhosts that answer on this host.
async fn send_packets(
    world: &HostWorld,
    fleet: &Fleet,
    host: &Host,
    record: Option<&ServiceRecord>,
    vhosts: [(&'static str, Port, bool); 2],
) -> (Option<PacketProof>, Vec<VhostPacket>) {
    let addresses = [fleet.main_endpoint(host).ip()];
    let check_port = match record {
        Some(record) => {
            // The data port is looked at below, in a maintenance too.
            let proof = packet_proof::prove_forward(world, record, &addresses).await;
            Some(PacketProof { data: None, ..proof })
        }
        None => None,
    };
    let mut packets = Vec::new();
    // Redirects of a managed service are compared with the record: a difference is drift, and no filter.
    let is_direct = |port| record.is_none_or(|record| record.effective_targets(port) == [port]);
    for (vhost, port, _) in vhosts.into_iter().filter(|(_, port, answers)| *answers && is_direct(*port)) {
        let proof = packet_proof::prove_data_port(world, port, port, &addresses).await;
        packets.push(VhostPacket { vhost, proof });
    }
    (check_port, packets)
}

async fn read_filters(
    world: &HostWorld,
    tables: &[(Family, Tables)],
) -> Vec<(Family, Result<Table, ObservationError>)> {
    let read = tables.iter().map(async |(family, tables)| {
        let table = world.firewall.filter(*family, choose_variant(tables)).await;
        (*family, table.map_err(ObservationError::new))
    });
    futures_util::future::join_all(read).await
}

/// Lists the starters of these processes, each once.
fn list_starters(world: &HostWorld, listeners: &[(u32, String)]) -> Vec<StartedBy> {
    let mut starters: Vec<StartedBy> = Vec::new();
    for starter in listeners.iter().filter_map(|(pid, _)| world.machine.find_starter(*pid)) {
        if !starters.contains(&starter) {
            starters.push(starter);
        }
    }
    starters
}

/// How many rows to search for a change: programs that were run are none.
const HISTORY_LIMIT: u32 = 100;

fn find_last_entry(world: &HostWorld, service: &ServiceName) -> Option<HistoryEntry> {
    let rows = world.store.load_history(Some(service), HISTORY_LIMIT).ok()?;
    rows.into_iter().rev().find(|entry| !entry.is_run())
}

fn find_listeners(world: &HostWorld, port: Port) -> Vec<(u32, String)> {
    let found = world.machine.list_listeners(port).unwrap_or_default();
    found.into_iter().map(|listener| (listener.pid, listener.name)).collect()
}
