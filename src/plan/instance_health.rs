//! Which of several instances of a version get new connections, by their latest health checks.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::deployment::{Deployment, Stage};
use crate::model::forward::Routes;
use crate::model::ports::Port;

/// The healthy answers in a row of each instance, by its port; 0: the latest check failed. An instance that was not checked yet is
/// not among them.
pub type PassedChecks = BTreeMap<Port, u32>;

/// Lists the ports whose health decides about the connections of a version with several instances. Of an update, the new instance
/// counts once connections are routed to it, and the old one until it is to end.
pub fn list_checked_ports(deployment: &Deployment, routes: &Routes) -> Vec<Port> {
    let is_serving = matches!(deployment.stage, Stage::Ready | Stage::Updating | Stage::Retiring);
    if !is_serving || !deployment.has_several_instances() {
        return vec![];
    }
    let is_routed = |port: Port| {
        let routes = [&routes.main, &routes.backup];
        routes.iter().any(|route| route.deployment == deployment.id && route.targets().any(|to| to == port))
    };
    let next = deployment.other_instance.iter().map(|instance| instance.port).filter(|port| is_routed(*port));
    deployment.active_instances().map(|instance| instance.port).chain(next).collect()
}

/// Decides which ports get no new connection. An instance whose check fails is out at once, and in again after as many healthy answers
/// in a row as its health check requires. Where no instance of a version is healthy, nothing changes for the version.
pub fn decide_unhealthy(
    deployments: &[Deployment],
    routes: &Routes,
    passed: &PassedChecks,
) -> BTreeSet<Port> {
    let mut unhealthy = BTreeSet::new();
    for deployment in deployments {
        let ports = list_checked_ports(deployment, routes);
        let is_out = |port: &Port| {
            let was_out = routes.unhealthy.contains(port);
            passed
                .get(port)
                .map_or(was_out, |&count| count == 0 || (was_out && count < deployment.health.rise))
        };
        let out: BTreeSet<Port> = ports.iter().copied().filter(is_out).collect();
        if out.len() < ports.len() {
            unhealthy.extend(out);
        } else {
            unhealthy.extend(ports.iter().filter(|port| routes.unhealthy.contains(port)));
        }
    }
    unhealthy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example::{self, port};
    use crate::model::forward::Route;

    fn make_deployment(version: &str, ports: &[u16]) -> Deployment {
        let mut one = example::deployment("shop", version, ports[0]);
        let more = (2..).zip(&ports[1..]);
        let instance = one.instance.clone();
        one.more_instances = more
            .map(|(number, at)| crate::model::deployment::Instance {
                number,
                port: port(*at),
                ..instance.clone()
            })
            .collect();
        one
    }

    fn make_routes(main: &Deployment, out: &[u16]) -> Routes {
        let route = |at| Route {
            more_targets: main.more_instances.iter().map(|one| one.port).collect(),
            ..Route::new(port(at), main.id.clone(), main.instance.port)
        };
        let unhealthy = out.iter().map(|at| port(*at)).collect();
        Routes { unhealthy, ..Routes::new(route(8080), route(80)) }
    }

    /// Decides for three instances of main, of which `out` are out, by the healthy answers of each.
    fn decide(out: &[u16], passed: [u32; 3]) -> Vec<u16> {
        let main = make_deployment("1.0.0", &[20001, 20002, 20003]);
        let passed = [20001, 20002, 20003].map(port).into_iter().zip(passed).collect();
        let decided = decide_unhealthy(std::slice::from_ref(&main), &make_routes(&main, out), &passed);
        decided.into_iter().map(Port::get).collect()
    }

    #[test]
    fn failing_instance_is_out_at_once_and_in_after_rise() {
        assert_eq!(decide(&[], [9, 0, 9]), [20002]);
        assert_eq!(decide(&[20002], [9, 1, 9]), [20002], "rise is 2");
        assert_eq!(decide(&[20002], [9, 2, 9]), [0u16; 0]);
        assert_eq!(decide(&[], [1, 1, 1]), [0u16; 0], "an instance that was never out needs no rise");
    }

    #[test]
    fn nothing_changes_if_no_instance_is_healthy() {
        assert_eq!(decide(&[], [0, 0, 0]), [0u16; 0]);
        assert_eq!(decide(&[20001, 20002], [0, 0, 0]), [20001, 20002]);
        assert_eq!(
            decide(&[20001, 20002], [2, 0, 0]),
            [20002, 20003],
            "the one that is back answers for all"
        );
    }

    #[test]
    fn unchecked_instance_stays_as_it_is() {
        let main = make_deployment("1.0.0", &[20001, 20002]);
        let decide = |out: &[u16]| {
            decide_unhealthy(std::slice::from_ref(&main), &make_routes(&main, out), &BTreeMap::new())
        };
        assert_eq!((decide(&[]).len(), decide(&[20002]).len()), (0, 1));
    }

    #[test]
    fn ports_of_removed_and_single_instances_are_left_out() {
        let main = make_deployment("1.0.0", &[20001]);
        let shadow = make_deployment("2.0.0", &[20002, 20003]);
        let killing = Deployment { stage: Stage::Killing, ..make_deployment("3.0.0", &[20004, 20005]) };
        let routes = make_routes(&main, &[20001, 20004, 20009]);
        let passed = [(20001, 0), (20002, 5), (20003, 0), (20004, 0)];
        let passed = passed.map(|(at, count)| (port(at), count)).into();
        let decided = decide_unhealthy(&[main, shadow, killing], &routes, &passed);
        assert_eq!(decided, BTreeSet::from([port(20003)]));
    }

    #[test]
    fn new_instance_of_an_update_counts_once_it_is_routed() {
        let mut main = make_deployment("1.0.0", &[20001, 20002]);
        main.stage = Stage::Updating;
        main.other_instance =
            Some(crate::model::deployment::Instance { port: port(20005), ..main.instance.clone() });
        let mut routes = make_routes(&main, &[]);
        assert_eq!(list_checked_ports(&main, &routes), [20001, 20002].map(port));
        routes.main.target = port(20005);
        assert_eq!(list_checked_ports(&main, &routes), [20001, 20002, 20005].map(port));
    }
}
