//! Golden documents of the real rules: what is sent to the kernel in each scenario, and what the kernel then holds.
//! Each begins with a sentence that gives the reason. `UPDATE_GOLDEN=1 cargo nextest run golden` writes them again.

use std::fmt::Write as _;
use std::path::Path;

use switchman::model::ports::Port;
use switchman::model::rules::{DesiredRules, Family, Redirect, RedirectKind, Tables, Variant};
use switchman::plan::firewall::plan_transactions;
use switchman::sys::iptables::Iptables;
use switchman::world::firewall::Firewall;

use crate::testing::run_in_namespace;

struct Scenario {
    name: &'static str,
    why: &'static str,
    steps: Vec<DesiredRules>,
}

fn wanting(forwards: &[(&str, u16, u16)], from_self: bool) -> DesiredRules {
    let redirects = forwards
        .iter()
        .map(|&(service, port, target)| redirect(service, RedirectKind::Forward, port, target));
    DesiredRules { redirects: redirects.collect(), balancer_is_local: from_self }
}

fn redirect(service: &str, kind: RedirectKind, port: u16, target: u16) -> Redirect {
    let port_of = |number| Port::new(number).unwrap();
    let (service, one_in) = (service.parse().unwrap(), 1);
    Redirect { service, kind, port: port_of(port), one_in, target: port_of(target) }
}

/// A managed service: main and backup each at the port of its own instance.
fn managed(main: u16, backup: u16) -> DesiredRules {
    let redirects = [
        redirect("shop", RedirectKind::Forward, 8888, main),
        redirect("shop", RedirectKind::Route, 8080, main),
        redirect("shop", RedirectKind::Backup, 80, backup),
    ];
    DesiredRules { redirects: redirects.into(), balancer_is_local: false }
}

/// A managed service with three instances of main, spread over those of these ports.
fn spread(targets: &[u16]) -> DesiredRules {
    let targets: Vec<Port> = targets.iter().map(|port| Port::new(*port).unwrap()).collect();
    let kinds = [(RedirectKind::Forward, 8888), (RedirectKind::Route, 8080), (RedirectKind::Backup, 80)];
    let redirects = kinds.into_iter().flat_map(|(kind, port)| {
        Redirect::spread(&"shop".parse().unwrap(), kind, Port::new(port).unwrap(), &targets)
    });
    DesiredRules { redirects: redirects.collect(), balancer_is_local: false }
}

fn scenarios() -> Vec<Scenario> {
    let shop = ("shop", 8888, 8080);
    let blog = ("blog", 9888, 9080);
    vec![
        Scenario {
            name: "forward-on",
            why: "the first switch on a host: chain, anchor, forward and jump appear in one transaction, and the jump \
                  takes only packets for this host, so that container traffic is left alone",
            steps: vec![wanting(&[shop], false)],
        },
        Scenario {
            name: "maintenance",
            why: "maintenance takes away the forward and nothing else: the anchor's match keeps connection tracking \
                  going, without which open connections with translated ports would be cut",
            steps: vec![wanting(&[shop], false), wanting(&[], false)],
        },
        Scenario {
            name: "target-moved",
            why: "a forward that moves to another port is replaced in one transaction, never deleted and then added",
            steps: vec![wanting(&[shop], false), wanting(&[("shop", 8888, 8101)], false)],
        },
        Scenario {
            name: "two-services",
            why: "services of one host share the chain; taking one into maintenance declares the other again",
            steps: vec![wanting(&[blog, shop], false), wanting(&[blog], false)],
        },
        Scenario {
            name: "flip",
            why: "another version becomes main: check port and data port move together, to the instance's own port because \
                  REDIRECT does not chain, and the backup vhost's port follows to the last good main",
            steps: vec![managed(20001, 20001), managed(20002, 20001)],
        },
        Scenario {
            name: "instances",
            why: "three instances of main: one in three connections, then one in two of the others, then the rest, which gives \
                  each instance the same share; an instance that does not answer its health check is left out",
            steps: vec![spread(&[20001, 20002, 20003]), spread(&[20001, 20003])],
        },
        Scenario {
            name: "balancer-on-the-host",
            why: "checks of a load balancer on the host itself pass OUTPUT and not PREROUTING: only then a second jump",
            steps: vec![wanting(&[shop], true)],
        },
    ]
}

/// The transactions and the listing, the same in both variants but for the name of the command.
async fn document(scenario: &Scenario, family: Family, variant: Variant) -> String {
    let mut text = format!("# {}\n", scenario.why);
    for step in &scenario.steps {
        let mut tables = Iptables.nat(family).await.unwrap();
        // Our rules go where the command `iptables` points; each variant has its turn here.
        tables = Tables { default: variant, ..tables };
        for transaction in plan_transactions(step, &tables, family) {
            assert_eq!(transaction.variant, variant);
            Iptables.commit(&transaction).await.unwrap();
            let _ = write!(text, "\n## sent\n{}", transaction.text);
        }
        let tables = Iptables.nat(family).await.unwrap();
        assert_eq!(
            plan_transactions(step, &Tables { default: variant, ..tables.clone() }, family),
            [],
            "already so"
        );
        text.push_str("\n## in the kernel\n");
        for rule in &tables.of(variant).unwrap().rules {
            let _ = writeln!(text, "{rule}");
        }
    }
    text
}

/// Kernel rules of the host itself, and no others. Rows: H5, H6.
#[test]
fn rules_match_golden_files() {
    for variant in [Variant::NfTables, Variant::Legacy] {
        for family in [Family::V4, Family::V6] {
            for scenario in scenarios() {
                run_in_namespace(move || async move {
                    let document = document(&scenario, family, variant).await;
                    let name = format!("tests/golden/rules/{}.rules", scenario.name);
                    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
                    #[allow(clippy::disallowed_methods, reason = "a switch of the test run")]
                    if std::env::var_os("UPDATE_GOLDEN").is_some() {
                        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                        std::fs::write(&file, &document).unwrap();
                    }
                    let golden = std::fs::read_to_string(&file).unwrap_or_default();
                    assert_eq!(document, golden, "{name} ({family}, {variant})");
                });
            }
        }
    }
}
