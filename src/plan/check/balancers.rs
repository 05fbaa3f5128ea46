//! Findings about the balancers and the policy of a fleet, the same on a host and on the operator machine.

use super::finding::{build_ok, build_problem, build_warning};
use crate::model::balancer::{BackendView, BalancerSpec};
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::name::HostName;
use crate::model::observation::ObservationError;

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
            "start it, or correct `haproxy:` and `backend:`",
        )),
        Some(Ok(view)) => Ok(view),
    }
}

/// A host's two server lines.
pub fn check_servers(spec: &BalancerSpec, view: &BackendView, host: &HostName) -> Vec<Finding> {
    let subject = spec.name.as_str();
    let one = |name: String| match view.find_server(&name) {
        None => build_problem(
            "no-server",
            subject,
            format!("the backend `{}` has no server `{name}`", spec.backend),
            "name it so, or set `load_balancers[].servers`",
        ),
        Some(server)
            if server.admin_state.is_some_and(|admin| admin.is_in_maintenance() || admin.is_in_drain()) =>
        {
            build_warning(
                "admin-state",
                subject,
                format!(
                    "`{name}` is {} by an operator's command on HAProxy, regardless of its checks",
                    server.status
                ),
                format!("`set server {}/{name} state ready` on its admin socket", spec.backend),
            )
        }
        Some(server) => {
            build_ok("server", subject, format!("`{name}` is {} ({})", server.status, server.last_check))
        }
    };
    vec![one(spec.servers.main_server_name(host)), one(spec.servers.backup_server_name(host))]
}

pub fn check_capacity_floor(
    fleet: &Fleet,
    spec: &BalancerSpec,
    view: &BackendView,
    host: &HostName,
) -> Option<Finding> {
    let main = spec.servers.main_server_name(host);
    let mains = view.servers().iter().filter(|server| !server.backup && server.name != main).count();
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
