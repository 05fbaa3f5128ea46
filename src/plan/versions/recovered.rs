//! The deployments and records of a host as they are once a service's interrupted changes are repaired.

use super::{Recovery, detach, find_record, plan_recovery};
use crate::model::deployment::{Deployment, Stage};
use crate::model::forward::ServiceRecord;
use crate::model::history::Actor;
use crate::model::name::ServiceName;

/// Computes what the repair of a service leaves: for a dry run, which repairs nothing. Other services stay as they are.
pub fn project_recovery(
    records: &[ServiceRecord],
    existing: &[Deployment],
    service: &ServiceName,
    actor: &Actor,
) -> (Vec<ServiceRecord>, Vec<Deployment>) {
    let mut records = records.to_vec();
    let mut left = Vec::new();
    for deployment in existing {
        let recovery = plan_recovery(&records, deployment).filter(|_| deployment.service == *service);
        match recovery {
            None => left.push(deployment.clone()),
            Some(Recovery::Remove) => {}
            Some(Recovery::FinishKill) => remove_routes(&mut records, deployment, actor),
            Some(Recovery::MarkReady | Recovery::RemoveNext) => left.push(mark_ready(deployment)),
            Some(Recovery::FinishUpdate) => {
                let updated = mark_ready(deployment);
                left.push(match deployment.other_instance.clone() {
                    Some(next) => updated.replace_instance(next),
                    None => updated,
                });
            }
        }
    }
    (records, left)
}

fn mark_ready(deployment: &Deployment) -> Deployment {
    Deployment { stage: Stage::Ready, other_instance: None, ..deployment.clone() }
}

fn remove_routes(records: &mut [ServiceRecord], deployment: &Deployment, actor: &Actor) {
    let record = find_record(records, &deployment.service);
    let Some(after) = record.and_then(|record| {
        let intent = detach(record, deployment, actor)?;
        Some(ServiceRecord::from_intent(Some(record), &intent, record.changed_at))
    }) else {
        return;
    };
    if let Some(record) = records.iter_mut().find(|record| record.forward.service == deployment.service) {
        *record = after;
    }
}
