//! The operator's view in numbers: every host as it is seen from here, and what the journal says of the last roll and roll-out.

use super::promote;
use super::reach::{link, question};
use super::roll;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::lock::Life;
use crate::plan::metrics::fleet::{FleetNumbers, HostSeen, Journaled, ServiceNumbers};
use crate::world::FleetWorld;
use crate::world::journal::JournalError;

/// Of one or more services on the same hosts, each with its journal. What cannot be reached or read is told by the numbers
/// themselves.
pub async fn numbers(services: &[(Fleet, FleetWorld)], hosts: &[Host]) -> FleetNumbers {
    let seen = futures_util::future::join_all(hosts.iter().map(|host| seen(services, host))).await;
    let of_service = |(fleet, world): &(Fleet, FleetWorld)| ServiceNumbers {
        service: fleet.service.clone(),
        journal: journaled(world).map_err(|error| error.to_string()),
    };
    FleetNumbers { hosts: seen, services: services.iter().map(of_service).collect() }
}

/// All over one link: the first service's.
async fn seen(services: &[(Fleet, FleetWorld)], host: &Host) -> HostSeen {
    let mut seen = HostSeen { host: host.name.clone(), is_up: false, views: vec![] };
    let Some((_, world)) = services.first() else { return seen };
    let Ok(link) = link(world, host) else { return seen };
    for (fleet, _) in services {
        match link.look(&question(fleet, host)).await {
            Ok(view) => seen.views.push((fleet.service.clone(), view)),
            // Asked again, it would take as long to say nothing.
            Err(error) if error.is_lost() => {
                seen.is_up = false;
                return seen;
            }
            Err(_) => {}
        }
        seen.is_up = true;
    }
    seen
}

fn journaled(world: &FleetWorld) -> Result<Journaled, JournalError> {
    let lock = world.lock.view()?;
    Ok(Journaled {
        roll: roll::last(world)?,
        rollout: promote::last(world)?,
        is_held: lock.is_some(),
        is_alive: lock.is_some_and(|lock| lock.life != Life::Gone),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::fake::site::{FakeSite, site};

    async fn page(site: &FakeSite) -> String {
        numbers(&[(site.fleet.clone(), site.world.clone())], &site.fleet.hosts).await.page()
    }

    fn has(page: &str, line: &str) -> bool {
        page.lines().any(|one| one == line)
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_down_is_a_number_and_the_others_are_told() {
        let site = site(2, 1);
        site.site.0.lock().unwrap().hosts.get_mut(&"web1".parse().unwrap()).unwrap().reachable = false;
        let page = page(&site).await;
        assert!(has(&page, "switchman_host_up{host=\"web1\"} 0"), "{page}");
        assert!(has(&page, "switchman_host_up{host=\"web2\"} 1"), "{page}");
        assert!(has(&page, "switchman_host_forward_on{host=\"web2\",service=\"shop\"} 1"), "{page}");
        assert!(!page.contains("switchman_host_forward_on{host=\"web1\""), "{page}");
        assert!(has(&page, "switchman_roll_in_progress{service=\"shop\"} 0"), "{page}");
    }
}
