//! The host's half of `status`: the record, the kernel's rules, sockets and main's health at one moment.

use crate::model::api::{HostView, StatusRequest};
use crate::model::forward::{KernelForward, ServiceRecord};
use crate::model::history::{HistoryEntry, Phase};
use crate::model::name::ServiceName;
use crate::model::observation::ObservationError;
use crate::model::registration::RegistrationState;
use crate::model::rules::{Family, RedirectKind, Tables};
use crate::model::version::Version;
use crate::plan::drain;
use crate::plan::firewall;
use crate::plan::versions;
use crate::world::HostWorld;

use super::{packet_proof, port_sockets, rules};

/// How many entries of the history are read for the last change.
const HISTORY_LIMIT: u32 = 100;

/// Collects the host's half of `status`.
pub async fn read_view(world: &HostWorld, question: &StatusRequest) -> HostView {
    let recorded = world.store.load_records();
    let records = recorded.as_deref().unwrap_or_default();
    let record = records.iter().find(|record| record.forward.service == question.service);
    let packet = async {
        let record = record.filter(|_| question.send_packet)?;
        Some(packet_proof::prove_forward(world, record, &question.addresses).await)
    };
    let (tables, packet, sockets, health) = tokio::join!(
        rules::observe(world),
        packet,
        port_sockets::read_port_sockets(world, record, question.ports.main),
        world.probe.check(port_sockets::resolve_target(records, question.main), &question.health),
    );
    let mine = |records: &Vec<ServiceRecord>| {
        records.iter().find(|record| record.forward.service == question.service).cloned()
    };
    let drift = match (&recorded, &tables) {
        (Ok(recorded), Ok(tables)) => describe_drift(recorded, tables),
        _ => vec![],
    };
    let mut history = world.store.load_history(Some(&question.service), HISTORY_LIMIT).unwrap_or_default();
    history.retain(|entry| !entry.is_run());
    HostView {
        record: recorded.as_ref().map(mine).map_err(ObservationError::new),
        kernel: tables
            .map(|tables| extract_kernel_forwards(&question.service, &tables))
            .map_err(ObservationError::new),
        drift: drift.into_iter().chain(describe_unfinished_change(history.last())).collect(),
        main_sockets: sockets
            .map(|sockets| drain::count_activities(&sockets, &[]).0)
            .map_err(ObservationError::new),
        main_health: health.map_err(ObservationError::new),
        main_version: record.and_then(|record| find_main_version(world, record)),
        last_entry: versions::find_last_change(&history).cloned(),
        packet,
        registration: load_registration(world, &question.service),
    }
}

/// Reads the registration that the agent has recorded. The record of one that cannot be read is a problem of its own.
fn load_registration(world: &HostWorld, service: &ServiceName) -> Option<RegistrationState> {
    match world.store.load_registrations() {
        Ok(mut all) => all.remove(service),
        Err(error) => Some(RegistrationState { problem: Some(error.to_string()), ..Default::default() }),
    }
}

fn find_main_version(world: &HostWorld, record: &ServiceRecord) -> Option<Version> {
    let main = &record.routes.as_ref()?.main.deployment;
    world.deployments.all().ok()?.into_iter().find(|one| one.id == *main).map(|one| one.version)
}

fn extract_kernel_forwards(service: &ServiceName, tables: &[(Family, Tables)]) -> Vec<KernelForward> {
    let one = |(family, tables): &(Family, Tables)| {
        let variant = firewall::choose_variant(tables);
        let table = tables.of(variant);
        let mut forwards = table.map(firewall::read_forwards).unwrap_or_default();
        forwards.retain(|forward| &forward.service == service);
        let hooked = table.is_some_and(|table| firewall::is_hooked(table, false));
        KernelForward { family: *family, variant, forward: forwards.pop(), hooked }
    };
    tables.iter().map(one).collect()
}

/// Describes what `restore` would change, as sentences.
pub fn describe_drift(recorded: &[ServiceRecord], tables: &[(Family, Tables)]) -> Vec<String> {
    if recorded.is_empty() {
        return vec![];
    }
    let wanted = rules::compute_desired(recorded, tables);
    let differing = tables
        .iter()
        .filter(|(family, tables)| !firewall::plan_transactions(&wanted, tables, *family).is_empty());
    differing
        .map(|(family, tables)| {
            let on = wanted.redirects.iter().filter(|redirect| redirect.kind == RedirectKind::Forward);
            let on = on.map(|redirect| redirect.service.as_str()).collect::<Vec<_>>().join(", ");
            let recorded = if on.is_empty() { "no forward on".to_owned() } else { format!("the forward of {on} on") };
            let variant = firewall::choose_variant(tables);
            format!("{family} ({variant}): the kernel's rules differ from the record ({recorded}); `switchman restore` repairs it")
        })
        .collect()
}

/// A change whose end is not in the history was cut off between two steps.
fn describe_unfinished_change(last: Option<&HistoryEntry>) -> Option<String> {
    let last = last.filter(|entry| entry.phase == Phase::Began)?;
    Some(format!(
        "`{}` by {} began at {:.0} and its end is not recorded: still running, or killed",
        last.action, last.actor, last.at
    ))
}
