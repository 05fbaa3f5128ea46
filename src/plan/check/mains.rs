//! Findings of `check` about hosts with different mains.

use super::finding::{build_note, build_warning};
use crate::model::balancer::BackendView;
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::host_main::HostMain;
use crate::model::observation::ObservationError;
use crate::plan::host_servers::find_main;
use crate::plan::mains::{MainWeights, find_cause, find_difference};
use crate::plan::promote::PromotionProgress;
use crate::plan::roll::progress::RollProgress;

/// Two versions answer the users of one service: on purpose where an operation explains it, and a mistake where none does.
pub fn check_mains(
    fleet: &Fleet,
    mains: &[HostMain],
    balancers: &[Option<Result<BackendView, ObservationError>>],
    roll: Option<&RollProgress>,
    promotion: Option<&PromotionProgress>,
) -> Option<Finding> {
    let weights = fleet.balancers.iter().zip(balancers).filter_map(|(spec, view)| {
        let view = view.as_ref()?.as_ref().ok()?;
        let weight = |main: &HostMain| {
            let server = find_main(fleet, spec, &main.host, view).view?;
            Some((main.host.clone(), server.weight))
        };
        Some(mains.iter().filter_map(weight).collect::<MainWeights>())
    });
    let cause = find_cause(mains, roll, promotion, &weights.collect::<Vec<_>>());
    let difference = find_difference(&fleet.service, mains, cause)?;
    // Hosts get their first deployment one after another.
    let is_expected =
        difference.cause.is_some() || difference.groups.iter().any(|group| group.version.is_none());
    let build = if is_expected { build_note } else { build_warning };
    let (subject, fix) = (fleet.service.as_str(), difference.describe_next());
    Some(build("mains-differ", subject, difference.to_string(), fix))
}
