//! Findings of `check` about hosts on which the service is private.

use super::finding::{build_note, build_warning};
use crate::model::api::HostView;
use crate::model::deployment::Access;
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::forward::ServiceRecord;
use crate::model::host::Host;
use crate::model::name::HostName;

pub(super) fn is_private(view: &HostView) -> bool {
    let record = view.record.as_ref().ok().and_then(Option::as_ref);
    record.is_some_and(|record| record.access == Access::Private)
}

/// The note on a host where no port routes to the service, on purpose.
pub(super) fn build_private_finding(host: &Host, record: &ServiceRecord) -> Finding {
    let (subject, service) = (host.name.as_str(), &record.forward.service);
    build_note(
        "service-private",
        subject,
        format!(
            "`{service}` is private since {:.0}: no port is forwarded, and load balancers mark it DOWN",
            record.changed_at
        ),
        format!("`switchman access {service} public --host {subject}` forwards its ports again"),
    )
}

/// A service that is public on some hosts only: on purpose during a change, and otherwise a command that ended halfway.
pub(super) fn check_access_differs(fleet: &Fleet, views: &[(&HostName, &HostView)]) -> Option<Finding> {
    let recorded = views.iter().filter(|(_, view)| matches!(view.record, Ok(Some(_))));
    let (private, public): (Vec<_>, Vec<_>) = recorded.partition(|(_, view)| is_private(view));
    if private.is_empty() || public.is_empty() {
        return None;
    }
    let join = |hosts: &[(&HostName, &HostView)]| {
        hosts.iter().map(|(host, _)| host.as_str()).collect::<Vec<_>>().join(", ")
    };
    let service = &fleet.service;
    let flags: String = private.iter().map(|(host, _)| format!(" --host {host}")).collect();
    Some(build_warning(
        "access-differs",
        service.as_str(),
        format!("`{service}` is private on {} and public on {}", join(&private), join(&public)),
        format!(
            "`switchman access {service} public{flags}`, or `switchman access {service} private` on every host"
        ),
    ))
}
