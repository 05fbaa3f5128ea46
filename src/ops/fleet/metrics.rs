//! The operator's view in numbers: every host as this machine observes it, and the last roll and promotion of the journal.

use super::promote;
use super::reach::{build_status_request, find_link};
use super::roll;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::lock::Liveness;
use crate::plan::metrics::fleet::FleetMetrics;
use crate::plan::metrics::fleet::snapshot::{HostSnapshot, JournalSnapshot, ServiceSnapshot};
use crate::world::FleetWorld;
use crate::world::journal_store::JournalError;

/// Collects the numbers of one or more services on the same hosts, each with its journal. Hosts and journals that cannot be
/// read are reported by metrics of their own.
pub async fn collect_numbers(services: &[(Fleet, FleetWorld)], hosts: &[Host]) -> FleetMetrics {
    let snapshots = futures_util::future::join_all(hosts.iter().map(|host| read_host(services, host))).await;
    let of_service = async |(fleet, world): &(Fleet, FleetWorld)| ServiceSnapshot {
        service: fleet.service.clone(),
        journal: read_journal(world).await.map_err(|error| error.to_string()),
    };
    let services = futures_util::future::join_all(services.iter().map(of_service)).await;
    FleetMetrics { hosts: snapshots, services }
}

/// Reads the views of all services over the link of the first one.
async fn read_host(services: &[(Fleet, FleetWorld)], host: &Host) -> HostSnapshot {
    let mut snapshot = HostSnapshot { host: host.name.clone(), is_up: false, views: vec![] };
    let Some((_, world)) = services.first() else { return snapshot };
    let Ok(link) = find_link(world, host) else { return snapshot };
    for (fleet, _) in services {
        match link.fetch_status(&build_status_request(fleet, host)).await {
            Ok(view) => snapshot.views.push((fleet.service.clone(), view)),
            // Another request would take as long to fail.
            Err(error) if error.is_connection_lost() => {
                snapshot.is_up = false;
                return snapshot;
            }
            Err(_) => {}
        }
        snapshot.is_up = true;
    }
    snapshot
}

async fn read_journal(world: &FleetWorld) -> Result<JournalSnapshot, JournalError> {
    let lock = world.lock.read_holder().await?;
    Ok(JournalSnapshot {
        roll: roll::read_last(world).await?,
        promotion: promote::read_last(world).await?,
        is_locked: lock.is_some(),
        is_holder_alive: lock.is_some_and(|lock| lock.liveness != Liveness::Dead),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::site::{FakeSite, site};

    async fn render_page(site: &FakeSite) -> String {
        collect_numbers(&[(site.fleet.clone(), site.world.clone())], &site.fleet.hosts).await.render()
    }

    fn has_line(page: &str, line: &str) -> bool {
        page.lines().any(|one| one == line)
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_report_unreachable_host_as_down() {
        let site = site(2, 1);
        site.site.0.lock().unwrap().hosts.get_mut(&"web1".parse().unwrap()).unwrap().is_reachable = false;
        let page = render_page(&site).await;
        assert!(has_line(&page, "switchman_host_up{host=\"web1\"} 0"), "{page}");
        assert!(has_line(&page, "switchman_host_up{host=\"web2\"} 1"), "{page}");
        assert!(has_line(&page, "switchman_host_forward_on{host=\"web2\",service=\"shop\"} 1"), "{page}");
        assert!(!page.contains("switchman_host_forward_on{host=\"web1\""), "{page}");
        assert!(has_line(&page, "switchman_roll_in_progress{service=\"shop\"} 0"), "{page}");
    }
}
