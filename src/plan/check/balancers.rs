//! Findings about the balancers and the policy of a fleet, the same on a host and on the operator machine.

use super::check_code::{explain_failed_check, format_check_command};
use super::finding::{build_ok, build_problem, build_warning};
use crate::model::balancer::{AdminState, BackendView, BalancerSpec, ServerState, ServerView};
use crate::model::deployment::Access;
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::forward::ServiceRecord;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::model::observation::ObservationError;
use crate::model::port_forward::Switch;
use crate::plan::host_servers::{HostServer, find_backup, find_main};

/// Returns the view of a balancer, or the finding that it could not be read.
pub fn require_view<'a>(
    spec: &BalancerSpec,
    view: Option<&'a Result<BackendView, ObservationError>>,
) -> Result<&'a BackendView, Finding> {
    let subject = spec.name.as_str();
    match view {
        None => Err(build_warning(
            "balancer-not-read",
            subject,
            "no `haproxy:`: nothing is checked before a switch, and only a computed bound is waited after it",
            "add its stats socket or statistics page",
        )),
        Some(Err(error)) => Err(build_problem(
            "balancer-unreadable",
            subject,
            error.clone(),
            "start it, or correct `haproxy:` (a `stats socket` of its configuration, or its statistics page) and `backend:`",
        )),
        Some(Ok(view)) => Ok(view),
    }
}

/// Returns whether HAProxy should find main UP: the forward is on, recorded and in the kernel, and main is healthy.
pub fn expects_main_up(
    record: Option<&ServiceRecord>,
    drift: &[String],
    main_health: &Result<(), ObservationError>,
) -> bool {
    let is_on = |record: &ServiceRecord| record.switch == Switch::On && record.access == Access::Public;
    record.is_some_and(is_on) && drift.is_empty() && main_health.is_ok()
}

/// A host's two server lines.
pub fn check_servers(
    fleet: &Fleet,
    spec: &BalancerSpec,
    view: &BackendView,
    host: &Host,
    expects_main_up: bool,
) -> Vec<Finding> {
    let main = find_main(fleet, spec, &host.name, view);
    let backup = find_backup(fleet, spec, &host.name, view);
    let mut all = check_server(spec, view, &main, |server| {
        let is_out = matches!(server.state, ServerState::Down | ServerState::Stopping);
        (expects_main_up && is_out).then(|| check_main_down(fleet, spec, host, &main.label, server))
    });
    all.extend(check_server(spec, view, &backup, |server| {
        (!server.state.is_up()).then(|| check_backup_not_up(fleet, spec, host, &backup.label, server))
    }));
    all
}

/// A server line: its administrative state, and what is wrong with it.
fn check_server(
    spec: &BalancerSpec,
    view: &BackendView,
    found: &HostServer<'_>,
    find_problem: impl FnOnce(&ServerView) -> Option<Finding>,
) -> Vec<Finding> {
    let subject = spec.name.as_str();
    let HostServer { name, label, endpoint, view: server } = found;
    let Some(server) = server else {
        // The address is worth a word only where the balancer reports addresses.
        let has_addresses = view.servers().iter().any(|server| server.address.is_some());
        let address = endpoint
            .filter(|_| has_addresses)
            .map(|address| format!(", and none with the address `{address}`"));
        return vec![build_problem(
            "no-server",
            subject,
            format!("the backend `{}` has no server `{name}`{}", spec.backend, address.unwrap_or_default()),
            "add a server with the address and port of the vhost; `load_balancers[].servers` sets the name",
        )];
    };
    let is_held = match server.admin_state {
        Some(admin) => admin.is_in_maintenance() || admin.is_in_drain(),
        // The statistics page has no administrative state: MAINT is one, as no check sets it.
        None => server.state == ServerState::Maint,
    };
    let held = is_held.then(|| {
        build_warning(
            "admin-state",
            subject,
            format!(
                "`{label}` is {} by an operator's command on HAProxy, regardless of its checks",
                server.status
            ),
            format!("`set server {}/{name} state ready` on its admin socket", spec.backend),
        )
    });
    let found: Vec<Finding> = held.into_iter().chain(find_problem(server)).collect();
    if found.is_empty() {
        return vec![build_ok("server", subject, format!("`{label}` is {}", format_state(server)))];
    }
    found
}

/// `DOWN (L4CON)`.
fn format_state(server: &ServerView) -> String {
    let result = if server.last_check.is_empty() { "no result of a check" } else { &server.last_check };
    format!("{} ({result})", server.status)
}

fn check_main_down(
    fleet: &Fleet,
    spec: &BalancerSpec,
    host: &Host,
    label: &str,
    server: &ServerView,
) -> Finding {
    let port = fleet.ports.check;
    build_problem(
        "main-down",
        spec.name.as_str(),
        format!(
            "`{label}` is {} while the forward is on and main is healthy: {}",
            format_state(server),
            explain_failed_check(server, port)
        ),
        format!(
            "on the balancer, {} shows what its check gets; `switchman check --haproxy-cfg FILE` checks the line",
            format_check_command(fleet, host, port)
        ),
    )
}

fn check_backup_not_up(
    fleet: &Fleet,
    spec: &BalancerSpec,
    host: &Host,
    label: &str,
    server: &ServerView,
) -> Finding {
    let port = fleet.ports.backup;
    build_problem(
        "backup-not-up",
        spec.name.as_str(),
        format!(
            "`{label}` is {}, so `{}` may not be taken out: {}",
            format_state(server),
            host.name,
            explain_failed_check(server, port)
        ),
        format!(
            "start the backup vhost if it is not running; on the balancer, {} shows what its check gets",
            format_check_command(fleet, host, port)
        ),
    )
}

pub fn check_capacity_floor(
    fleet: &Fleet,
    spec: &BalancerSpec,
    view: &BackendView,
    host: &HostName,
) -> Option<Finding> {
    let main = find_main(fleet, spec, host, view).name;
    let is_empty_slot = |server: &ServerView| server.admin_state.is_some_and(AdminState::is_unresolved);
    let is_other = |server: &&ServerView| !server.backup && server.name != main && !is_empty_slot(server);
    let mains = view.servers().iter().filter(is_other).count();
    (mains < usize::try_from(fleet.limits.min_up).unwrap_or(usize::MAX)).then(|| {
        build_warning("floor-never-met",
            spec.name.as_str(),
            format!("there are {mains} other main servers, `roll.min_up` requires {}: every disable-forward is refused", fleet.limits.min_up),
            "lower `roll.min_up`",
        )
    })
}

/// Findings from the configuration alone.
pub fn check_policy(fleet: &Fleet) -> Vec<Finding> {
    let mut all = Vec::new();
    if fleet.balancers.is_empty() {
        all.push(build_warning(
            "no-balancers",
            "switchman.yaml",
            "no `load_balancers`: nothing is checked before a switch, and nothing waited for after it",
            "add them, each with `haproxy:` so that its state can be read",
        ));
    }
    let hosts = fleet.hosts.len();
    let batch = fleet.roll.batch.size(hosts).min(hosts);
    let (left, min_up) = (hosts - batch, fleet.limits.min_up);
    if hosts > 0 && left < usize::try_from(min_up).unwrap_or(usize::MAX) {
        all.push(build_warning("batch-below-floor",
            "switchman.yaml",
            format!("a batch of {batch} leaves {left} of {hosts} hosts, `roll.min_up` requires {min_up}: every `roll` over all hosts is refused"),
            "take a smaller `roll.batch`, or lower `roll.min_up`",
        ));
    }
    all
}
